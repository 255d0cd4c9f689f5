"""The forms in which a program may pass its apps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias
from urllib.parse import unquote

from bokeh.application import Application
from bokeh.application.handlers.function import FunctionHandler
from bokeh.document import Document

from aperture.errors import ConfigurationError
from aperture.paths import checked_route

__all__ = ["App", "Apps", "applications_of"]

App: TypeAlias = Application | Callable[[Document], Any]
"""A Bokeh application, or a function that fills a document."""

Apps: TypeAlias = Mapping[str, App] | App


def applications_of(apps: Apps) -> dict[str, Application]:
    """The applications by route. One without a route is at `/`; a route may be percent-encoded or plain.

    Raises:
        ConfigurationError: not an app, or not a route.
    """
    if isinstance(apps, Mapping):
        return {_route(path): _application(app) for path, app in apps.items()}
    return {"/": _application(apps)}


def _application(app: object) -> Application:
    if isinstance(app, Application):
        return app
    if callable(app):
        try:
            return Application(FunctionHandler(app))
        except ValueError as problem:
            raise ConfigurationError(f"not an app: {problem}") from problem
    raise ConfigurationError(f"not an app: {app!r}; an Application is one, or a function that takes a Document")


def _route(path: object) -> str:
    if not isinstance(path, str) or not path.startswith("/") or (path.endswith("/") and path != "/"):
        raise ConfigurationError(f"not a route: {path!r}; one begins with a slash and does not end with one")
    return checked_route(unquote(path))
