"""A user's mistake: one line, exit code 2, no traceback."""

import sys
from typing import Callable


class UserError(Exception):
    """Something the user can mend: says what is wrong, where, and what to do."""


def exit_code(main: Callable[[], int]) -> int:
    """Run a command and turn a `UserError` into its exit code.

    Args:
      main: does the work and returns an exit code.

    Returns:
      What `main` returned; 2 after a `UserError`, whose text went to stderr as
      one line; 130 after Ctrl-C.
    """
    try:
        return main()
    except UserError as error:
        print("error: {}".format(" ".join(str(error).split())), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
