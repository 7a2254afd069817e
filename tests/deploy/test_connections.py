"""util.deploy.connections: idle connections, too many of them, and the log."""

import asyncio
import collections
import contextlib
import http.client
import io
import socket
import sys
import threading
import time

import pytest

from util.bench import scaling
from util.core.errors import UserError
from util.deploy import connections

needs_uvicorn = pytest.mark.skipif(
    sys.version_info < (3, 10), reason="comes with Gradio, which needs Python 3.10"
)
HALF = b"GET / HTTP/1.1\r\nX-"
WHOLE = b"GET /%s HTTP/1.1\r\nHost: localhost\r\n\r\n"


async def app(scope, receive, send):
    """Answer; /endless never ends, /large is more than the system's buffers hold."""
    if scope["type"] == "lifespan":
        for state in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{state}.complete"})
        return
    path = scope["path"]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    body = {"type": "http.response.body", "body": b"x", "more_body": True}
    await send(body)
    if path == "/endless":
        while (await receive())["type"] != "http.disconnect":
            await asyncio.sleep(0)
    elif path == "/large":
        await send(dict(body, body=b"x" * 10**8))
    await send(dict(body, body=b"", more_body=False))


@contextlib.contextmanager
def clients(monkeypatch, most=6, look_s=60):
    """Yield a function that connects, from another address and with a text to send."""
    monkeypatch.setattr(connections, "MAX_CONNECTIONS", most)
    monkeypatch.setattr(connections, "LOOK_S", look_s)
    (port,) = scaling.free_ports(1)
    with contextlib.ExitStack() as stack:
        stack.enter_context(connections.running(app, "0.0.0.0", port))

        def connect(text=b"", address="127.0.0.1"):
            client = socket.create_connection(
                ("127.0.0.1", port), timeout=30, source_address=(address, 0)
            )
            stack.callback(client.close)
            client.sendall(text)
            return client

        yield connect


def is_answered(client):
    """Wait for the first part of an answer, or the end of the connection."""
    seen = b""
    with contextlib.suppress(ConnectionError):
        while not seen.endswith(b"1\r\nx\r\n"):
            part = client.recv(1)
            if not part:
                return False
            seen += part
        return b" 200 OK" in seen
    return False


def has_ended(client):
    """Wait for the end of a connection."""
    with contextlib.suppress(ConnectionError):
        while client.recv(10**6):
            pass
    return True


@needs_uvicorn
def test_two_thousand_half_requests_keep_nobody_out(monkeypatch):
    with clients(monkeypatch, most=50) as connect:
        there = collections.deque()
        for number in range(2000):
            there.append(connect(HALF if number % 400 else WHOLE % b""))
            if number % 400 == 0:
                assert is_answered(there[-1])
            if len(there) > 50:
                assert has_ended(there[0])
                there.popleft().close()


@needs_uvicorn
def test_idle_connections_are_closed(monkeypatch):
    with clients(monkeypatch, look_s=0.1) as connect:
        begin = time.monotonic()
        answered = connect(WHOLE % b"")
        waiting = connect(WHOLE % b"endless")
        assert is_answered(answered) and is_answered(waiting)
        for client in (connect(), connect(HALF), answered):
            assert has_ended(client)
        assert time.monotonic() - begin < 4  # Uvicorn's own end is after 5 s
        waiting.settimeout(0.5)
        with pytest.raises(socket.timeout):
            waiting.recv(1)


@needs_uvicorn
def test_drops_do_not_count_as_requests(monkeypatch):
    """A client that sends a letter now and then is idle."""
    with clients(monkeypatch, look_s=0.1) as connect:
        slow = connect(HALF)
        with pytest.raises(ConnectionError):
            for _ in range(200):
                slow.sendall(b"x")
                time.sleep(0.02)


@needs_uvicorn
def test_an_answer_that_nobody_takes_is_dropped(monkeypatch):
    with clients(monkeypatch, look_s=0.05) as connect:
        stuck = connect(WHOLE % b"large")
        time.sleep(2)
        size = 0
        with contextlib.suppress(ConnectionError):
            for part in iter(lambda: stuck.recv(10**6), b""):
                size += len(part)
        assert 0 < size < 10**8


@needs_uvicorn
def test_who_has_the_most_gives_way(monkeypatch):
    with clients(monkeypatch) as connect:
        one = connect(WHOLE % b"endless", "127.0.0.2")
        assert is_answered(one)
        many = [connect(WHOLE % b"endless") for _ in range(5)]
        assert all(map(is_answered, many))
        two = connect(WHOLE % b"endless", "127.0.0.3")
        assert has_ended(many[0]) and is_answered(two)
        idle = connect(b"", "127.0.0.4")
        assert has_ended(many[1])
        again = connect(WHOLE % b"endless")
        assert has_ended(idle) and is_answered(again)
        assert has_ended(connect(WHOLE % b"endless"))
        for client in (one, two, *many[2:], again):
            client.settimeout(0.1)
            with pytest.raises(socket.timeout):
                client.recv(1)


@needs_uvicorn
def test_a_port_that_was_taken_meanwhile_is_told():
    with contextlib.closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen(1)
        with pytest.raises(UserError, match="cannot listen at 127.0.0.1 port"):
            with connections.running(app, *taken.getsockname()):
                pass


@needs_uvicorn
@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6 here")
def test_urls_can_be_asked():
    for host in ("0.0.0.0", "localhost", "::1"):
        (port,) = scaling.free_ports(1)
        with connections.running(app, host, port) as url:
            name = {"0.0.0.0": "localhost", "::1": "[::1]"}.get(host, host)
            assert url == f"http://{name}:{port}/"
            connection = http.client.HTTPConnection(url.split("/")[2], timeout=30)
            with contextlib.closing(connection):
                connection.request("GET", "/")
                assert connection.getresponse().status == 200


@needs_uvicorn
def test_few_open_files_are_few_connections(monkeypatch):
    import resource

    set_to = []
    monkeypatch.setattr(resource, "setrlimit", lambda _, pair: set_to.append(pair))
    for limits, wanted in (
        ((256, 4096), 1024),
        ((256, resource.RLIM_INFINITY), 1024),
        ((256, 300), 300),
        ((4096, 4096), 1024),
    ):
        monkeypatch.setattr(resource, "getrlimit", lambda _, pair=limits: pair)
        assert connections._open_files() == wanted
    assert [soft for soft, _ in set_to] == [1024, 1024, 300]


def test_the_log_is_not_flooded(monkeypatch):
    stream = io.StringIO()
    log = connections.Log(stream)
    threads = [
        threading.Thread(target=lambda: print("Too many open files\n" * 500, file=log))
        for _ in range(10)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    told = stream.getvalue()
    assert len(told) <= connections.LOG_LETTERS + len(connections._FULL)
    assert told.startswith("Too many") and told.endswith(connections._FULL)
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + connections.LOG_S + 1)
    log.write("later\n")
    assert stream.getvalue() == told + "later\n"
