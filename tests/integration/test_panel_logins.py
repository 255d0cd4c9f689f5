"""Logins of Panel's command, by OAuth and by password: as on `panel serve`, from any of several workers."""

from __future__ import annotations

import asyncio
import base64
import re
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack, ExitStack, contextmanager
from pathlib import Path

import pytest
from support.fetch import fetch
from support.node import StockNode
from support.oauth_provider import EMAIL, OAuthProvider
from support.panel_features import PANELS, PanelNode, StockPanelNode
from support.patience import run, wait_until
from support.visitor import Visitor
from support.wire import Viewer, token_of
from tornado.httpclient import HTTPClientError

from aperture.errors import ExitCode

ACCOUNT = PANELS / "account.py"
ENCRYPTION = base64.urlsafe_b64encode(b"k" * 32).decode()
SECRETS = ["--cookie-secret", "a-secret-of-the-tests", "--oauth-encryption-key", ENCRYPTION]
TIMES = 6
"""Requests after one another; with three workers they go to each."""

SERVERS = ["panel serve", "3 workers"]

REFRESHED = 4
"""Times that the provider gives tokens: to the login, and to three rounds of refreshing."""


@contextmanager
def served(
    server: str, *options: str, env: Mapping[str, str | None] | None = None, app: Path = ACCOUNT
) -> Iterator[StockNode]:
    """The app, by Panel's own server or by ours."""
    if server == "panel serve":
        with StockPanelNode(app, options=options, env=env) as stock:
            yield stock
    else:
        with PanelNode(app, options=["--num-procs", server[0], *options], env=env) as node:
            yield node


@contextmanager
def with_oauth(server: str, provider: OAuthProvider, *options: str) -> Iterator[StockNode]:
    """The same, behind logins of a provider."""
    with served(server, *provider.options(), *SECRETS, *options, env=provider.environment()) as node:
        yield node


def shown(node: StockNode, visitor: Visitor) -> str:
    """What the app of a new page shows, when its websocket has opened."""
    url = node.app_url("/account")
    answer = visitor.get(url)
    assert answer.status == 200, (answer.status, answer.text[-500:], visitor.visited)
    token = token_of(answer.text)

    async def look() -> str:
        async with Viewer.open(node.ws_url("/account"), token, visitor.headers(url)) as viewer:
            return str((await viewer.request("PULL-DOC-REQ", {})).content)

    return run(look())


def refused(node: StockNode, token: str) -> int:
    """The status with which a websocket without cookies is refused."""

    async def knock() -> int:
        try:
            async with Viewer.open(node.ws_url("/account"), token):
                return 101
        except HTTPClientError as problem:
            return problem.code

    return run(knock())


def kill_workers(node: StockNode) -> None:
    """All of them, at once, and wait for those that take their places."""
    assert isinstance(node, PanelNode)
    before = node.worker_pids()
    for pid in before:
        node.kill(pid)
    wait_until(lambda: len(node.worker_pids()) == 3 and not {0, *before} & {*node.worker_pids()}, 60, "none came")


@pytest.mark.parametrize("server", SERVERS)
def test_a_login_by_oauth_holds_in_every_worker(server: str, tmp_path: Path) -> None:
    """From the first page to the logout: authorize, callback, cookies, websocket, and a worker that was killed."""
    (tmp_path / "bye.html").write_text("goodbye, log in at {{ LOGIN_ENDPOINT }}")
    with ExitStack() as stack:
        provider = stack.enter_context(OAuthProvider())
        node = stack.enter_context(with_oauth(server, provider, "--logout-template", str(tmp_path / "bye.html")))
        visitor, url = Visitor(), node.app_url("/account")
        for _ in range(TIMES):
            assert all(text in shown(node, visitor) for text in (f"user {EMAIL}", f"info {EMAIL}", "access access-"))
        assert any(visited.startswith(f"{provider.url}/authorize") for visited in visitor.visited)
        assert len(provider.granted) == 1, "logged in once"
        assert refused(node, token_of(visitor.get(url).text)) == 403
        if server != "panel serve":
            kill_workers(node)
            assert f"user {EMAIL}" in shown(node, visitor)
            assert len(provider.granted) == 1
        assert visitor.get(node.app_url("/logout")).text == "goodbye, log in at /login"
        assert not {"user", "access_token", "id_token", "refresh_token"} & visitor.cookies(url).keys()
        visitor.get(url)
        assert len(provider.granted) == 2, "logged in again"


@pytest.mark.parametrize("server", SERVERS)
def test_cookies_of_a_login_are_encrypted_and_signed(server: str) -> None:
    """No client can read a token in them, and one that was tampered with is none."""
    with OAuthProvider() as provider, with_oauth(server, provider) as node:
        visitor, url = Visitor(), node.app_url("/account")
        visitor.get(url)
        cookies = visitor.cookies(url)
        for name in ("access_token", "refresh_token", "id_token"):
            (value,) = re.findall(r"\|\d+:([^|]*)\|[0-9a-f]{64}$", cookies[name])
            content = base64.b64decode(value)
            assert not [part for part in (b"access-", b"refresh-", b".") if part in content]
        cookies["user"] = re.sub(r"[0-9a-f]{64}$", "0" * 64, cookies["user"])
        visitor.get(url)
        assert len(provider.granted) == 2, "logged in again"


@pytest.mark.parametrize("server", SERVERS)
def test_tokens_are_refreshed_once_for_all_pages_of_a_user(server: str) -> None:
    """Whichever workers have them: the provider takes a refresh token once, and takes a second user of it for a thief.

    Panel refreshes a minute before a token ends, which is after a few seconds here. A page that is made later, in
    whichever worker, has the new token and not that of the browser's cookies, and no user has to log in again.
    """
    with OAuthProvider(expires_in=62) as provider, with_oauth(server, provider, "--oauth-refresh-tokens") as node:
        visitor, url = Visitor(), node.app_url("/account")

        async def stay() -> None:
            async with AsyncExitStack() as stack:
                for _ in range(TIMES):
                    token = token_of((await asyncio.to_thread(visitor.get, url)).text)
                    # As browsers write it: Panel takes this header apart at the blank.
                    protocols = [f"bokeh, {token}"]
                    opened = Viewer.open(node.ws_url("/account"), token, visitor.headers(url), subprotocols=protocols)
                    await stack.enter_async_context(opened)
                await asyncio.to_thread(wait_until, lambda: len(provider.granted) >= REFRESHED, 60, "no refresh")

        run(stay(), 120)
        assert provider.refused == []
        assert [asked.get("grant_type") for asked in provider.granted].count("refresh_token") >= REFRESHED - 1


@pytest.mark.parametrize("server", SERVERS)
def test_a_login_that_fails_says_so(server: str, tmp_path: Path) -> None:
    """By the error template: what the provider refuses, and a state that this browser was not sent away with."""
    (tmp_path / "error.html").write_text("{{ error_type }}: {{ error }}, {{ error_msg }}")
    with ExitStack() as stack:
        provider = stack.enter_context(OAuthProvider())
        node = stack.enter_context(with_oauth(server, provider, "--oauth-error-template", str(tmp_path / "error.html")))
        for _ in range(TIMES):
            denied = Visitor().get(node.app_url("/login?error=access_denied&error_description=not+you"))
            assert (denied.status, denied.text) == (401, "Authentication Error: access_denied, not you")
            forged = Visitor().get(node.app_url("/login?code=code-1&state=forged"))
            assert (forged.status, forged.text.partition(",")[0]) == (401, "Authentication Error: state mismatch")
        assert not provider.granted


@pytest.mark.parametrize("server", SERVERS)
def test_guests_may_have_what_is_open_to_them(server: str) -> None:
    """One endpoint, and not the others; with `--oauth-optional` everything."""
    with OAuthProvider() as provider:
        with with_oauth(server, provider, "--oauth-guest-endpoints", "/account") as node:
            for _ in range(TIMES):
                assert "user guest" in shown(node, Visitor())
            assert not provider.granted
        with with_oauth(server, provider, "--oauth-optional") as node:
            for _ in range(TIMES):
                assert "user guest" in shown(node, Visitor())
            visitor = Visitor()
            visitor.get(node.app_url("/login"))
            assert len(provider.granted) == 1
            assert f"user {EMAIL}" in shown(node, visitor)


@pytest.mark.parametrize("server", SERVERS)
def test_a_password_is_asked_for_once(server: str, tmp_path: Path) -> None:
    """By a template of one's own, with cookies for one path; a wrong one is refused, and the logout forgets it."""
    (tmp_path / "login.html").write_text("who is it? {{ errormessage }}")
    (tmp_path / "users.json").write_text('{"ann": "first", "ben": "second"}')
    template = ["--basic-login-template", str(tmp_path / "login.html")]
    with served(server, "--basic-auth", str(tmp_path / "users.json"), *template, *SECRETS) as node:
        visitor, url = Visitor(), node.app_url("/account")
        assert visitor.get(url).text == "who is it? "
        login = node.app_url("/login")
        wrong = visitor.submit(login, b"username=ann&password=second")
        assert wrong.text == "who is it? Invalid username or password!"
        assert visitor.submit(login, b"username=ann&password=first").status == 200
        for _ in range(TIMES):
            assert all(text in shown(node, visitor) for text in ("user ann", "info ann"))
        if server != "panel serve":
            kill_workers(node)
            assert "user ann" in shown(node, visitor)
        visitor.get(node.app_url("/logout"))
        assert visitor.get(url).text == "who is it? "


SETUP = """
import panel as pn

def admit(info, path):
    user = (info or {}).get("user")
    return "/welcome?from=" + path if user == "cat" else user != "ben"

pn.config.authorize_callback = admit
"""

GUARDED = """
import panel as pn

pn.config.authorize_callback = lambda info: info["user"] != "dan"
pn.pane.Str(f"user {pn.state.user}").servable()
"""

USERS = '{"ann": "pass", "ben": "pass", "cat": "pass", "dan": "pass"}'


@pytest.mark.parametrize("server", SERVERS)
def test_a_user_may_be_refused(server: str, tmp_path: Path) -> None:
    """By a callback of the process or of the app, with a template of one's own, or sent elsewhere; in every worker."""
    files = {
        "setup.py": SETUP,
        "account.py": GUARDED,
        "users.json": USERS,
        "no.html": "{{ error_type }}: {{ error_msg }}",
    }
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    login = ["--basic-auth", str(tmp_path / "users.json"), "--auth-template", str(tmp_path / "no.html"), *SECRETS]
    options = [*login, "--setup", str(tmp_path / "setup.py")]
    with served(server, *options, app=tmp_path / "account.py") as node:
        visitors = {user: _logged_in(node, user) for user in ("ann", "ben", "cat", "dan")}
        url = node.app_url("/account")
        for _ in range(TIMES):
            assert "user ann" in shown(node, visitors["ann"])
            refused_by_process = visitors["ben"].get(url)
            assert refused_by_process.status == 403
            assert refused_by_process.text.startswith("Authorization Error: Access denied!")
            assert "ben" in refused_by_process.text
            assert visitors["dan"].get(url).text.startswith("Authorization Error: Access denied!")
            sent = fetch(url, headers=visitors["cat"].headers(url))
            assert (sent.status, sent.headers["location"]) == (302, "/welcome?from=/account")


def _logged_in(node: StockNode, user: str) -> Visitor:
    visitor = Visitor()
    visitor.get(node.app_url("/account"))
    # Where the browser is sent then is not looked at.
    _login(node, visitor, user)
    return visitor


def _login(node: StockNode, visitor: Visitor, user: str) -> list[str]:
    """The cookies that a login sets, as the server writes them."""
    url = node.app_url("/login")
    form = {"Content-Type": "application/x-www-form-urlencoded", **visitor.headers(url)}
    answer = fetch(url, "POST", headers=form, body=f"username={user}&password=pass".encode())
    assert answer.status == 302, answer.text
    cookies = [value for name, value in answer.all_headers if name == "set-cookie"]
    for cookie in cookies:
        name, _, value = cookie.partition(";")[0].partition("=")
        visitor.cookies(url)[name] = value.strip('"')
    return cookies


@pytest.mark.parametrize("server", SERVERS)
def test_cookies_of_a_login_are_for_the_path_that_was_given(server: str) -> None:
    """Several services on one host do not get each other's."""
    with served(server, "--basic-auth", "pass", "--cookie-path", "/account", *SECRETS) as node:
        cookies = [cookie for cookie in _login(node, Visitor(), "ann") if cookie.startswith(("user=", "id_token="))]
        assert len(cookies) == 2
        assert all(re.search(r"; ?path=/account(;|$)", cookie, re.IGNORECASE) for cookie in cookies), cookies


KEPT = ["--unused-session-lifetime", "600000", "--check-unused-sessions", "600000"]
"""A session whose page has gone is not discarded while the test looks."""

ACTIVE = """
import panel as pn

pn.pane.Str(f"active {pn.state._active_users['ann']}").servable()
"""


@pytest.mark.parametrize(("server", "counted"), [("panel serve", 3), ("1 worker", 1)])
def test_a_user_is_counted_by_pages_and_not_by_websockets(server: str, counted: int, tmp_path: Path) -> None:
    """Else one whose network fails now and then stays active for ever, and their tokens are refreshed for ever.

    A page comes here again and again after its network has failed. On Panel's own server each websocket counts.
    """
    app = tmp_path / "account.py"
    app.write_text(ACTIVE)
    with served(server, "--basic-auth", "pass", *SECRETS, *KEPT, app=app) as node:
        visitor = Visitor()
        _login(node, visitor, "ann")
        url = node.app_url("/account")
        token = token_of(visitor.get(url).text)

        async def come_back() -> None:
            for _ in range(3):
                async with Viewer.open(node.ws_url("/account"), token, visitor.headers(url)) as viewer:
                    await viewer.request("PULL-DOC-REQ", {})

        run(come_back())
        assert f"active {counted}" in shown(node, visitor)


def test_without_cryptography_the_command_says_what_is_missing(tmp_path: Path) -> None:
    """In one line, and not by a traceback: Panel needs it for the encryption of cookies."""
    (tmp_path / "cryptography.py").write_text("raise ImportError('as if it were not installed')")
    options = ["--oauth-provider", "generic", "--oauth-key", "key", "--oauth-secret", "secret", *SECRETS]
    node = PanelNode(ACCOUNT, options=options, env={"PYTHONPATH": str(tmp_path)}, wait=False)
    with node:
        assert node.wait(60) == ExitCode.USAGE
        assert "requires the cryptography library" in node.log()
        assert "Traceback" not in node.log()
