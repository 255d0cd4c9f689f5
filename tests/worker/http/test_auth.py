"""The hooks of an auth module, and who is asking."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from support.peers import in_loop
from tornado.httputil import HTTPHeaders, HTTPServerRequest, RequestStartLine
from tornado.iostream import StreamClosedError
from tornado.web import Application, RequestHandler

from aperture.config.settings import Settings
from aperture.errors import BusDown, ConfigurationError
from aperture.worker.http.auth import AuthenticatedHandler, AuthHooks, load_auth_module, with_auth_loaded


class Page(RequestHandler):
    """A login page."""


def user(handler: RequestHandler) -> str:
    return "ann"


async def user_async(handler: RequestHandler) -> str:
    return "ann"


@pytest.mark.parametrize(
    "hooks",
    [
        {},
        {"get_user": user, "login_url": "/login"},
        {"get_user_async": user_async, "get_login_url": lambda handler: "/login"},
        {"get_user": user, "login_url": "https://elsewhere.example.org/login"},
        {
            "get_user": user,
            "login_url": "/login",
            "login_handler": Page,
            "logout_url": "/logout",
            "logout_handler": Page,
        },
        {"logout_url": "/logout"},
    ],
)
def test_hooks_that_fit_together(hooks: dict[str, Any]) -> None:
    """With or without pages of their own."""
    assert AuthHooks(**hooks).enabled == bool({"get_user", "get_user_async"} & hooks.keys())


@pytest.mark.parametrize(
    ("hooks", "reason"),
    [
        ({"get_user": user, "get_user_async": user_async, "login_url": "/login"}, "only one of get_user"),
        ({"get_user": user}, "login_url or get_login_url"),
        ({"get_user_async": user_async}, "login_url or get_login_url"),
        ({"login_url": "/login", "get_login_url": lambda handler: "/"}, "only one of login_url"),
        ({"login_handler": Page}, "needs a login_url"),
        ({"login_url": "https://elsewhere/login", "login_handler": Page}, "on this server"),
        ({"login_url": "//elsewhere/login", "login_handler": Page}, "on this server"),
        ({"login_url": "/login", "login_handler": object}, "subclass"),
        ({"login_url": "/login", "login_handler": "Page"}, "subclass"),
        ({"logout_handler": Page}, "needs a logout_url"),
    ],
)
def test_hooks_that_contradict_each_other(hooks: dict[str, Any], reason: str) -> None:
    """The node does not start with half a lock on its door."""
    with pytest.raises(ConfigurationError, match=reason):
        AuthHooks(**hooks)


def test_hooks_are_taken_from_an_object() -> None:
    """One shaped like Bokeh's `AuthProvider`, whatever it lacks."""

    class Provider:
        get_user = staticmethod(user)
        login_url = "/login"
        login_handler = Page

    hooks = AuthHooks.of(Provider())
    assert hooks.get_user is user
    assert hooks.routes == [("/login", Page)]
    assert hooks.logout_url is None


def test_hooks_are_taken_from_a_module(tmp_path: Path) -> None:
    """By the names that `bokeh serve --auth-module` documents."""
    file = tmp_path / "auth.py"
    file.write_text(
        "from tornado.web import RequestHandler\n"
        "class LoginHandler(RequestHandler): pass\n"
        "class LogoutHandler(RequestHandler): pass\n"
        "login_url, logout_url = '/login', '/logout'\n"
        "def get_user(handler): return 'ann'\n"
    )
    hooks = load_auth_module(str(file))
    assert hooks.enabled
    assert [url for url, _ in hooks.routes] == ["/login", "/logout"]


def test_a_module_that_is_not_there(tmp_path: Path) -> None:
    """Says which file it is about."""
    with pytest.raises(ConfigurationError, match="nowhere"):
        load_auth_module(str(tmp_path / "nowhere.py"))


@pytest.mark.parametrize("source", ["def (", "1 / 0", "raise SystemExit('no')"])
def test_a_module_that_fails_is_told_of_with_its_traceback(tmp_path: Path, source: str) -> None:
    """It is the administrator's to mend."""
    file = tmp_path / "auth.py"
    file.write_text(source)
    with pytest.raises(ConfigurationError, match=r"(?s)auth\.py has failed.*Traceback.*auth\.py"):
        load_auth_module(str(file))


def test_settings_take_the_hooks_once(tmp_path: Path) -> None:
    """What the module has made when it ran is then the same for all; a provider of the program's own wins."""
    file = tmp_path / "auth.py"
    file.write_text("key = object()\nget_user = lambda handler: key\nlogin_url = '/login'\n")
    loaded = with_auth_loaded(Settings(auth_module=str(file)))
    assert loaded.auth_module is None
    assert with_auth_loaded(loaded) is loaded
    hooks = AuthHooks.of(loaded.auth_provider)
    assert hooks == loaded.auth_provider
    assert with_auth_loaded(Settings()) == Settings()


class Connection:
    """As much of a connection as a handler needs to be made."""

    def set_close_callback(self, callback: object) -> None:
        """Nothing is ever closed here."""


def handler(hooks: AuthHooks, prefix: str = "") -> AuthenticatedHandler:
    made = HTTPServerRequest(start_line=RequestStartLine("GET", "/app", "HTTP/1.1"), headers=HTTPHeaders(Host="h"))
    made.connection = Connection()  # type: ignore[assignment]
    return AuthenticatedHandler(Application(auth_hooks=hooks, prefix=prefix), made)


def test_everybody_is_somebody_without_hooks() -> None:
    """Bokeh's name for them, so that `@authenticated` lets them pass."""
    assert handler(AuthHooks()).current_user == "default_user"


def test_the_user_comes_from_the_hook() -> None:
    """None means that there is no login."""
    assert handler(AuthHooks(get_user=user, login_url="/login")).current_user == "ann"
    assert handler(AuthHooks(get_user=lambda handler: None, login_url="/login")).current_user is None


@in_loop
async def test_an_async_hook_is_awaited_first() -> None:
    """Until then there is no login."""
    hooks = AuthHooks(get_user_async=user_async, login_url="/login")
    assert handler(hooks).current_user is None
    asking = handler(hooks)
    await asking.prepare()
    assert asking.current_user == "ann"


@pytest.mark.parametrize(
    ("prefix", "url", "expected"),
    [
        ("", "/login", "/login"),
        ("/prefix", "/login", "/prefix/login"),
        ("/prefix", "login", "/prefix/login"),
        ("/prefix", "https://elsewhere.example.org/login", "https://elsewhere.example.org/login"),
    ],
)
def test_the_login_page_is_under_the_prefix(prefix: str, url: str, expected: str) -> None:
    """Unless it is on another server."""
    assert handler(AuthHooks(get_user=user, login_url=url), prefix).get_login_url() == expected


def test_the_login_url_may_depend_on_the_request() -> None:
    """Then the hook's answer is used as it is."""
    hooks = AuthHooks(get_user=user, get_login_url=lambda handler: f"/login?from={handler.request.path}")
    assert handler(hooks, "/prefix").get_login_url() == "/login?from=/app"


@pytest.mark.parametrize(
    "problem", [BusDown("no connection to Redis"), StreamClosedError(), BrokenPipeError(32, "gone")]
)
def test_what_is_gone_leaves_one_line(problem: Exception, caplog: pytest.LogCaptureFixture) -> None:
    """A Redis that is down, or a peer that has left within its answer, is no failure of the server."""
    request = SimpleNamespace(method="GET", path="/app", remote_ip="10.0.0.1")
    handler = cast("AuthenticatedHandler", SimpleNamespace(request=request))
    AuthenticatedHandler.log_exception(handler, type(problem), problem, None)
    (record,) = caplog.records
    assert (record.levelname, record.exc_info) == ("WARNING", None)
    assert record.getMessage().startswith("GET /app (10.0.0.1) failed: ")
