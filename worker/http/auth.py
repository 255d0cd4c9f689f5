"""Who is asking: the hooks of an auth module, and the request handler they are called from.

An auth module is the one that `bokeh serve --auth-module` takes: a Python file with `get_user` or `get_user_async`,
`login_url` or `get_login_url`, and perhaps `LoginHandler`, `LogoutHandler` and `logout_url`. An object with these as
attributes (Bokeh's own `AuthProvider` is one) does as well.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import logging
import traceback
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import urljoin

from tornado.iostream import StreamClosedError
from tornado.web import HTTPError, RequestHandler

from aperture.config.settings import Settings
from aperture.errors import BusDown, ConfigurationError

__all__ = ["AuthHooks", "AuthenticatedHandler", "load_auth_module", "with_auth_loaded"]

log = logging.getLogger(__name__)

_RETRY_AFTER = 1
"""Seconds, in a 503: a session that moves, and a worker or a Redis that is started again, are back by then or soon."""

_EVERYBODY = "default_user"
"""The current user where no auth hooks are configured; the name is Bokeh's."""


@dataclass(frozen=True, slots=True)
class AuthHooks:
    """What an auth module offers; None for what it does not."""

    get_user: Callable[[RequestHandler], Any] | None = None
    get_user_async: Callable[[RequestHandler], Awaitable[Any]] | None = None
    login_url: str | None = None
    get_login_url: Callable[[RequestHandler], str] | None = None
    login_handler: type[RequestHandler] | None = None
    logout_url: str | None = None
    logout_handler: type[RequestHandler] | None = None

    def __post_init__(self) -> None:
        problem = self._problem()
        if problem:
            raise ConfigurationError(f"auth module: {problem}")

    @classmethod
    def of(cls, provider: object) -> AuthHooks:
        """The hooks of an object shaped like Bokeh's `AuthProvider`."""
        names = (
            "get_user",
            "get_user_async",
            "login_url",
            "get_login_url",
            "login_handler",
            "logout_url",
            "logout_handler",
        )
        return cls(**{name: getattr(provider, name, None) for name in names})

    @property
    def enabled(self) -> bool:
        return self.get_user is not None or self.get_user_async is not None

    @property
    def routes(self) -> list[tuple[str, type[RequestHandler]]]:
        """The login and logout pages, as far as the module brings them."""
        pairs = [(self.login_url, self.login_handler), (self.logout_url, self.logout_handler)]
        return [(url, handler) for url, handler in pairs if url is not None and handler is not None]

    def _problem(self) -> str | None:
        if self.get_user and self.get_user_async:
            return "only one of get_user and get_user_async may be given"
        if self.enabled and not (self.login_url or self.get_login_url):
            return "with get_user or get_user_async, login_url or get_login_url must be given"
        if self.login_url and self.get_login_url:
            return "only one of login_url and get_login_url may be given"
        return _page_problem("Login", self.login_handler, self.login_url) or _page_problem(
            "Logout", self.logout_handler, self.logout_url
        )


def _page_problem(what: str, handler: object, url: str | None) -> str | None:
    if handler is None:
        return None
    if not (isinstance(handler, type) and issubclass(handler, RequestHandler)):
        return f"{what}Handler must be a subclass of tornado.web.RequestHandler"
    if url is None or url.startswith(("http://", "https://", "//")):
        return f"{what}Handler needs a {what.lower()}_url on this server"
    return None


def load_auth_module(path: str) -> AuthHooks:
    """Run an auth module and take its hooks.

    Raises:
        ConfigurationError: there is no such file, it fails, or its hooks contradict each other.
    """
    if not Path(path).is_file():
        raise ConfigurationError(f"auth module: no such file: {path}")
    spec = importlib.util.spec_from_file_location(f"aperture_auth_{uuid.uuid4().hex}", path)
    if spec is None or spec.loader is None:
        raise ConfigurationError(f"auth module: not a Python file: {path}")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as problem:
        raise ConfigurationError(f"auth module {path} has failed:\n{traceback.format_exc()}") from problem
    return AuthHooks(
        get_user=getattr(module, "get_user", None),
        get_user_async=getattr(module, "get_user_async", None),
        login_url=getattr(module, "login_url", None),
        get_login_url=getattr(module, "get_login_url", None),
        login_handler=getattr(module, "LoginHandler", None),
        logout_url=getattr(module, "logout_url", None),
        logout_handler=getattr(module, "LogoutHandler", None),
    )


def with_auth_loaded(settings: Settings) -> Settings:
    """The settings with the hooks of the auth module in place of its path; for a node, before it forks its workers.

    A key that the module makes when it runs must be the same in every worker, and in those that take their places.

    Raises:
        ConfigurationError: as `load_auth_module`.
    """
    if settings.auth_module is None or settings.auth_provider is not None:
        return settings
    return dataclasses.replace(settings, auth_module=None, auth_provider=load_auth_module(settings.auth_module))


class AuthenticatedHandler(RequestHandler):
    """Base of the handlers that know their user. The application's settings hold `auth_hooks` and `prefix`."""

    @property
    def auth(self) -> AuthHooks:
        hooks: AuthHooks = self.settings["auth_hooks"]
        return hooks

    def log_exception(
        self,
        typ: type[BaseException] | None,
        value: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        """Log a refusal in one line and a failure with its traceback; never the query, where tokens ride."""
        where = f"{self.request.method} {self.request.path} ({self.request.remote_ip})"
        if isinstance(value, HTTPError):
            if value.log_message:
                log.warning(
                    "%d %s: %s",
                    value.status_code,
                    where,
                    value.log_message % value.args if value.args else value.log_message,
                )
            return
        if isinstance(value, BusDown | StreamClosedError | ConnectionError):
            # Redis is down, which the bus has logged; or the peer is gone, in the middle of its answer.
            log.warning("%s failed: %s", where, value)
            return
        log.error("%s failed", where, exc_info=value)

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        if status_code == HTTPStatus.SERVICE_UNAVAILABLE:
            # Here, because Tornado drops the headers that were set before an error.
            self.set_header("Retry-After", str(_RETRY_AFTER))
        super().write_error(status_code, **kwargs)

    def get_login_url(self) -> str:
        if self.auth.get_login_url is not None:
            url: str = self.auth.get_login_url(self)
            return url
        if self.auth.login_url is None:
            raise AssertionError("AuthHooks checks that one of the two is there")
        prefix: str = self.settings["prefix"]
        return urljoin(prefix + "/", self.auth.login_url.lstrip("/"))

    def get_current_user(self) -> Any:
        if self.auth.get_user is not None:
            return self.auth.get_user(self)
        # With get_user_async the user is set by prepare, and there is none until then.
        return None if self.auth.get_user_async is not None else _EVERYBODY

    @property
    def user_name(self) -> str | None:
        """The current user as text, to compare; None where users have no names."""
        if not self.auth.enabled:
            header: str | None = self.settings["user_header"]
            # A request without the header is of a user, too: of the one without a name.
            return None if header is None else self.request.headers.get(header, "")
        user = self.current_user
        if isinstance(user, bytes):
            return user.decode("utf-8", "replace")
        return user if isinstance(user, str) else json.dumps(user, default=str, sort_keys=True)

    async def prepare(self) -> None:
        if self.auth.get_user_async is not None:
            self.current_user = await self.auth.get_user_async(self)
