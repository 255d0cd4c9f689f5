"""The table of routes."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from bokeh.application import Application
from bokeh.application.handlers import DirectoryHandler, FunctionHandler
from tornado.httputil import HTTPHeaders, HTTPServerRequest, RequestStartLine
from tornado.web import Application as TornadoApplication
from tornado.web import RequestHandler, StaticFileHandler

from aperture.config.settings import Settings
from aperture.errors import ConfigurationError
from aperture.paths import quoted
from aperture.protocol.tokens import Tokens
from aperture.worker.collector import GarbageCollector
from aperture.worker.handler_context import Services
from aperture.worker.http.access_log import LoggedApplication
from aperture.worker.http.allowed_origins import AllowedOrigins
from aperture.worker.http.application import make_application, session_paths
from aperture.worker.http.assets import BokehJsHandler, Departures, ExtensionHandler, IconHandler
from aperture.worker.http.auth import AuthHooks
from aperture.worker.http.bodies import MAX_BODIES
from aperture.worker.http.index import IndexHandler
from aperture.worker.http.pages import AutoloadHandler, MetadataHandler, PageHandler
from aperture.worker.http.path_names import Below
from aperture.worker.http.resources import Extensions, PageResources
from aperture.worker.relay.cluster import Alone
from aperture.worker.session.host import AppHost
from aperture.worker.session.placement import LocalPlacement
from aperture.worker.session.store import SessionStore
from aperture.worker.session.warm import WarmSessions
from aperture.worker.session_access import SessionAccess
from aperture.worker.ws.handler import SessionSocket
from aperture.worker.ws.sockets import OpenSockets


class Extra(RequestHandler):
    """A handler of the user's own."""


def application_of(*urls: str, apps: dict[str, Application] | None = None, **options: Any) -> TornadoApplication:
    auth = options.pop("auth", AuthHooks())
    settings = Settings(**options)
    apps = apps or {url: Application(FunctionHandler(lambda document: None)) for url in urls}
    hosts = {url: AppHost(url, app, logout_url=None, issue_token=str) for url, app in apps.items()}
    collector = GarbageCollector()
    store = SessionStore(hosts, LocalPlacement(), collector, unused_lifetime=15)
    resources, departures = PageResources(settings.prefix), Departures()
    services = Services(
        settings=settings,
        tokens=Tokens(None, False, 300),
        store=store,
        access=SessionAccess(store, LocalPlacement(), resources, Alone().edges, departures),
        collector=collector,
        resources=resources,
        extensions=Extensions(),
        origins=AllowedOrigins([]),
        sockets=OpenSockets(),
        warm=WarmSessions({}, str, count=0, lifetime=1, idle=lambda: True, clock=lambda: 0.0),
        departures=departures,
    )
    return make_application(hosts, services, auth)


def request_for(path: str) -> HTTPServerRequest:
    """A request as it comes from the parser."""
    request = HTTPServerRequest(start_line=RequestStartLine("GET", path, "HTTP/1.1"), headers=HTTPHeaders(Host="h"))
    request.connection = None
    return request


def target(application: TornadoApplication, path: str) -> type[RequestHandler] | None:
    """Which handler a path goes to."""
    found: Any = application.find_handler(request_for(path))
    return None if found.handler_class.__name__ == "ErrorHandler" else found.handler_class


@pytest.mark.parametrize("prefix", ["", "/prefix"])
@pytest.mark.parametrize("url", ["/app", "/"])
def test_each_app_has_its_routes(prefix: str, url: str) -> None:
    """Under the prefix, with and without a slash at the end."""
    application = application_of(url, prefix=prefix)
    base = prefix + url.rstrip("/")
    routes = {
        base + "/": PageHandler,
        base + "/ws": SessionSocket,
        base + "/metadata": MetadataHandler,
        base + "/autoload.js": AutoloadHandler,
        base + "/static/js/bokeh.js": BokehJsHandler,
        prefix + "/static/js/bokeh.js": BokehJsHandler,
        prefix + "/static/extensions/panel/panel.js": ExtensionHandler,
        "/favicon.ico": IconHandler,
        base + "/nothing": None,
        base + "/autoloadxjs": None,
    }
    assert {path: target(application, path) for path in routes} == routes
    if base:
        assert target(application, base) is PageHandler


def test_the_root_lists_the_apps_unless_one_is_there_or_it_is_turned_off() -> None:
    """The index, an app at the root, or nothing."""
    assert target(application_of("/a", "/b"), "/") is IndexHandler
    assert target(application_of("/a", prefix="/p"), "/p") is IndexHandler
    assert target(application_of("/"), "/") is PageHandler
    assert target(application_of("/a", use_index=False), "/") is None


def test_an_apps_own_static_folder_hides_no_extensions(tmp_path: Path) -> None:
    """Also at the root, where it does in Bokeh."""
    folder = tmp_path / "app"
    (folder / "static").mkdir(parents=True)
    (folder / "main.py").write_text("")
    application = application_of(apps={"/": Application(DirectoryHandler(filename=str(folder)))})
    assert target(application, "/static/mine.css") is StaticFileHandler
    assert target(application, "/static/extensions/panel/panel.js") is ExtensionHandler


def test_routes_of_the_users_own() -> None:
    """Extra patterns and the pages of an auth module, under the prefix."""
    auth = AuthHooks(get_user=lambda handler: "ann", login_url="/login", login_handler=Extra)
    application = application_of("/app", prefix="/p", extra_patterns=[(r"/extra", Extra)], auth=auth)
    assert target(application, "/p/extra") is Extra
    assert target(application, "/p/login") is Extra
    assert target(application, "/extra") is None


@pytest.mark.parametrize("name", ["my app", "Übersicht", "a[1]", "c+d", "50%", "what?", "(p)", "a.b"])
@pytest.mark.parametrize("prefix", ["", "/mein%20Pr%C3%A4fix", "/a+b.c"])
def test_routes_are_matched_as_names(prefix: str, name: str) -> None:
    """However a client encodes them."""
    application = application_of(f"/{name}", "/other", prefix=prefix, extra_patterns=[(r"/extra/([0-9]+)", Extra)])
    for base in (prefix + quoted(f"/{name}"), prefix + "/" + quote(name, safe="")):
        assert target(application, base) is PageHandler
        assert target(application, base + "/ws") is SessionSocket
        assert target(application, base + "/autoload.js") is AutoloadHandler
        assert target(application, base + "/static/js/bokeh.js") is BokehJsHandler
    assert target(application, prefix + "/static/extensions/panel/panel.js") is ExtensionHandler
    assert target(application, prefix + "/extra/7") is Extra
    assert target(application, prefix + "/extra/seven") is None
    assert target(application, prefix + "/") is IndexHandler


def test_a_dot_is_a_dot() -> None:
    """And nothing else in a route is a part of a pattern."""
    application = application_of("/v1.2", "/a*", prefix="/p.q")
    assert target(application, "/p.q/v1.2") is PageHandler
    for path in ("/p.q/v1x2", "/pxq/v1.2", "/p.q/aa", "/p.q/v1.2\n", "/p.q/v1.2/autoloadxjs", "/faviconxico"):
        assert target(application, path) is None


def test_a_static_file_gets_its_name_decoded() -> None:
    """What is below the folder, as one text."""
    rest = Below("/my app/static").match(request_for("/my%20app/static/deep/a%20b.css"))
    assert rest == {"path_args": [b"deep/a b.css"]}


def test_a_login_page_is_no_pattern() -> None:
    """Its address is a path, with or without a slash at its beginning."""
    for login in ("/log.in", "log.in"):
        auth = AuthHooks(get_user=lambda handler: "ann", login_url=login, login_handler=Extra)
        application = application_of("/app", prefix="/p", auth=auth)
        assert target(application, "/p/log.in") is Extra
        assert target(application, "/p/logxin") is None


def test_settings_reach_tornado() -> None:
    """Ours by their meaning, and those passed through win."""
    settings = application_of(
        "/app",
        keep_alive=0,
        websocket_max_message_size=1234,
        cookie_secret="secret",
        tornado_settings={"xsrf_cookies": True, "mine": 1},
    ).settings
    assert settings["websocket_ping_interval"] is None
    assert settings["websocket_max_message_size"] == 1234
    assert settings["cookie_secret"] == "secret"
    assert settings["xsrf_cookies"] is True
    assert settings["mine"] == 1
    assert application_of("/app").settings["websocket_ping_interval"] == 37.0


def test_an_icon_that_cannot_be_read_stops_the_start(tmp_path: Path) -> None:
    """It was named for a reason."""
    with pytest.raises(ConfigurationError, match="icon"):
        application_of("/app", ico_path=str(tmp_path / "nowhere.ico"))
    (tmp_path / "here.ico").write_bytes(b"icon")
    application_of("/app", ico_path=str(tmp_path / "here.ico"))


def test_paths_that_make_sessions() -> None:
    """Pages and autoload scripts of every app, and nothing else."""
    assert session_paths(["/app"], "/p") == {"/p/app", "/p/app/", "/p/app/autoload.js"}
    assert session_paths(["/"], "") == {"/", "/autoload.js"}
    assert session_paths(["/"], "/p") == {"/p", "/p/", "/p/autoload.js"}
    assert "/q r/my app/" in session_paths(["/my app"], "/q%20r")


@pytest.mark.parametrize(
    ("kwargs", "most"), [({}, MAX_BODIES), ({"max_body_size": 1000}, MAX_BODIES), ({"max_body_size": 1 << 30}, 1 << 30)]
)
def test_a_program_that_takes_larger_bodies_gets_one_whole(kwargs: dict[str, int], most: int) -> None:
    """The bound on all bodies together is never below the bound that a program sets on one."""
    application = application_of("/app", http_server_kwargs=kwargs)
    assert isinstance(application, LoggedApplication)
    assert application.bodies.most == most
