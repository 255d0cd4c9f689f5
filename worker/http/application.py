"""The table of routes: which path goes to which handler."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tornado.web import StaticFileHandler

from aperture.errors import ConfigurationError
from aperture.settings import DASHBOARD_ROUTE, Settings
from aperture.worker.dashboard.login import dashboard_routes
from aperture.worker.http.access import LoggedApplication, log_request
from aperture.worker.http.assets import BokehJsHandler, ExtensionHandler, IconHandler
from aperture.worker.http.auth import AuthHooks
from aperture.worker.http.index import IndexHandler
from aperture.worker.http.pages import AutoloadHandler, MetadataHandler, PageHandler
from aperture.worker.services import Services
from aperture.worker.session.host import AppHost
from aperture.worker.ws.handler import SessionSocket

__all__ = ["make_application", "session_paths"]

Route = tuple[Any, ...]


def make_application(hosts: Mapping[str, AppHost], services: Services, auth: AuthHooks) -> LoggedApplication:
    """The Tornado application of a worker.

    The order is Bokeh's, but for one thing: extension assets come before an app's own static folder, which hides them
    in Bokeh when the app is mounted at the root.
    """
    settings = services.settings
    prefix = settings.prefix
    routes: list[Route] = [(r"/favicon\.ico", IconHandler, {"icon": _icon(settings)})]
    routes.append((prefix + r"/static/extensions/(.*)", ExtensionHandler, {"extensions": services.extensions}))
    dashboard = DASHBOARD_ROUTE if settings.dashboard else None
    if dashboard is not None:
        # Before an app at the root, whose static folder would otherwise hide a part of it.
        routes.extend(dashboard_routes(prefix + dashboard, hosts[dashboard], services))
    apps = {url: host for url, host in hosts.items() if url != dashboard}
    for url, host in apps.items():
        routes.extend(_app_routes(prefix + ("" if url == "/" else url), host, services))
    for path, *rest in [*settings.extra_patterns, *auth.routes]:
        routes.append((prefix + path, *rest))
    if settings.use_index:
        root = {"urls": list(apps), "index": settings.index, "redirect": settings.redirect_root}
        routes.append((prefix + r"/?", IndexHandler, root))
    routes.append((prefix + r"/static/(.*)", BokehJsHandler))
    return LoggedApplication(routes, auth_hooks=auth, **_tornado_settings(settings))


def session_paths(urls: Sequence[str], prefix: str) -> frozenset[str]:
    """The paths at which a request that names no session gets a new one."""
    paths: set[str] = set()
    for url in urls:
        base = prefix + ("" if url == "/" else url)
        paths.update((base or "/", f"{base}/", f"{base}/autoload.js"))
    return frozenset(paths)


def _app_routes(base: str, host: AppHost, services: Services) -> list[Route]:
    shared = {"host": host, "services": services}
    return [
        (base + r"/?", PageHandler, shared),
        (base + r"/ws", SessionSocket, shared),
        (base + r"/metadata", MetadataHandler, shared),
        (base + r"/autoload\.js", AutoloadHandler, shared),
        _static_route(base, host),
    ]


def _static_route(base: str, host: AppHost) -> Route:
    folder = host.application.static_path
    if folder is None:
        return (base + r"/static/(.*)", BokehJsHandler)
    return (base + r"/static/(.*)", StaticFileHandler, {"path": str(folder)})


def _icon(settings: Settings) -> bytes | None:
    if settings.ico_path is None:
        return None
    try:
        return Path(settings.ico_path).read_bytes()
    except OSError as problem:
        raise ConfigurationError(f"cannot read the icon {settings.ico_path}: {problem}") from problem


def _tornado_settings(settings: Settings) -> dict[str, Any]:
    chosen: dict[str, Any] = {
        "prefix": settings.prefix,
        "xsrf_cookies": settings.xsrf_cookies,
        "websocket_max_message_size": settings.websocket_max_message_size,
        "websocket_ping_interval": settings.keep_alive or None,
        # A pong is not insisted on: while app code blocks the event loop, pongs lie unread by no fault of the peer.
        # Peers that are really gone are found by TCP (see aperture.worker.adopt).
        "websocket_ping_timeout": 0,
        "log_function": log_request,
    }
    if settings.cookie_secret is not None:
        chosen["cookie_secret"] = settings.cookie_secret
    return {**chosen, **settings.tornado_settings}
