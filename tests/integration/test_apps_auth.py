"""Auth modules: who is not logged in sees the login page and nothing else; XSRF cookies protect the forms."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
from support.fetch import Response, fetch
from support.node import APPS, BOTH, Node, StockNode, kind_name
from support.patience import run, wait_until
from support.wire import ConnectionEnded, Viewer, page_token
from tornado.httpclient import HTTPClientError

from aperture.errors import ExitCode

MODULE = str(APPS / "auth.py")
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


def start(kind: type[StockNode], *options: str) -> StockNode:
    """A node that asks who is there; ours on two workers."""
    workers = ["--num-procs", "2"] if kind is Node else []
    return kind("context.py", options=["--auth-module", MODULE, "--cookie-secret", "of the tests", *workers, *options])


@pytest.fixture(scope="module", params=BOTH, ids=kind_name)
def node(request: pytest.FixtureRequest) -> Iterator[StockNode]:
    with start(request.param) as node:
        yield node


def login(node: StockNode, user: str, target: str = "/context") -> Response:
    """Send the login form, as a browser would."""
    return fetch(f"{node.url}/login?{urlencode({'next': target})}", "POST", FORM, urlencode({"user": user}).encode())


def pulls(node: StockNode, token: str, cookie: str | None) -> bool:
    """Whether a websocket with this token and cookie gets a document."""

    async def scenario() -> bool:
        try:
            async with Viewer.open(node.ws_url("/context"), token, {"Cookie": cookie} if cookie else {}) as viewer:
                return bool((await viewer.pull()).roots)
        except (ConnectionEnded, HTTPClientError):
            return False

    return run(scenario())


@pytest.mark.parametrize("path", ["/context", "/context?a=1", "/"])
def test_strangers_are_sent_to_the_login_page(node: StockNode, path: str) -> None:
    """The redirect remembers where they wanted to go."""
    answer = fetch(node.url + path)
    assert answer.status == 302
    where = urlsplit(answer.headers["location"])
    assert where.path == "/login"
    assert parse_qs(where.query)["next"] == [path]


def test_login_opens_page_and_websocket_and_logout_closes_them(node: StockNode) -> None:
    """The way of a user: log in, be sent back, see the app, know the logout URL, log out."""
    assert "<form" in fetch(node.url + "/login").text
    answer = login(node, "ada", "/context?a=1")
    assert (answer.status, answer.headers["location"]) == (302, "/context?a=1")
    cookie = answer.cookies()
    token = page_token(node.app_url("/context"), {"Cookie": cookie})
    assert pulls(node, token, cookie)
    left = fetch(node.url + "/logout", headers={"Cookie": cookie})
    assert (left.status, left.headers["location"]) == (302, "/login")
    assert re.search(r'user=("")?(;|$)', left.cookies())


LINES = """
import os, secrets
KEY = secrets.token_hex()
with open({ran!r}, "a") as file:
    file.write(f"{{os.getpid()}}\\n")
login_url = "/login"
def get_user(handler):
    return KEY
"""


def test_the_module_runs_once_for_all_workers_and_those_after_them(tmp_path: Path) -> None:
    """As with Bokeh: a key that it makes signs what every worker reads. Before that a trial has shown it fit."""
    module, ran, app = tmp_path / "auth.py", tmp_path / "ran", tmp_path / "app.py"
    module.write_text(LINES.format(ran=str(ran)))
    app.write_text("from bokeh.io import curdoc\n")
    with Node(app, options=["--auth-module", str(module), "--num-procs", "2"]) as node:
        first = node.worker_pids()
        node.kill(node.pid, signal.SIGHUP)
        wait_until(lambda: len(now := node.worker_pids()) == 2 and not set(now) & set(first))
        assert fetch(node.app_url("/app")).status == 200
        trial, kept = ran.read_text().split()
        assert (trial in map(str, [*first, *node.worker_pids()]), kept) == (False, str(node.pid))


def test_a_module_that_fails_stops_the_start(tmp_path: Path) -> None:
    """With its traceback, and the exit code of a bad option."""
    module = tmp_path / "auth.py"
    module.write_text("import nothing_of_that_name\n")
    with Node("context.py", options=["--auth-module", str(module)], wait=False) as node:
        assert node.wait() == ExitCode.USAGE
        assert "No module named 'nothing_of_that_name'" in node.log()
        assert str(module) in node.log()


def test_a_stolen_token_is_no_login(node: StockNode) -> None:
    """The websocket asks who is there too, so a token without the cookie gets nothing."""
    cookie = login(node, "ada").cookies()
    token = page_token(node.app_url("/context"), {"Cookie": cookie})
    assert not pulls(node, token, None)
    assert pulls(node, token, cookie)


def test_strangers_get_no_script_and_make_no_session(node: StockNode) -> None:
    """`autoload.js` and `metadata` are behind the login, static files and the favicon are not."""
    assert fetch(node.app_url("/context/autoload.js?bokeh-autoload-element=x")).status == 302
    assert fetch(node.app_url("/context/metadata")).status == 302
    assert fetch(node.url + "/static/js/bokeh.min.js").status == 200
    assert fetch(node.url + "/favicon.ico").status == 200
    if isinstance(node, Node):
        before = len(node.sessions())
        fetch(node.app_url("/context"))
        assert len(node.sessions()) == before


@pytest.mark.parametrize("kind", BOTH, ids=kind_name)
def test_xsrf_cookies_protect_the_login_form(kind: type[StockNode]) -> None:
    """With `--enable-xsrf-cookies` a form of another site is refused, the server's own form is taken."""
    with start(kind, "--enable-xsrf-cookies") as node:
        assert login(node, "mallory").status == 403
        form = fetch(node.url + "/login")
        (secret,) = re.findall(r'name="_xsrf" value="([^"]+)"', form.text)
        headers = FORM | {"Cookie": form.cookies()}
        body = urlencode({"user": "ada", "_xsrf": secret}).encode()
        answer = fetch(node.url + "/login", "POST", headers, body)
        assert answer.status == 302
        assert "user=ada" in answer.cookies()
