"""Signals that ask a long run to stop: it ends when it is ready to."""

import signal
from typing import Any

# A scheduler's and a closed terminal's; Windows has no such terminals.
ENDINGS = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)
)
SIGNALS = (signal.SIGINT, *ENDINGS)


class Listener:
    """Notes the first of SIGNALS while its `with` lasts; a second one acts.

    SIGHUP, which comes when a terminal closes, stays ignored where it is (nohup).

    Attributes:
      heard: whether one has come.
    """

    def __init__(self) -> None:
        self.heard = False
        self._handlers = {}

    def __enter__(self) -> "Listener":
        for number in SIGNALS:
            handler = signal.getsignal(number)
            is_nohup = number not in (signal.SIGINT, signal.SIGTERM)
            if not (is_nohup and handler is signal.SIG_IGN):
                self._handlers[number] = handler
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
