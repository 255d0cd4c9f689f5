"""The routes of an app that create or find a session: the page and autoload.js; and its metadata."""

from __future__ import annotations

import inspect
import logging
from typing import Any
from urllib.parse import unquote

from tornado.web import HTTPError, authenticated

from aperture.errors import BusDown, NotTheirs, OwnerGone, SessionGone
from aperture.log_scope import SESSION, SessionScope
from aperture.paths import quoted, requoted
from aperture.worker.handler_context import Services
from aperture.worker.http.admission import admit_page, origin_of
from aperture.worker.http.auth import AuthenticatedHandler
from aperture.worker.http.render import AUTOLOAD, PAGE, server_of
from aperture.worker.session.host import AppHost

__all__ = ["AutoloadHandler", "MetadataHandler", "PageHandler"]

log = logging.getLogger(__name__)


class AppHandler(AuthenticatedHandler):
    """Base of the routes under an app's path.

    Args:
        host: the app.
        services: the worker's shared parts.
    """

    generates_ids = False
    """Whether there are new sessions even where somebody else makes the ids."""

    def initialize(self, host: AppHost, services: Services) -> None:
        self.host = host
        self.services = services

    async def rendered(self, kind: str, arguments: dict[str, str]) -> str | bytes:
        """The page, or the script, of the session that this request is for, which is created if it is new.

        Raises:
            HTTPError: 403 for a request that has no right to it, 503 when it cannot be had now.
        """
        services = self.services
        services.collector.activity()
        generate = self.generates_ids or services.settings.session_ids.generated
        admission = admit_page(self.request, services.tokens, generate_ids=generate)
        SESSION.set(SessionScope(admission.session_id, self.host.url))  # for the rest of this request
        token = admission.token
        application = self.host.application
        try:
            if token is not None and not await services.door.opens(token, self.host):
                raise HTTPError(403, reason="Token is expired")
            return await services.door.render(
                self.host,
                admission.session_id,
                lambda: origin_of(self.request, token, services.settings, application, self.user_name),
                kind,
                arguments,
                fresh=admission.fresh,
            )
        except NotTheirs as problem:
            raise HTTPError(403, str(problem), reason="The session was another user's") from problem
        except (SessionGone, OwnerGone, BusDown) as problem:
            raise HTTPError(503, str(problem), reason="The session cannot be reached now") from problem

    def compute_etag(self) -> str | None:
        """None: every page differs, and none is kept."""
        return None

    def options(self, *args: str, **kwargs: str) -> None:
        self.set_status(204)
        self.set_header("Allow", "GET, HEAD, OPTIONS")


class PageHandler(AppHandler):
    """`GET {app}`: the page of a session."""

    @authenticated
    async def get(self, *args: str, **kwargs: str) -> None:
        page = await self.rendered(PAGE, {})
        await self.services.extensions.publish()
        self.set_header("Content-Type", "text/html")
        # It holds the token of one session: whoever gets a copy from a cache gets into that session.
        self.set_header("Cache-Control", "no-store")
        self.finish(page)

    @authenticated
    async def head(self, *args: str, **kwargs: str) -> None:
        """Says that the page is there without making a session for nobody."""
        self.set_header("Content-Type", "text/html")
        self.set_header("Cache-Control", "no-store")


class AutoloadHandler(AppHandler):
    """`GET {app}/autoload.js`: what `bokeh.embed.server_document` and `server_session` put into other pages."""

    def set_default_headers(self) -> None:
        """Fetch standard, section 3.3. A wildcard counts only for requests without credentials."""
        self.set_header("Vary", "Origin")
        self.set_header("Access-Control-Allow-Origin", "*")
        self.set_header("Access-Control-Allow-Headers", "*")
        self.set_header("Access-Control-Allow-Credentials", "true")

    async def prepare(self) -> None:
        origin = self.request.headers.get("Origin")
        if origin is not None:
            self._answer_origin(origin)
        await super().prepare()

    def _answer_origin(self, origin: str) -> None:
        """Name the origin, so that its pages may read this with the visitor's cookies, unless it may not connect.

        The script holds the token of a session that was made with those cookies. Bokeh shows it to any site.
        """
        if self.services.origins.admits(origin):
            self.set_header("Access-Control-Allow-Origin", origin)
        elif self.request.cookies:
            log.error(
                "kept a script from origin %r, which asked with cookies; to allow it use --allow-websocket-origin=%s",
                origin[:200],
                origin.partition("://")[2][:200] or "HOST:PORT",
            )

    @authenticated
    async def get(self, *args: str, **kwargs: str) -> None:
        element_id = self.get_argument("bokeh-autoload-element", default=None)
        if not element_id:
            raise HTTPError(400, reason="No bokeh-autoload-element query parameter")
        arguments = {"element": element_id}
        for name in ("bokeh-app-path", "bokeh-absolute-url", "resources"):
            value = self.get_argument(name, default=None)
            if value is not None:
                arguments[name.removeprefix("bokeh-")] = value
        if "app-path" in arguments:
            arguments["app-path"] = self._as_in_urls(arguments["app-path"])
        _refuse_no_url(arguments.get("absolute-url"))
        script = await self.rendered(AUTOLOAD, arguments)
        await self.services.extensions.publish()
        self.set_header("Content-Type", "application/javascript")
        self.set_header("Cache-Control", "no-store")
        self.finish(script)

    def _as_in_urls(self, app_path: str) -> str:
        """The path of the app as the embedding page sees it, for the address of the websocket.

        Bokeh's `server_document` writes it into the query just as it stands in its URL, and so what is decoded here may
        have lost a plus or have had nothing to decode. Its end is known: it is this app's own path.
        """
        own = unquote(self.services.settings.prefix) + self.host.url.rstrip("/")
        for spelled in (own, own.replace("+", " ")):
            if app_path.endswith(spelled):
                return requoted(app_path.removesuffix(spelled)) + quoted(own)
        return requoted(app_path)

    def options(self, *args: str, **kwargs: str) -> None:
        """A browser's preflight; `server_session` causes one with its `Bokeh-Session-Id` header."""
        self.set_status(200)
        self.set_header("Access-Control-Allow-Methods", "PUT, GET, OPTIONS")
        wanted = self.request.headers.get("Access-Control-Request-Headers")
        if wanted is not None:
            # A wildcard names neither Authorization nor, with credentials, anything.
            self.set_header("Access-Control-Allow-Headers", wanted)


def _refuse_no_url(absolute_url: str | None) -> None:
    """Before a session is made for a script that cannot be rendered."""
    try:
        server_of(absolute_url)
    except ValueError:
        raise HTTPError(400, reason="bokeh-absolute-url is no URL") from None


class MetadataHandler(AppHandler):
    """`GET {app}/metadata`: what the app's author attached to it."""

    @authenticated
    async def get(self, *args: str, **kwargs: str) -> None:
        metadata: Any = self.host.application.metadata
        if callable(metadata):
            metadata = metadata()
        if inspect.isawaitable(metadata):
            metadata = await metadata
        self.finish({"url": self.host.url, "data": metadata or {}})

    head = get
