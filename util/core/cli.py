"""What the command lines have in common; loads no TensorFlow."""

import argparse
import contextlib
import re
import signal
import sys
from typing import Callable, Optional, Sequence

from util.core.errors import Stopped, UserError

PRECISIONS = ("float32", "bfloat16", "float16", "tf32")


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
    """Run a command and turn a `UserError` into its exit code.

    Args:
      main: does the work and returns an exit code.

    Returns:
      What `main` returned; 2 after a `UserError`, whose text went to stderr as
      one line; 1 after a `Stopped`, likewise; 130 after Ctrl-C. From then on the
      process ends undisturbed: it ignores another Ctrl-C.
    """
    try:
        return main()
    except (UserError, Stopped) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2 if isinstance(error, UserError) else 1
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        print("interrupted", file=sys.stderr)
        return 130
