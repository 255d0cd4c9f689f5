"""The table of routes: which path goes to which handler."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from tornado.web import StaticFileHandler

from aperture.config.settings import DASHBOARD_ROUTE, Settings
from aperture.errors import ConfigurationError
from aperture.worker.dashboard.login import dashboard_routes
from aperture.worker.handler_context import Services
from aperture.worker.http.access_log import LoggedApplication, log_request
from aperture.worker.http.assets import BokehJsHandler, ExtensionHandler, IconHandler
from aperture.worker.http.auth import AuthHooks
from aperture.worker.http.bodies import MAX_BODIES, Bodies
from aperture.worker.http.index import IndexHandler
from aperture.worker.http.pages import AutoloadHandler, MetadataHandler, PageHandler
from aperture.worker.http.path_names import At, Below, Matching, WithParameters, has_parameters
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
    prefix = unquote(settings.prefix)
    routes: list[Route] = [(At("/favicon.ico"), IconHandler, {"icon": _icon(settings)})]
    scripts = {"departures": services.departures}
    extensions = {"extensions": services.extensions, **scripts}
    routes.append((Below(f"{prefix}/static/extensions"), ExtensionHandler, extensions))
    dashboard = DASHBOARD_ROUTE if settings.dashboard else None
    if dashboard is not None:
        # Before an app at the root, whose static folder would otherwise hide a part of it.
        routes.extend(dashboard_routes(prefix + dashboard, hosts[dashboard], services))
    apps = {url: host for url, host in hosts.items() if url != dashboard}
    for url, host in apps.items():
        routes.extend(_app_routes(prefix, "" if url == "/" else url, host, services))
    for pattern, *rest in (*settings.extra_patterns, *_framework_routes(hosts, services)):
        routes.append((Matching(prefix, pattern), *rest))
    for path, handler in auth.routes:
        routes.append((At(f"{prefix}/{unquote(path).lstrip('/')}"), handler))
    if settings.use_index:
        root = {"routes": list(apps), "index": settings.index, "redirect": settings.redirect_root}
        routes.append((At(prefix, slash=True), IndexHandler, root))
    routes.append((Below(f"{prefix}/static"), BokehJsHandler, scripts))
    # A program that takes larger bodies is to get one whole.
    bodies = Bodies(max(MAX_BODIES, settings.http_server_kwargs.get("max_body_size") or 0))
    return LoggedApplication(routes, bodies=bodies, auth_hooks=auth, **_tornado_settings(settings))


def _framework_routes(hosts: Mapping[str, AppHost], services: Services) -> list[Route]:
    routes = chain.from_iterable(framework.routes for framework in {host.framework for host in hosts.values()})
    return [(pattern, handler, {"hosts": hosts, "services": services}) for pattern, handler in routes]


def session_paths(routes: Sequence[str], prefix: str) -> frozenset[str]:
    """The paths, decoded, at which a request that names no session gets a new one."""
    paths: set[str] = set()
    for route in routes:
        base = unquote(prefix) + ("" if route == "/" else route)
        paths.update((base or "/", f"{base}/", f"{base}/autoload.js"))
    return frozenset(paths)


def _app_routes(prefix: str, url: str, host: AppHost, services: Services) -> list[Route]:
    shared = {"host": host, "services": services}
    if host.framework.parameters and has_parameters(url):
        # The page last: a parameter may be a path, and that of the websocket would be one.
        return [
            *((WithParameters(prefix, url, end), handler, shared) for end, handler in _ENDS),
            (WithParameters(prefix, url, "/static", below=True), *_static_handler(host, services)),
            (WithParameters(prefix, url, slash=True), PageHandler, shared),
        ]
    base = prefix + url
    return [
        (At(base, slash=True), PageHandler, shared),
        *((At(base + end), handler, shared) for end, handler in _ENDS),
        (Below(f"{base}/static"), *_static_handler(host, services)),
    ]


_ENDS: tuple[tuple[str, type], ...] = (
    ("/ws", SessionSocket),
    ("/metadata", MetadataHandler),
    ("/autoload.js", AutoloadHandler),
)


def _static_handler(host: AppHost, services: Services) -> Route:
    folder = host.application.static_path
    if folder is None:
        return (BokehJsHandler, {"departures": services.departures})
    return (StaticFileHandler, {"path": str(folder)})


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
        "user_header": settings.user_header,
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
