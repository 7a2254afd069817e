"""The server itself, and bounds on connections: how many, how long they may be idle.

Uvicorn, which Gradio comes with, bounds none of it. It is imported inside functions.
"""

import collections
import contextlib
import threading
import time
from typing import Any, Iterator

from util.core.errors import UserError

MAX_CONNECTIONS = 400
MAX_ARRIVING = 100  # connections that the system accepts before we do
OPEN_FILES = 1024  # what all connections, uploads and libraries need together
LOOK_S = 5  # between two looks at a connection
IDLE_LOOKS = 2  # without a request under way
STUCK_LOOKS = 12  # with an answer that nobody takes
END_S = 2  # for answers under way at the end
LOG_LETTERS, LOG_S = 20000, 60  # in so many seconds


def protocol(most: int = MAX_CONNECTIONS) -> Any:
    """Return the class that Uvicorn shall make for each connection.

    Args:
      most: connections at once.
    """
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class Bounded(H11Protocol):
        """HTTP/1.1; closes what is idle or stuck, and one too many."""

        def connection_made(self, transport):
            super().connection_made(transport)
            self.since, self.is_ended = self.loop.time(), False
            self._before, self._looks = None, 0
            there = [one for one in self.connections if not one.is_ended]
            if len(there) > most:
                _one_too_many(there, self).end()
            self.loop.call_later(LOOK_S, self._look)

        def address(self):
            """Return who is at the other end."""
            return self.client and self.client[0]

        def is_idle(self):
            """Return whether no request is under way."""
            is_answered = self.cycle is None or self.cycle.response_complete
            return is_answered and not self.transport.get_write_buffer_size()

        def end(self):
            """Close now, whatever is under way."""
            self.is_ended = True
            self.transport.abort()

        def _look(self):
            if self not in self.connections:
                return
            now = (self.cycle, self.transport.get_write_buffer_size())
            self._looks = self._looks + 1 if now == self._before else 1
            self._before = now
            is_stuck = now[1] and self._looks >= STUCK_LOOKS
            if is_stuck or (self.is_idle() and self._looks >= IDLE_LOOKS):
                self.end()
            self.loop.call_later(LOOK_S, self._look)

    return Bounded


def _one_too_many(connections, new):
    """Return which to close: an idle one, or one of the address that has the most.

    Of several the oldest. Where the new one's address has as many as any, and nothing
    is idle, it is the new one.
    """
    shares = collections.Counter(one.address() for one in connections)
    worst = max(
        (one for one in connections if one is not new),
        key=lambda one: (one.is_idle(), shares[one.address()], -one.since),
    )
    if worst.is_idle() or shares[worst.address()] > shares[new.address()]:
        return worst
    return new


@contextlib.contextmanager
def running(app: Any, host: str, port: int) -> Iterator[str]:
    """Answer with an application, in a thread, while the `with` lasts.

    Args:
      app: ASGI.
      host: address to listen at.
      port: likewise.

    Yields:
      The URL.

    Raises:
      UserError: nobody can listen there.
    """
    import uvicorn

    most = min(MAX_CONNECTIONS, _open_files() // 2)
    config = uvicorn.Config(
        app,
        host,
        port,
        http=protocol(most),
        ws="none",
        lifespan="on",
        log_level="warning",
        backlog=MAX_ARRIVING,
        timeout_graceful_shutdown=END_S,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=_run, args=(server,), daemon=True)
    thread.start()
    while not server.started:
        if not thread.is_alive():
            raise UserError(
                f"cannot listen at {host} port {port}: choose another --port or --host"
            )
        time.sleep(0.01)
    try:
        yield _url(host, port)
    finally:
        server.should_exit = True
        thread.join(5 * END_S)


def _run(server):
    with contextlib.suppress(SystemExit):  # its way to say that it cannot
        server.run()


def _url(host, port):
    shown = {"0.0.0.0": "localhost", "::": "localhost"}.get(host, host)
    return f"http://[{shown}]:{port}/" if ":" in shown else f"http://{shown}:{port}/"


def _open_files():
    """Return how many files this process may open, OPEN_FILES where it can be had."""
    try:
        import resource
    except ImportError:  # Windows
        return OPEN_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return OPEN_FILES
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted


class Log:
    """A text stream that passes LOG_LETTERS in LOG_S seconds on, whoever causes more.

    Args:
      stream: where to, such as standard error.
    """

    def __init__(self, stream: Any) -> None:
        self._stream, self._left, self._end = stream, 0, 0.0

    def write(self, text: str) -> int:
        """Write a text or leave it out; what is left out is said once."""
        now = time.monotonic()
        if now >= self._end:
            self._left, self._end = LOG_LETTERS, now + LOG_S
        shown, self._left = text[: max(0, self._left)], self._left - len(text)
        if shown:
            self._stream.write(shown if self._left > 0 else shown + _FULL)
        return len(text)

    def __getattr__(self, name):
        return getattr(self._stream, name)


_FULL = f"\n(the log is full: what comes in the next {LOG_S} seconds is left out)\n"
