"""util.deploy.guard: which requests reach Gradio, in what form, from whose page."""

import asyncio
import json
import sys

import pytest

from util.deploy import guard
from util.deploy.store import Store

needs_starlette = pytest.mark.skipif(
    sys.version_info < (3, 10), reason="comes with Gradio, which needs Python 3.10"
)
NAMES = ("localhost", "box")
SELF = (b"host", b"box:7860")


def refusal(check, *args):
    try:
        check(*args)
    except guard.Refused as refused:
        return refused.status
    return None


@pytest.mark.parametrize(
    "headers, status",
    [
        ({"host": "box:7860"}, None),
        ({"host": "localhost:9000"}, None),
        ({"host": "127.0.0.1"}, None),
        ({"host": "[::1]:7860"}, None),
        ({"host": "192.168.3.4:7860"}, None),
        ({"host": "BOX:7860", "origin": "http://Box:7860"}, None),
        ({"host": "LocalHost"}, None),
        ({"host": "[FE80::1]:7860", "origin": "http://[fe80::1]:7860"}, None),
        ({"host": "[::1]:7860", "origin": "http://[::1]"}, 403),
        ({"host": "[::1].evil.example"}, 403),
        ({"host": "[::1"}, 403),
        ({"host": "localhost.evil.example"}, 403),
        ({"host": "localhost:7860:80"}, 403),
        ({"host": "localhost@evil.example"}, 403),
        ({"host": ""}, 403),
        ({"host": ":7860"}, 403),
        ({"host": "evil.example", "x-forwarded-host": "localhost"}, 403),
        ({}, 403),
        ({"host": "evil.example:7860"}, 403),
        ({"host": "127.0.0.1.evil.example"}, 403),
        ({"host": "box.evil.example"}, 403),
        ({"host": "box:7860", "origin": "http://box:7860"}, None),
        ({"host": "box:7860", "origin": "http://box:81"}, 403),
        ({"host": "box:7860", "origin": "https://evil.example"}, 403),
        ({"host": "box:7860", "origin": "null"}, 403),
        ({"host": "box:7860", "sec-fetch-site": "same-origin"}, None),
        ({"host": "box:7860", "sec-fetch-site": "none"}, None),
        ({"host": "box:7860", "sec-fetch-site": "same-site"}, 403),
        ({"host": "box:7860", "sec-fetch-site": "cross-site"}, 403),
    ],
)
def test_other_names_and_other_sites_are_refused(headers, status):
    pairs = [(key.encode(), value.encode()) for key, value in headers.items()]
    assert refusal(guard.check_site, pairs, NAMES) == status


def test_a_server_is_asked_by_the_names_that_it_has(monkeypatch):
    monkeypatch.setattr(guard.socket, "gethostname", lambda: "Box")
    for host, own, foreign in (
        ("127.0.0.1", ["localhost", "box", "127.0.0.1"], ["box.example"]),
        ("0.0.0.0", ["BOX:80", "0.0.0.0", "10.0.0.1", "[::1]"], ["box.example"]),
        ("::", ["[::]:80", "[fe80::1]"], ["box.example"]),
        ("Box.Example", ["box.example:7860", "box"], ["example", "x.box.example"]),
    ):
        names = guard.own_names(host)
        for name in own:
            assert refusal(guard.check_site, [(b"host", name.encode())], names) is None
        for name in foreign:
            assert refusal(guard.check_site, [(b"host", name.encode())], names) == 403


def test_two_hosts_are_one_too_many():
    assert refusal(guard.check_site, [SELF, SELF], NAMES) == 403


def test_routes_are_a_list(tmp_path):
    store = Store(str(tmp_path))
    (tmp_path / "tmp").mkdir()
    (tmp_path / "tmp" / "mask.png").write_bytes(b"x")
    ours = guard.FILE + store.folder + "/tmp/mask.png"
    for method, path in (
        ("GET", "/"),
        ("HEAD", "/"),
        ("GET", "/config"),
        ("GET", "/assets/index-B_1.js"),
        ("GET", "/gradio_api/heartbeat/abc"),
        ("GET", "/gradio_api/call/segment/abc"),
        ("GET", ours),
        ("POST", guard.UPLOAD),
        ("POST", "/gradio_api/queue/join"),
    ):
        assert refusal(guard.check_route, method, path, store) is None, path
    for method, path in (
        ("POST", "/"),
        ("POST", "/gradio_api/process_recording"),
        ("POST", "/gradio_api/call/show"),
        ("POST", "/gradio_api/cancel"),
        ("GET", "/gradio_api/proxy=http://127.0.0.1"),
        ("GET", "/gradio_api/queue/status"),
        ("GET", "/gradio_api/upload_progress"),
        ("GET", "/monitoring"),
        ("GET", "/assets/../../x"),
        ("GET", guard.FILE + "/etc/passwd"),
        ("GET", guard.FILE + "http://127.0.0.1/"),
        ("GET", guard.FILE + store.folder + "/tmp/../tmp/mask.png"),
        ("DELETE", ours),
    ):
        assert refusal(guard.check_route, method, path, store) == 404, path


def plain(path, **said):
    return json.loads(guard.plain_call(path, json.dumps(said).encode()).decode())


def test_a_call_keeps_what_the_page_sends():
    image = {"path": "/a.png", "url": "http://x", "meta": {"_type": "gradio.FileData"}}
    call = "/gradio_api/call/segment"
    assert plain(call, data=[image, "left", True], more=1) == {
        "data": [{"path": "/a.png"}, "left", True]
    }
    assert plain(call, data=[None, None]) == {"data": [None, "", False]}
    assert plain(
        "/gradio_api/queue/join",
        data=[None, "x", False, [1]],
        fn_index=1,
        session_hash="s",
    ) == {
        "data": [None, "x", False, None],
        "fn_index": 1,
        "session_hash": "s",
        "trigger_id": 0,
    }
    for data in (
        5,
        [],
        ["/a.png", "left"],
        [{"path": 5}, "left"],
        [{"path": "x" * 5000}, "left"],
        [None, {"path": "/a.png", "meta": image["meta"]}],
        [None, "left", "yes"],
    ):
        body = json.dumps({"data": data}).encode()
        assert refusal(guard.plain_call, call, body) == 400, data
    for body in (b"", b"[" * 60000, b"{", b"\xff", b"[]", b"null"):
        assert refusal(guard.plain_call, call, body) == 400
    assert refusal(guard.plain_call, guard.EXAMPLE, b'{"data": [{"path": 1}]}') == 400


def ask(app, messages, path, headers=(), store=None, method="POST"):
    """Return the status that the guard answers with, and what reached the app."""
    sent, left = [], list(messages)

    async def receive():
        if not left:
            await asyncio.sleep(60)
        return left.pop(0)

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "headers": [SELF, *headers],
        "query_string": b"upload_id=1",
    }
    asyncio.run(guard.Guard(app, store, NAMES)(scope, receive, send))
    return sent[0]


def body(content, more=False):
    return {"type": "http.request", "body": content, "more_body": more}


async def taker(scope, receive, send):
    """Read all of a request and say so."""
    assert scope["query_string"] == b""
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": []})


@needs_starlette
def test_what_a_request_sends_is_bounded(tmp_path, monkeypatch):
    store = Store(str(tmp_path))
    form = (b"content-type", b"multipart/form-data; boundary=bb")

    def upload(*chunks, headers=(form,)):
        messages = [body(chunk, True) for chunk in chunks] + [body(b"")]
        return ask(taker, messages, guard.UPLOAD, headers, store)["status"]

    assert upload(b"--bb\r\nx\r\n--bb--") == 200
    assert upload(*[b"-", b"-b", b"b\r\n"] * 5) == 413
    assert upload(b"x" * guard.MAX_REQUEST_BYTES) == 200
    assert upload(b"x" * guard.MAX_REQUEST_BYTES, b"x") == 413
    assert upload(headers=[form, (b"content-length", b"22000000")]) == 413
    call = "/gradio_api/call/segment"
    small = [body(b'{"data": [null, '), body(b'"left"]}')]
    small[0]["more_body"] = True
    assert ask(taker, small, call)["status"] == 200
    assert ask(taker, [body(b" " * guard.MAX_CALL_BYTES + b"x")], call)["status"] == 413
    monkeypatch.setattr(guard, "BODY_S", 0.05)
    assert ask(taker, [body(b"{", True)], call)["status"] == 408
    assert (
        ask(taker, [body(b"--bb", True)], guard.UPLOAD, [form], store)["status"] == 408
    )
    monkeypatch.setattr(guard, "MAX_UPLOADS", 0)
    assert upload(b"") == 503
    monkeypatch.setattr(guard, "MAX_UPLOADS", 1)
    monkeypatch.setattr(store, "make_room", lambda num_bytes: False)
    assert upload(b"") == 507


@needs_starlette
def test_links_from_elsewhere_lead_to_the_page_and_nowhere_else():
    link = [(b"sec-fetch-site", b"cross-site"), (b"sec-fetch-mode", b"navigate")]
    answer = ask(taker, [body(b"")], "/", link, method="GET")
    assert answer["status"] == 200
    headers = dict(answer["headers"])
    assert b"default-src 'self'" in headers[b"content-security-policy"]
    assert headers[b"cross-origin-resource-policy"] == b"same-origin"
    for path, sent in (("/config", link), ("/", link[:1])):
        assert ask(taker, [body(b"")], path, sent, method="GET")["status"] == 403
