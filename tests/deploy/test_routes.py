"""SECURITY of util/deploy/README.md: its table of routes is what a server answers."""

import contextlib
import http.client
import re
import sys
from pathlib import Path

import pytest

from util.bench import scaling
from util.deploy import connections, guard, server

pytestmark = pytest.mark.skipif(
    sys.version_info < (3, 10), reason="Gradio 6 needs Python 3.10"
)
README = Path(server.__file__).parent / "README.md"
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
NAMES = ("segment", "show", "predict", "load_example")  # of functions
EVIL = "evil.example"
UPGRADE = {"Connection": "Upgrade", "Upgrade": "websocket"}
OTHERS = (  # what tells that a page of another site asks; {} is the server's address
    {"Host": EVIL},
    {"Host": EVIL, "Origin": f"http://{EVIL}", "Sec-Fetch-Site": "same-origin"},
    {"Host": EVIL, "X-Forwarded-Host": "{}"},
    {"Host": EVIL, "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"},
    {"Origin": f"https://{EVIL}"},
    {"Origin": f"https://{EVIL}", "Access-Control-Request-Method": "POST"},
    {"Origin": f"https://{EVIL}", **UPGRADE},
    {"Origin": "null"},
    {"Origin": "http://127.0.0.1:1", "Sec-Fetch-Site": "same-site"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"},
)


class Silent:
    levels, about_levels = (), ""


class Site:
    """A server that runs, with all routes of its application.

    Attributes:
      address: host and port.
      templates: paths as Gradio declares them, parameters in <>.
    """

    def __init__(self, url, app, samples):
        self.address = url.split("/")[2]
        paths = {path for route in _routes(app.routes) for path in _paths(route)}
        self.templates = sorted(paths)
        self._samples = samples
        self._connection = http.client.HTTPConnection(self.address, timeout=30)

    def ask(self, method, template, headers=()):
        """Return status, headers in lower case and body, empty of an endless one."""
        path = self._samples.get(template) or re.sub("<.*?>", "x", template)
        headers = {
            key: text.format(self.address) for key, text in dict(headers).items()
        }
        self._connection.request(method, path, headers=headers)
        answer = self._connection.getresponse()
        found = {key.lower(): value for key, value in answer.getheaders()}
        if found.get("content-type", "").startswith("text/event-stream"):
            self.close()
            return answer.status, found, b""
        return answer.status, found, answer.read()

    def close(self):
        self._connection.close()


def _routes(routes):
    for route in routes:
        inside = getattr(route, "original_router", None) or getattr(route, "app", None)
        if getattr(inside, "routes", None):
            yield from _routes(inside.routes)
        else:
            yield route


def _paths(route):
    """Yield a route's paths: one for each function where it is of all functions."""
    template = re.sub(r"{(\w+)(:path)?}", r"<\1>", route.path)
    for name in NAMES:
        yield template.replace("<api_name>", name)


def samples():
    """Return template -> a path that is there, for those that are of files."""
    from gradio import routes, utils

    example = Path(utils.get_upload_folder()) / "examples" / "place.png"
    found = {guard.FILE + "<path_or_url>": guard.FILE + str(example)}
    for part, folder in (
        ("/assets/", routes.BUILD_PATH_LIB),
        ("/static/", routes.STATIC_PATH_LIB),
    ):
        folder = Path(str(folder))
        file = next(path for path in sorted(folder.rglob("*")) if path.is_file())
        found[part + "<path>"] = part + file.relative_to(folder).as_posix()
    return found


@pytest.fixture(scope="module")
def site():
    apps, running = [], connections.running
    (port,) = scaling.free_ports(1)
    with contextlib.ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setenv("GRADIO_TEMP_DIR", "")

        def spy(app, *address):
            apps.append(app)
            return running(app, *address)

        patch.setattr(connections, "running", spy)
        url = stack.enter_context(server.serving(Silent(), "127.0.0.1", port, True))
        site = Site(url, apps[0], samples())
        stack.callback(site.close)
        yield site


def told():
    """Return (method, path) -> statuses that another site gets, from README's table."""
    table = README.read_text(encoding="utf-8").split("| Another site |")[1]
    found = {}
    for row in re.findall(r"^\| (.*?) \|.*\| (.*?) \|$", table.split("\n\n")[0], re.M):
        statuses = frozenset(map(int, re.findall(r"\b\d{3}\b", row[1])))
        for methods, paths in re.findall("([A-Z, ]+) ((?:`.*?`(?:, )?)+)", row[0]):
            for method in methods.split(", "):
                for path in re.findall("`(.*?)`", paths):
                    found[method, path] = statuses
    return found


def test_the_table_has_every_route_that_answers(site):
    assert (
        len(site.templates) > 60 and "/gradio_api/process_recording" in site.templates
    )
    assert any(path.startswith("/gradio_api/run/") for path in site.templates)
    answering = set()
    for headers in ({}, {"Origin": "http://{}", "Sec-Fetch-Site": "same-origin"}):
        for path in site.templates:
            for method in METHODS:
                status, found, _ = site.ask(method, path, headers)
                if status not in (404, 405):
                    answering.add((method, path))
                assert found.get("access-control-allow-origin") in (
                    None,
                    f"http://{site.address}",
                )
    assert answering == set(told())


def test_the_table_says_what_another_site_gets(site):
    table = told()
    for path in site.templates:
        for method in METHODS:
            statuses = set()
            for headers in OTHERS:
                status, found, body = site.ask(method, path, headers)
                statuses.add(status)
                assert not [key for key in found if key.startswith("access-control")]
                assert status == 200 or method == "HEAD" or body in REFUSALS, path
            assert statuses == table.get((method, path), {403}), (method, path)


REFUSALS = (
    b"this server does not answer under that name",
    b"pages of other sites may not ask",
)


def test_only_the_page_itself_follows_links(site):
    status, headers, body = site.ask("GET", "/", OTHERS[-1])
    assert status == 200 and b"gradio" in body
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert "frame-ancestors 'self'" in headers["content-security-policy"]


def test_nobody_tells_the_server_its_address(site):
    for path in ("/", "/config", "/gradio_api/info"):
        for name in ("X-Forwarded-Host", "X-Gradio-Server"):
            status, _, body = site.ask("GET", path, {name: f"http://{EVIL}"})
            assert status == 200 and EVIL.encode() not in body
    secure = site.ask("GET", "/config", {"X-Forwarded-Proto": "https"})[2]
    assert f"https://{site.address}".encode() in secure
