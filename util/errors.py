"""A user's mistake: one line, exit code 2, no traceback."""

import argparse
import signal
import sys
from typing import Callable


class UserError(Exception):
    """Something the user can mend: says what is wrong, where, and what to do."""


class Stopped(Exception):
    """A run that had begun makes no sense any more: says why and what is left of it."""


class OneLineParser(argparse.ArgumentParser):
    """A parser that tells a wrong command line in one line, without the usage."""

    def error(self, message: str) -> None:
        """Say what is wrong and exit with code 2."""
        self.exit(2, "error: {} (-h shows all options)\n".format(message))


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
        print("error: {}".format(" ".join(str(error).split())), file=sys.stderr)
        return 2 if isinstance(error, UserError) else 1
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        print("interrupted", file=sys.stderr)
        return 130
