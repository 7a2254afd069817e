"""util.deploy.connections: idle connections, too many of them, and the log."""

import contextlib
import http.client
import logging
import socket
import sys

import pytest

from util.bench import scaling
from util.deploy import connections, server

needs_gradio = pytest.mark.skipif(
    sys.version_info < (3, 10), reason="Gradio 6 needs Python 3.10"
)


class Silent:
    levels = ()


@needs_gradio
def test_half_requests_end_and_keep_nobody_out(monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", "")
    monkeypatch.setattr(connections, "MAX_OF_ONE_ADDRESS", 5)
    monkeypatch.setattr(connections, "LOOK_S", 0.5)
    (port,) = scaling.free_ports(1)
    with contextlib.ExitStack() as stack:
        stack.enter_context(server.serving(Silent(), "127.0.0.1", port))
        halves = []
        for _ in range(8):
            half = socket.create_connection(("127.0.0.1", port), timeout=20)
            halves.append(stack.enter_context(half))
            half.sendall(b"GET / HTTP/1.1\r\nX-")
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        stack.enter_context(contextlib.closing(connection))
        connection.request("GET", "/config")
        assert connection.getresponse().status == 200
        for half in halves:
            with contextlib.suppress(ConnectionError):
                assert half.recv(1) == b""


def test_the_log_is_not_flooded(caplog):
    logger = logging.getLogger("test_the_log_is_not_flooded")
    logger.addFilter(connections.Seldom())
    for _ in range(1000):
        logger.warning("Too many open files")
    assert len(caplog.records) == connections.LOGGED
