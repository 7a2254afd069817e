"""What stands between the network and Gradio: which requests reach it, in what form.

Gradio has many more routes than the page uses, answers whatever Host a request
names, and reads bodies of any size. Here a request is refused unless it is on the
list. ASGI; Starlette is imported inside functions, since it comes with Gradio.
"""

import asyncio
import ipaddress
import json
import re
import socket
import time
from typing import Dict, Iterable, Optional, Tuple

from util.deploy.store import Store

MAX_UPLOAD_BYTES = 20 * 10**6
MAX_REQUEST_BYTES = MAX_UPLOAD_BYTES + 10**6  # an image and what comes with it
MAX_CALL_BYTES = 2**16  # of every other request
MAX_PARTS = 4  # of an upload: each is an open file
MAX_UPLOADS = 8  # at once
BODY_S = 60  # for what a request sends
MAX_PATH = 4096  # letters
# Whatever the page may hold, the browser asks nobody else for it.
POLICY = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; "
    "frame-ancestors 'self'; form-action 'self'; base-uri 'self'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "same-origin",
    "x-content-type-options": "nosniff",
}
UPLOAD, FILE = "/gradio_api/upload", "/gradio_api/file="
# Calls, and which Gradio knows by a number in the body.
CALLS = {"/gradio_api/call/segment": False, "/gradio_api/queue/join": True}
EXAMPLE = "/gradio_api/run/predict"  # an example was clicked
READ = re.compile(
    r"/|/config/?|/theme\.css|/favicon\.ico|/robots\.txt|/(assets|static)/[\w./+-]+"
    r"|/gradio_api/(info/?|heartbeat/\w+|queue/data)"
    r"|/gradio_api/call/segment/\w+"
)
ASKED = ("/gradio_api/queue/data",)  # routes that get their query
# Gradio believes these about its own address, whoever sends them.
MISLEADING = (b"x-forwarded-host", b"x-gradio-server")


class Refused(Exception):
    """A request is not passed on: status and a line."""

    def __init__(self, status: int, line: str) -> None:
        super().__init__(line)
        self.status = status


def own_names(host: str) -> Tuple[str, ...]:
    """Return the names under which a server that listens at `host` is asked."""
    names = ("localhost", host, socket.gethostname())
    return tuple(name.lower() for name in names if name)


def check_site(headers: Iterable[Tuple[bytes, bytes]], names: Iterable[str]) -> None:
    """Refuse requests to other names, and those that other sites' pages send.

    A page of another site reaches this server through its visitor's browser, which
    says so in Origin or Sec-Fetch-Site; or under a name of its own that leads here
    (DNS rebinding), which Host tells. Numeric addresses are no such names.

    Args:
      headers: of the request, names in lower case.
      names: see `own_names`.

    Raises:
      Refused: with status 403.
    """
    hosts, origins, sites = (
        [value.decode("latin-1").lower() for key, value in headers if key == name]
        for name in (b"host", b"origin", b"sec-fetch-site")
    )
    if len(hosts) != 1 or not _is_own(hosts[0], names):
        raise Refused(403, "this server does not answer under that name")
    for origin in origins:
        if origin not in ("http://" + hosts[0], "https://" + hosts[0]):
            raise Refused(403, "pages of other sites may not ask")
    if not set(sites) <= {"same-origin", "none"}:
        raise Refused(403, "pages of other sites may not ask")


def _is_own(host, names):
    name = re.sub(r":\d*$", "", host)
    if name in names:
        return True
    try:
        ipaddress.ip_address(re.sub(r"^\[(.*)\]$", r"\1", name))
    except ValueError:
        return False
    return True


def _is_link(scope):
    """Return whether a browser follows a link to the page, wherever it stands."""
    modes = [value for key, value in scope["headers"] if key == b"sec-fetch-mode"]
    return (scope["method"], scope["path"], modes) == ("GET", "/", [b"navigate"])


def check_route(method: str, path: str, store: Store) -> None:
    """Refuse what the page and the JSON call never ask for.

    Raises:
      Refused: with status 404.
    """
    if method in ("GET", "HEAD"):
        if READ.fullmatch(path) and ".." not in path:
            return
        if path.startswith(FILE) and store.has(path[len(FILE) :]):
            return
    if method == "POST" and path in (UPLOAD, EXAMPLE, *CALLS):
        return
    raise Refused(404, "there is nothing here")


def plain_call(path: str, body: bytes) -> bytes:
    """Return a call with what the page and README's calls hold, and nothing else.

    An image keeps its path alone: as no file that Gradio knows it is neither fetched
    nor copied, and whether it may be read is decided in one place, `Store.check`.

    Args:
      path: of the request.
      body: JSON.

    Returns:
      JSON.

    Raises:
      Refused: with status 400, it has another form.
    """
    try:
        said = json.loads(body.decode("utf-8"))
        data = list(said["data"])
        if path == EXAMPLE:
            (number,) = data
            call = {"data": [_checked(number, int)]}
        else:
            image, sentence, *refine = data
            call = {
                "data": [
                    _plain_image(image),
                    _checked(sentence or "", str),
                    _checked((refine or [False])[0] or False, bool),
                ]
            }
        if CALLS.get(path, True):
            call["fn_index"] = _checked(said["fn_index"], int)
            call["session_hash"] = _checked(said["session_hash"], str)[:64]
            call["trigger_id"] = _checked(said.get("trigger_id") or 0, int)
            if path != EXAMPLE and len(data) == 4:
                call["data"].append(None)  # the page's history, which Gradio holds
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise Refused(400, "the call has another form than README's") from error
    return json.dumps(call).encode("ascii")


def _checked(value, kind):
    if type(value) is not kind:
        raise TypeError
    return value


def _plain_image(image):
    if image is None:
        return None
    path = _checked(image["path"], str)
    if len(path) > MAX_PATH:
        raise ValueError
    return {"path": path}


class Guard:
    """ASGI middleware: refuses, bounds and rewrites requests; adds HEADERS to answers.

    Args:
      app: the application behind it.
      store: where uploads go.
      names: see `own_names`.
    """

    def __init__(self, app, store: Store, names: Iterable[str]) -> None:
        self._app, self._store, self._names = app, store, tuple(names)
        self._uploads = 0

    async def __call__(self, scope, receive, send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await self._answer(scope, receive, _sender(send))
        else:  # the page uses no WebSockets
            await send({"type": "websocket.close", "code": 1008})

    async def _answer(self, scope, receive, send):
        from starlette.responses import PlainTextResponse

        try:
            headers = scope["headers"]
            if _is_link(scope):
                headers = [pair for pair in headers if pair[0] != b"sec-fetch-site"]
            check_site(headers, self._names)
            check_route(scope["method"], scope["path"], self._store)
            scope = _plain(scope)
            if scope["path"] == UPLOAD:
                await self._upload(scope, receive, send)
            else:
                scope, receive = await _whole(scope, receive)
                await self._app(scope, receive, send)
        except Refused as refused:
            answer = PlainTextResponse(str(refused), refused.status)
            await answer(scope, receive, send)

    async def _upload(self, scope, receive, send):
        if self._uploads >= MAX_UPLOADS:
            raise Refused(503, "too many uploads at once: try again")
        self._uploads += 1
        try:
            loop = asyncio.get_running_loop()
            has_room = await loop.run_in_executor(
                None, self._store.make_room, _length(scope)
            )
            if not has_room:
                raise Refused(507, "too many uploads: try again in a minute")
            await self._app(scope, _bounded(scope, receive), send)
        finally:
            self._uploads -= 1


def _plain(scope):
    """Return a request without what the page never sends and Gradio would heed."""
    headers = [pair for pair in scope["headers"] if pair[0] not in MISLEADING]
    query = scope["query_string"] if scope["path"] in ASKED else b""
    return dict(scope, headers=headers, query_string=query)


def _sender(send):
    extra = [(key.encode(), value.encode()) for key, value in HEADERS.items()]

    async def send_more(message):
        if message["type"] == "http.response.start":
            message = dict(message, headers=[*message["headers"], *extra])
        await send(message)

    return send_more


def _length(scope):
    """Return how many bytes an upload has at most."""
    lengths = [value for key, value in scope["headers"] if key == b"content-length"]
    length = int(lengths[0]) if lengths and lengths[0].isdigit() else MAX_REQUEST_BYTES
    if length > MAX_REQUEST_BYTES:
        raise Refused(413, "the request is too large")
    return length


async def _whole(scope, receive):
    """Read the body of a request that is no upload; return both with a plain one."""
    body, read = b"", _bounded(scope, receive, MAX_CALL_BYTES)
    if scope["method"] != "POST":
        return scope, read
    while True:
        message = await read()
        if message["type"] != "http.request":
            raise Refused(400, "the request ended early")
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    body = plain_call(scope["path"], body)
    headers = [
        pair
        for pair in scope["headers"]
        if pair[0] not in (b"content-length", b"content-type", b"transfer-encoding")
    ]
    headers += [
        (b"content-length", str(len(body)).encode()),
        (b"content-type", b"application/json"),
    ]
    told = False

    async def read_plain():
        nonlocal told
        if told:
            return await receive()
        told = True
        return {"type": "http.request", "body": body, "more_body": False}

    return dict(scope, headers=headers), read_plain


def _bounded(scope, receive, max_bytes=MAX_REQUEST_BYTES):
    """Return `receive` with bounds on the body: bytes, parts, seconds."""
    end, left, whole = time.monotonic() + BODY_S, max_bytes, False
    boundary, parts, tail = _boundary(scope["headers"]), 0, b""

    async def receive_some():
        """Return the next part of the request; Refused once it is beyond a bound."""
        nonlocal left, whole, parts, tail
        if whole:  # what comes now is the end of the connection
            return await receive()
        try:
            message = await asyncio.wait_for(
                receive(), max(0.01, end - time.monotonic())
            )
        except asyncio.TimeoutError:
            raise Refused(408, "the request takes too long") from None
        body = message.get("body", b"")
        whole = not message.get("more_body")
        left -= len(body)
        if boundary:
            seen = tail + body
            parts += seen.count(boundary)
            tail = seen[len(seen) - len(boundary) + 1 :] if len(boundary) > 1 else b""
        if left < 0 or parts > MAX_PARTS:
            raise Refused(413, "the request is too large")
        return message

    return receive_some


def _boundary(headers: Iterable[Tuple[bytes, bytes]]) -> Optional[bytes]:
    """Return what stands between the parts of a form."""
    types: Dict[bytes, bytes] = dict(headers)
    found = re.search(rb'boundary="?([^";,\s]+)', types.get(b"content-type", b""))
    return b"--" + found.group(1) if found else None
