"""util.core.cli: a command ends with an exit code, whatever happens in it."""

import os
import signal
import subprocess
import sys

import pytest

from util.core import cli
from util.core.errors import Stopped, UserError


@pytest.fixture
def parser():
    parser = cli.OneLineParser(prog="it")
    parser.add_argument("-n", type=cli.count, default=1)
    return parser


def test_command_gives_the_options_to_its_function(parser):
    assert cli.command(parser, lambda args: args.n, ["-n", "3"]) == 3


@pytest.mark.parametrize("error, code", [(UserError, 2), (Stopped, 1)])
def test_error_of_a_command_is_one_line(parser, capsys, error, code):
    def run(args):
        raise error("two\n lines")

    assert cli.command(parser, run, []) == code
    assert capsys.readouterr().err == "error: two lines\n"


@pytest.mark.parametrize(
    "error, told",
    [
        (FileNotFoundError(2, "No such file", "a.json"), "a.json: No such file"),
        (OSError(28, "No space left"), "[Errno 28] No space left"),
        (TimeoutError(), "TimeoutError"),
    ],
)
def test_what_the_system_refuses_is_one_line(parser, capsys, error, told):
    def run(args):
        raise error

    assert cli.command(parser, run, []) == 2
    assert capsys.readouterr().err == f"error: {told}\n"


def test_wrong_option_of_a_command_is_one_line(parser, capsys):
    with pytest.raises(SystemExit) as exit:
        cli.command(parser, lambda args: 0, ["-n", "0"])
    assert exit.value.code == 2
    assert capsys.readouterr().err == (
        "error: argument -n: '0' is not a whole number above 0 (-h shows all options)\n"
    )


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_to_end_clears_away_what_is_half_done(parser, capsys, number, code):
    cleared = []
    before = signal.signal(number, signal.SIG_DFL)  # nohup

    def run(args):
        try:
            os.kill(os.getpid(), number)
            signal.pause()
        finally:
            cleared.append(True)

    try:
        assert cli.command(parser, run, []) == code
        assert cleared and "ended by SIG" in capsys.readouterr().err
        assert signal.getsignal(number) is signal.SIG_DFL
    finally:
        signal.signal(number, before)


def test_a_signal_that_is_ignored_stays_so(parser):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nohup
    try:
        run = lambda args: os.kill(os.getpid(), signal.SIGHUP)  # noqa: E731
        assert cli.command(parser, run, []) is None
    finally:
        signal.signal(signal.SIGHUP, before)


def test_commands_load_where_there_are_no_terminals_to_close():
    """As on Windows, which has neither signal."""
    code = (
        "import signal; del signal.SIGHUP, signal.SIGPIPE\n"
        "from util.core import cli, signals\n"
        "assert signals.ENDINGS == (signal.SIGTERM,)\n"
        "with signals.Listener() as listener:\n"
        "    assert cli.exit_code(lambda: 3) == 3 and not listener.heard\n"
    )
    top = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    subprocess.run([sys.executable, "-c", code], cwd=top, check=True)
