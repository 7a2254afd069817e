"""A user's mistake: one line, exit code 2, no traceback."""


class UserError(Exception):
    """Something the user can mend: says what is wrong, where, and what to do."""


class Stopped(Exception):
    """A run that had begun makes no sense any more: says why and what is left of it."""
