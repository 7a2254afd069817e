"""What the command lines have in common; loads no TensorFlow."""

import argparse
import contextlib
import os
import re
import signal
import sys
import threading
from typing import Callable, Optional, Sequence

from util.core.errors import Stopped, UserError
from util.core.signals import ENDINGS

NOBODY_READS = 128 + 13  # the number of SIGPIPE, which Windows does not have

EXACT = "float32"  # the precision that goes without saying
PRECISIONS = (EXACT, "bfloat16", "float16", "tf32")


def within(kind, name, is_right):
    """Return a converter of option texts that refuses what `is_right` is not true of.

    Args:
      kind: int, float or str, converts the text.
      name: what the error message asks for.
      is_right: function of the converted value.
    """

    def convert(text):
        with contextlib.suppress(ValueError):
            value = kind(text)
            if is_right(value):
                return value
        raise argparse.ArgumentTypeError(f"{text!r} is not a {name}")

    return convert


pixels = within(int, "number of pixels, 0 or more", lambda n: n >= 0)
count = within(int, "whole number above 0", lambda n: n > 0)
rate = within(float, "number above 0", lambda x: 0 < x < float("inf"))
decay = within(float, "number from 0 to 1", lambda x: 0 <= x <= 1)
share = within(float, "number above 0 and at most 1", lambda x: 0 < x <= 1)
seed = within(int, "whole number from 0 to 2**32 - 1", lambda n: 0 <= n < 2**32)
port = within(int, "port, 1 to 65535", lambda n: 0 < n < 2**16)
step = within(
    lambda text: text if text == "best" else int(text),
    "whole number above 0, or best",
    lambda n: n == "best" or n > 0,
)
gpus = within(
    str, "list of GPUs such as 0,1 (-1: none)", re.compile(r"-1|\d+(,\d+)*").fullmatch
)


class OneLineParser(argparse.ArgumentParser):
    """A parser that tells a wrong command line in one line, without the usage."""

    def error(self, message: str) -> None:
        """Say what is wrong and exit with code 2."""
        self.exit(2, f"error: {message} (-h shows all options)\n")


def command(
    parser: argparse.ArgumentParser,
    run: Callable[[argparse.Namespace], int],
    argv: Optional[Sequence[str]] = None,
) -> int:
    """Run a command line and return its exit code, see `exit_code`.

    Args:
      parser: of the options.
      run: function of the parsed options that does the work.
      argv: the words of the command line; None: those of the process.
    """
    args = parser.parse_args(argv)
    return exit_code(lambda: run(args))


def exit_code(main: Callable[[], int]) -> int:
    """Run a command and turn its errors into one line and an exit code.

    Args:
      main: does the work and returns an exit code.

    Returns:
      What `main` returned; 2 after a `UserError` or an OSError, whose text went to
      stderr as one line; 1 after a `Stopped`, likewise; 130 after Ctrl-C, 128 + n
      after signal n of ENDINGS: what is half done is cleared away first. From then on
      the process ends undisturbed: it ignores another Ctrl-C.
    """
    try:
        with _endings_raised():
            return main()
    except (UserError, Stopped) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2 if isinstance(error, UserError) else 1
    except BrokenPipeError:  # whoever read what is printed has gone
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return NOBODY_READS
    except OSError as error:
        print(f"error: {' '.join(_told(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        print("interrupted", file=sys.stderr)
        return 130
    except _Ended as ended:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        print(f"ended by {signal.Signals(ended.number).name}", file=sys.stderr)
        return 128 + ended.number


class _Ended(BaseException):
    """A signal of ENDINGS has come."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextlib.contextmanager
def _endings_raised():
    """Raise `_Ended` for the first signal of ENDINGS; a second one ends at once.

    One that the process was told to ignore (nohup) stays ignored.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [n for n in ENDINGS if signal.getsignal(n) is signal.SIG_DFL]

    def end(number, _):
        for each in numbers:
            signal.signal(each, signal.SIG_DFL)
        raise _Ended(number)

    for number in numbers:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)


def _told(error):
    """Return what an OSError says, the file first."""
    if error.filename is None:
        return str(error) or type(error).__name__
    name = os.fsdecode(error.filename)
    return f"{name}: {error.strerror or type(error).__name__}"
