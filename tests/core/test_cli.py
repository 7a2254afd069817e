"""util.core.cli: a command ends with an exit code, whatever happens in it."""

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


def test_wrong_option_of_a_command_is_one_line(parser, capsys):
    with pytest.raises(SystemExit) as exit:
        cli.command(parser, lambda args: 0, ["-n", "0"])
    assert exit.value.code == 2
    assert capsys.readouterr().err == (
        "error: argument -n: '0' is not a whole number above 0 (-h shows all options)\n"
    )
