"""Bounds on connections: how many, how long they may say nothing, how much is logged.

Uvicorn, which Gradio serves with, bounds none of it. Imported inside functions.
"""

import logging
import time
from collections import deque
from typing import Any

MAX_CONNECTIONS = 400
MAX_OF_ONE_ADDRESS = 200
LOOK_S = 5  # between two looks at a connection
IDLE_LOOKS = 2  # without a request under way
STUCK_LOOKS = 12  # with an answer that nobody takes
LOGGED, LOGGED_S = 20, 60  # lines in so many seconds
LOGGERS = ("uvicorn.error", "asyncio")


def protocol() -> Any:
    """Return the class that Uvicorn shall make for each connection."""
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class Bounded(H11Protocol):
        """HTTP/1.1, without WebSockets; closes what is idle or stuck."""

        def connection_made(self, transport):
            super().connection_made(transport)
            self.ws_protocol_class = None
            self._before, self._looks = None, 0
            same = [one for one in self.connections if _address(one) == _address(self)]
            for rivals, most in (
                (same, MAX_OF_ONE_ADDRESS),
                (self.connections, MAX_CONNECTIONS),
            ):
                if len(rivals) > most:
                    _give_way(rivals, self)
            self.loop.call_later(LOOK_S, self._look)

        def is_idle(self):
            """Return whether no request is under way."""
            return self.cycle is None or self.cycle.response_complete

        def _look(self):
            if self not in self.connections:
                return
            unsent = self.transport.get_write_buffer_size()
            seen = (id(self.cycle), unsent)
            self._looks = self._looks + 1 if seen == self._before else 1
            self._before = seen
            if self.is_idle() and not unsent and self._looks >= IDLE_LOOKS:
                self.transport.close()
            elif unsent and self._looks >= STUCK_LOOKS:
                self.transport.abort()
            self.loop.call_later(LOOK_S, self._look)

    return Bounded


def _address(connection):
    return connection.client and connection.client[0]


def _give_way(rivals, new):
    """Close an idle connection; the new one where there is none."""
    idle = (one for one in rivals if one is not new and one.is_idle())
    closed = next((one for one in idle if not one.transport.is_closing()), new)
    closed.transport.close()


class Seldom(logging.Filter):
    """Lets LOGGED lines in LOGGED_S seconds through, whoever causes more."""

    def __init__(self) -> None:
        super().__init__()
        self._times = deque(maxlen=LOGGED)

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether this one is written."""
        now = time.monotonic()
        if len(self._times) == LOGGED and now - self._times[0] < LOGGED_S:
            return False
        self._times.append(now)
        return True


def allow_open_files() -> None:
    """Raise the limit on open files, where it is low, to what the system lets us."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4096 if hard == resource.RLIM_INFINITY else min(4096, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
