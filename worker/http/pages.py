"""The routes of an app that create or find a session: the page and autoload.js; and its metadata."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote

from tornado.iostream import StreamClosedError
from tornado.web import HTTPError, authenticated

from aperture.errors import BusDown, NotTheirs, OwnerGone, SessionGone
from aperture.log_scope import SESSION, SessionScope, short_id
from aperture.paths import quoted, requoted
from aperture.protocol.naming import SESSION_ID_HEADER, is_session_id
from aperture.protocol.tokens import Token
from aperture.worker.handler_context import Services
from aperture.worker.http.admission import admit_page, named_in_url, origin_of
from aperture.worker.http.auth import AuthenticatedHandler
from aperture.worker.http.render import AUTOLOAD, PAGE, server_of
from aperture.worker.http.session_urls import location_of, names_otherwise
from aperture.worker.session.arrival import Arrival
from aperture.worker.session.framework import Verdict
from aperture.worker.session.host import AppHost, Origin
from aperture.worker.session_access import Frame

__all__ = ["AutoloadHandler", "MetadataHandler", "PageHandler"]

log = logging.getLogger(__name__)


@contextmanager
def answered_503() -> Iterator[None]:
    """Answer a request whose session cannot be reached at present with 503, which says when to try again."""
    try:
        yield
    except (SessionGone, OwnerGone, BusDown) as problem:
        raise HTTPError(503, str(problem), reason="The session cannot be reached now") from problem


class AppHandler(AuthenticatedHandler):
    """Base of the routes under an app's path.

    Args:
        host: the app.
        services: the worker's shared parts.
    """

    destination = ""
    """What browsers say in `Sec-Fetch-Dest` (Fetch metadata, section 2.1) when they ask for such an answer."""

    generates_ids = False
    """Whether there are new sessions even where another program makes the ids."""

    def initialize(self, host: AppHost, services: Services) -> None:
        self.host = host
        self.services = services

    async def rendered(self, kind: str, arguments: dict[str, str]) -> str | bytes | Frame:
        """The page, or the script, of the session that this request is for, which is created if it is new.

        Raises:
            HTTPError: 403 for a request that has no right to it, 503 when it cannot be had now.
        """
        try:
            return await self.rendered_for(None, kind, arguments)
        except NotTheirs as problem:
            raise HTTPError(403, str(problem), reason="The session was another user's") from problem

    async def rendered_for(self, user: str | None, kind: str, arguments: dict[str, str]) -> str | bytes | Frame:
        """As `rendered`, but for this user alone; None: for anyone who has the session's id.

        Raises:
            NotTheirs: the session is, or was, another user's.
            HTTPError: as `rendered`.
        """
        services = self.services
        services.collector.activity()
        generate = self.generates_ids or services.settings.session_ids.generated
        admission = admit_page(self.request, services.tokens, generate_ids=generate)
        warm = self._ready_made() if admission.fresh and kind == PAGE else None
        session_id = warm or admission.session_id
        SESSION.set(SessionScope(session_id, self.host.url))  # for the rest of this request
        token = admission.token
        with answered_503():
            if token is not None and not await services.access.opens(token, self.host):
                raise HTTPError(403, reason="Token is expired")
            arrival = Arrival(
                self.host,
                session_id,
                lambda: self.origin(token),
                fresh=admission.fresh,
                user=user,
                early=self.early and not self.services.warm.is_reserved(session_id),
            )
            access = services.access
            return await (access.render_early if arrival.early else access.render)(arrival, kind, arguments)

    def origin(self, token: Token | None = None) -> Origin:
        """What a session that is made for this request is created from."""
        return origin_of(self.request, token, self.services.settings, self.host.application, self.user_name)

    @property
    def early(self) -> bool:
        """Whether the answer need not wait for its session: it is for a browser, and the app's pages allow it."""
        return self.host.framing.possible and self.request.headers.get("Sec-Fetch-Dest") == self.destination

    async def send(self, page: str | bytes | Frame) -> None:
        """Finish with what was rendered, and have the session made if that has only begun."""
        if not isinstance(page, Frame):
            self.finish(page)
            return
        try:
            # A browser that is gone by now has its session made all the same: it may have got the page.
            with suppress(StreamClosedError):
                await self.finish(page.text)
        finally:
            # Without threads its code keeps the loop that sends the scripts: the page says when it has them.
            if self.host.threaded:
                page.making.go()

    def _ready_made(self) -> str | None:
        """The id of a session that was made ahead, for a request like the one it was made for."""
        return None if self.request.arguments else self.services.warm.reserve(self.host.url)

    def compute_etag(self) -> str | None:
        """None: every page differs, and none is kept."""
        return None

    def options(self, *args: str, **kwargs: str) -> None:
        self.set_status(204)
        self.set_header("Allow", "GET, HEAD, OPTIONS")


class PageHandler(AppHandler):
    """`GET {app}`: the page of a session."""

    destination = "document"

    @authenticated
    async def get(self, *args: str, **kwargs: str) -> None:
        if self.host.framework.relative_pages and self.host.url == "/" and not self.request.path.endswith("/"):
            self.redirect(f"{self.request.path}/" + (f"?{self.request.query}" if self.request.query else ""))
            return
        if (verdict := self.host.framework.verdict(self.request, self._payload)) is not None:
            self._answer(verdict)
            return
        page = await (self._page_of_url() if self.services.settings.session_urls else self.rendered(PAGE, {}))
        if page is None:
            await self._redirect_to_new_session()
            return
        await self.services.extensions.publish()
        self.set_header("Content-Type", "text/html")
        # It holds the token of one session: a copy from a cache would open that session.
        self.set_header("Cache-Control", "no-store")
        await self.send(page)

    async def _page_of_url(self) -> str | bytes | Frame | None:
        """The page of the session that the URL names; None if it names none, or none that is there for this user.

        Raises:
            HTTPError: as `rendered`.
        """
        # The id is in the address: other sites must not read it there.
        self.set_header("Referrer-Policy", "same-origin")
        if names_otherwise(self.request):
            return await self.rendered(PAGE, {})
        session_id = named_in_url(self.request)
        if session_id is None or not await self._lives(session_id):
            return None
        try:
            return await self.rendered_for(self.user_name, PAGE, {})
        except NotTheirs as problem:
            shown = short_id(session_id)
            log.warning("session %s of %s: %s; a new one is made for this user", shown, self.host.url, problem)
            return None

    async def _lives(self, session_id: str) -> bool:
        services = self.services
        # An id that is none of this deployment's (any more) is that of a session that is gone.
        if not is_session_id(session_id) or not services.tokens.check_session_id(session_id):
            return False
        with answered_503():
            return await services.access.lives(session_id, self.host)

    async def _redirect_to_new_session(self) -> None:
        """Make a session, and send the browser to its URL. Made first: an id whose session is not there is replaced."""
        services = self.services
        services.collector.activity()
        warm = self._ready_made()
        session_id = warm or services.tokens.new_session_id()
        SESSION.set(SessionScope(session_id, self.host.url))
        with answered_503():
            early = self.early and not services.warm.is_reserved(session_id)
            await services.access.make(Arrival(self.host, session_id, self.origin, fresh=True, early=early))
        self.set_header("Cache-Control", "no-store")
        self.redirect(location_of(self.request, session_id), status=HTTPStatus.SEE_OTHER)

    def _payload(self) -> dict[str, Any]:
        return self.origin().payload

    def _answer(self, verdict: Verdict) -> None:
        if verdict.location is not None:
            self.redirect(verdict.location, status=verdict.status)
            return
        self.set_status(verdict.status)
        self.set_header("Content-Type", "text/html")
        self.set_header("Cache-Control", "no-store")
        self.finish(verdict.body)

    @authenticated
    async def head(self, *args: str, **kwargs: str) -> None:
        """Answer as `get` would, without making a session that has no viewer."""
        self.set_header("Content-Type", "text/html")
        self.set_header("Cache-Control", "no-store")


class AutoloadHandler(AppHandler):
    """`GET {app}/autoload.js`: what `bokeh.embed.server_document` and `server_session` put into other pages."""

    destination = "empty"  # they fetch it, to name a session or send a cookie

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
        await self.send(script)

    @authenticated
    async def head(self, *args: str, **kwargs: str) -> None:
        """An early page has its scripts; the header names its session.

        This route, because it is there at every app, and other sites' pages may ask for it.
        """
        session_id = self.request.headers.get(SESSION_ID_HEADER, "")
        if is_session_id(session_id):
            arrival = Arrival(self.host, session_id, self.origin)
            with answered_503():
                await self.services.access.loaded(arrival, self.request.remote_ip or "")
        self.set_header("Cache-Control", "no-store")
        self.set_status(HTTPStatus.NO_CONTENT)

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
