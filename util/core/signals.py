"""Signals that ask a long run to stop: it ends when it is ready to."""

import signal
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Listener:
    """Notes the first SIGINT or SIGTERM while its `with` lasts; a second one acts.

    Attributes:
      heard: whether one has come.
    """

    def __init__(self) -> None:
        self.heard = False
        self._handlers = {}

    def __enter__(self) -> "Listener":
        self._handlers = {number: signal.getsignal(number) for number in SIGNALS}
        for number in SIGNALS:
            signal.signal(number, self._hear)
        return self

    def __exit__(self, *exception: Any) -> None:
        self._restore()

    def _hear(self, *_):
        self.heard = True
        self._restore()

    def _restore(self):
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
