"""Who gets the dashboard of a running node, over every way that leads to it; and what it says of other nodes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import urlencode

import pytest
from support.fetch import Response, fetch
from support.node import APPS, Node, StockNode
from support.patience import run
from support.wire import Viewer, page_token
from tornado.httpclient import HTTPClientError

from aperture.protocol.tokens import Tokens

TOKEN = "an-admin-token.of-the-tests"
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
NOT_HERE = "The dashboard is shown to browsers on this machine only"
NOT_LOGGED_IN = "Log in with the admin token first"
AUTOLOAD = "/autoload.js?bokeh-autoload-element=x"
HTTP_PATHS = ["", "/", AUTOLOAD, "/metadata"]


def made_up_token() -> str:
    """What anybody can make up where session ids are not signed."""
    return Tokens(None, False, 300).issue("a-session-id-of-a-stranger")


def opens(node: StockNode, path: str, headers: Mapping[str, str]) -> int:
    """The status that a websocket of a made-up session gets; 101 if it also gets a document."""

    async def scenario() -> int:
        try:
            async with Viewer.open(node.ws_url(path), made_up_token(), headers) as viewer:
                assert (await viewer.pull()).roots
                return 101
        except HTTPClientError as refused:
            return refused.code

    return run(scenario())


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    """Without a token, on two workers."""
    with Node("context.py", options=["--admin", "--num-procs", "2"]) as running:
        yield running


@pytest.fixture(scope="module")
def guarded() -> Iterator[Node]:
    """With a token, an auth module, signed sessions that others make, a prefix, and no admin port."""
    options = ["--admin", "--admin-port", "none", "--prefix", "/pre", "--auth-module", str(APPS / "auth.py")]
    options += ["--cookie-secret", "of the tests", "--session-ids", "external-signed", "--enable-xsrf-cookies"]
    env = {"APERTURE_ADMIN_TOKEN": TOKEN, "BOKEH_SECRET_KEY": "k" * 32}
    with Node("context.py", options=options, env=env, wait=False) as running:
        StockNode.await_ready(running)
        running.wait_for_log("Dashboard at: .*/pre/admin")
        yield running


@pytest.mark.parametrize("path", HTTP_PATHS)
def test_this_machine_gets_it(node: Node, path: str) -> None:
    """Without a token any local user may look."""
    assert fetch(node.app_url("/admin") + path).status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Forwarded-For": "203.0.113.5"},
        {"Forwarded": "for=203.0.113.5"},
        {"X-Real-IP": "127.0.0.1"},
        {"Host": "evil.example"},
    ],
)
@pytest.mark.parametrize("path", HTTP_PATHS)
def test_what_came_through_a_proxy_does_not(node: Node, path: str, headers: dict[str, str]) -> None:
    """403 and a plain sentence, on every route."""
    answer = fetch(node.app_url("/admin") + path, headers=headers)
    assert answer.status == 403
    assert answer.text.startswith(NOT_HERE)
    assert answer.headers["content-type"].startswith("text/plain")


def test_nor_does_its_websocket(node: Node) -> None:
    """A stranger can make up a session and open its websocket without any page."""
    assert opens(node, "/admin", {}) == 101
    assert opens(node, "/admin", {"X-Forwarded-For": "203.0.113.5"}) == 403
    assert opens(node, "/context", {"X-Forwarded-For": "203.0.113.5"}) == 101


def test_there_is_no_login_without_a_token(node: Node) -> None:
    """Nothing could be typed there."""
    assert fetch(node.app_url("/admin/login")).status == 404
    assert fetch(node.app_url("/admin/login"), "POST", FORM, b"token=").status == 404


def test_it_is_not_among_the_apps(node: Node) -> None:
    """The index does not list it, and one app is still the only one."""
    answer = fetch(node.url + "/")
    assert (answer.status, answer.headers["location"]) == (302, "/context")


def test_an_app_of_that_name_is_refused(tmp_path: Path) -> None:
    """Said at the start, by name, and not by serving one of the two."""
    app = tmp_path / "admin.py"
    app.write_text("")
    with Node(app, options=["--admin"], wait=False) as running:
        assert running.wait() == 2
        assert "--admin serves its dashboard at /admin" in running.log()


def log_in(node: Node, token: str, cookies: str) -> Response:
    """Load the form and send it, as a browser would."""
    form = fetch(node.app_url("/pre/admin/login"), headers={"Cookie": cookies})
    assert form.status == 200
    xsrf = form.text.partition('name="_xsrf" value="')[2].partition('"')[0]
    cookies = f"{cookies}; {form.cookies()}"
    body = urlencode({"token": token, "_xsrf": xsrf}).encode()
    return fetch(node.app_url("/pre/admin/login"), "POST", {**FORM, "Cookie": cookies}, body)


USER = "user=ada"


def test_the_token_opens_it(guarded: Node) -> None:
    """From anywhere: a form, a cookie that only the server reads, and every route, also with signed ids."""
    answer = fetch(guarded.app_url("/pre/admin"), headers={"Cookie": USER})
    assert (answer.status, answer.headers["location"]) == (303, "/pre/admin/login")
    answer = log_in(guarded, TOKEN, USER)
    assert (answer.status, answer.headers["location"]) == (303, "/pre/admin")
    (cookie,) = [value for name, value in answer.all_headers if name == "set-cookie" and value.startswith("aperture_")]
    assert {"httponly", "samesite=strict", "path=/pre/admin"} <= {part.strip().lower() for part in cookie.split(";")}
    assert TOKEN not in cookie
    headers = {"Cookie": f"{USER}; {cookie.split(';')[0]}", "X-Forwarded-For": "203.0.113.5"}
    for path in HTTP_PATHS:
        assert fetch(guarded.app_url("/pre/admin") + path, headers=headers).status == 200
    token = page_token(guarded.app_url("/pre/admin"), headers)

    async def scenario() -> None:
        async with Viewer.open(guarded.ws_url("/pre/admin"), token, headers) as viewer:
            assert (await viewer.pull()).roots

    run(scenario())
    assert TOKEN not in guarded.log()


@pytest.mark.parametrize("path", [AUTOLOAD, "/metadata", "/ws"])
def test_without_the_cookie_every_other_route_is_shut(guarded: Node, path: str) -> None:
    """And a token in the query opens nothing: it would stand in logs."""
    for query in ("", f"&token={TOKEN}", f"&bokeh-token={TOKEN}"):
        where = guarded.app_url("/pre/admin") + path + (query if "?" in path else query.replace("&", "?", 1))
        answer = fetch(where, headers={"Cookie": f"{USER}; aperture_admin=9999999999.{'0' * 64}"})
        assert answer.status == 403
        assert answer.text.startswith(NOT_LOGGED_IN)


def test_a_wrong_token_opens_nothing(guarded: Node) -> None:
    """The form comes back with a sentence and without a cookie."""
    answer = log_in(guarded, TOKEN + "x", USER)
    assert answer.status == 403
    assert "That is not the admin token" in answer.text
    assert "aperture_admin" not in answer.cookies()


def test_the_apps_login_is_asked_for_as_well(guarded: Node) -> None:
    """Who has the token and is not a user of the apps is sent to their login."""
    cookie = log_in(guarded, TOKEN, USER).cookies()
    answer = fetch(guarded.app_url("/pre/admin"), headers={"Cookie": cookie})
    assert answer.status == 302
    assert answer.headers["location"].startswith("/pre/login")
