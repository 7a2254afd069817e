"""A user's mistake: one line, exit code 2, no traceback."""

import contextlib
from typing import Iterator, List, Optional

SHOWN = 10  # mistakes that are told; of the others their number


class UserError(Exception):
    """Something the user can mend: says what is wrong, where, and what to do."""


class Stopped(Exception):
    """A run that had begun makes no sense any more: says why and what is left of it."""


class Mistakes:
    """The errors of many entries, gathered so that one run tells all of them.

    Example:
      >>> mistakes = Mistakes()
      >>> for text in ("a has no mask", "b has no mask"):
      ...     with mistakes.gathered():
      ...         raise UserError(text)
      >>> mistakes.refuse()
      Traceback (most recent call last):
      ...
      util.core.errors.UserError: 2 entries are wrong: a has no mask; b has no mask
    """

    def __init__(self) -> None:
        self._texts: List[str] = []

    def __len__(self) -> int:
        return len(self._texts)

    def __str__(self) -> str:
        texts = list(dict.fromkeys(self._texts))
        if len(texts) == 1:
            return texts[0]
        more = [f"and {len(texts) - SHOWN} more"] if len(texts) > SHOWN else []
        return f"{len(self)} entries are wrong: {'; '.join(texts[:SHOWN] + more)}"

    def add(self, text: str) -> None:
        """Take the error of one entry."""
        self._texts.append(text)

    @contextlib.contextmanager
    def gathered(self) -> Iterator[None]:
        """Take a UserError that is raised within, and end there."""
        try:
            yield
        except UserError as error:
            self.add(str(error))

    def refuse(self) -> None:
        """Raise a UserError if there is any mistake.

        Raises:
          UserError: tells the first SHOWN of them, and how many there are.
        """
        if self:
            raise UserError(str(self))


@contextlib.contextmanager
def gathering(mistakes: Optional[Mistakes]) -> Iterator[Mistakes]:
    """Yield what gathers mistakes; where there is none, what refuses them at the end.

    Raises:
      UserError: there are mistakes, and nobody who gathers them.
    """
    if mistakes is not None:
        yield mistakes
        return
    mistakes = Mistakes()
    yield mistakes
    mistakes.refuse()
