"""What an app is written with, where the server must know: Bokeh alone, or what builds upon it.

`Framework` is Bokeh alone, and so the null object of the rest; `aperture.worker.panel` has Panel's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from bokeh.application import Application
from bokeh.core.templates import AUTOLOAD_JS
from bokeh.document import Document
from bokeh.embed.bundle import Bundle, Script
from bokeh.embed.elements import html_page_for_render_items, script_for_render_items
from bokeh.embed.util import RenderItem
from bokeh.resources import Resources
from tornado.httputil import HTTPServerRequest

from aperture.worker.document.loading import use_our_lifecycle
from aperture.worker.patch.hold import HeldDocument
from aperture.worker.session.session_request import SessionRequest

__all__ = ["BOKEH", "Asks", "Embedding", "Framework", "PageSources", "StoredSession", "Verdict"]


class Asks(Protocol):
    """The way to the other workers: an `aperture.worker.peers.Peers`."""

    def answers(self, topic: str, give: Callable[[], bytes]) -> None: ...

    async def ask(self, topic: str) -> list[bytes]: ...

    async def claim(self, task: str, seconds: float) -> bool: ...

    async def leave(self, subject: str, note: bytes, seconds: float) -> None: ...

    async def find(self, subject: str) -> bytes | None: ...


class StoredSession(Protocol):
    """A session, as far as a framework records more of it than its document: an `aperture.worker.session.Session`."""

    @property
    def document(self) -> Document: ...

    @property
    def held(self) -> HeldDocument: ...

    @property
    def destroyed(self) -> bool: ...


class PageSources(Protocol):
    """Where pages load BokehJS from: `aperture.worker.http.resources.PageResources`."""

    def bundle(self, server_url: str | None = None, *, with_resources: bool = True) -> Bundle: ...

    def resources(self, server_url: str | None = None) -> Resources: ...


@dataclass(frozen=True, slots=True)
class Embedding:
    """Where in another page a session is shown.

    Args:
        element_id: of the element that it takes the place of.
        app_path: of the app, as that page sees it.
        absolute_url: of the app, if the page is another server's.
        server_url: scheme and host of that URL.
        with_resources: False where the page loads BokehJS by other means.
    """

    element_id: str
    app_path: str
    absolute_url: str | None
    server_url: str | None
    with_resources: bool


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a request for a page is answered with in place of the page.

    Args:
        status: of the answer.
        body: HTML; empty with a location.
        location: to go to instead.
    """

    status: int
    body: str = ""
    location: str | None = None


class Framework:
    """Bokeh alone. Every method may be called in any worker, on its event loop."""

    plain_pages = True
    """Whether a page by Bokeh's own template holds nothing but the document's title, token and roots."""

    relative_pages = False
    """Whether a page loads what it needs by addresses relative to its own: at a prefix, that must end with a slash."""

    parameters = False
    """Whether an app's route may be a regular expression, whose groups are its parameters."""

    settles = 0.0
    """Seconds, at most, for callbacks that an app's code has begun, before what was stored is laid over it."""

    @property
    def checks_imports(self) -> bool:
        """Whether what an app imports is imported before its first session is made, and must be there."""
        return True

    routes: Sequence[tuple[str, type]] = ()
    """What is served once for all apps: patterns of paths below the prefix, and their handlers, each made with the
    apps' `hosts` by their routes and with `services`."""

    def adopt(self, application: Application) -> None:
        """Prepare an app for this server, before its first session. Idempotent."""
        use_our_lifecycle(application)

    def request(self, request: SessionRequest | None, payload: Mapping[str, Any]) -> SessionRequest | None:
        """The request that a session was made from, as the app sees it.

        Args:
            request: as the server has it; None where there was none.
            payload: what `session_context.token_payload` shows.
        """
        return request

    def verdict(self, request: HTTPServerRequest, payload: Callable[[], Mapping[str, Any]]) -> Verdict | None:
        """What the app has against this request for a page, before a session is made for it; None if nothing.

        Args:
            request: for the page, of a user who is logged in where one must be.
            payload: what `session_context.token_payload` would show.
        """
        return None

    def made(self, document: Document) -> None:
        """The app's code has filled a new session's document."""

    def journaled(self, session: StoredSession) -> None:
        """A session's changes are written down from now on."""

    def restored(self, document: Document) -> None:
        """What another worker stored of a session has been laid over the document that the app's code made.

        Raises:
            StateMismatch: that is of no use; the session starts afresh.
        """

    def returned(self, document: Document) -> None:
        """A page that another worker has served before has pulled the document. Called with the document's lock."""

    async def start(self, application: object, peers: Asks) -> None:
        """The worker has loaded its apps, and is about to serve them.

        Args:
            application: its routes.
            peers: the other workers, which can be asked from soon on.
        """

    async def stop(self) -> None:
        """The worker is about to end."""

    def discard(self, document: Document) -> None:
        """The session has ended, and its hooks have run."""

    def page(self, sources: PageSources, document: Document, token: str) -> str:
        """The page of a session.

        Args:
            sources: of scripts and styles.
            document: of the session.
            token: that the page opens its websocket with.
        """
        return html_page_for_render_items(
            sources.bundle(),
            {},
            [RenderItem(token=token, roots=document.roots, use_for_title=True)],
            document.title,
            template=document.template,
            template_variables=document.template_variables or {},
        )

    def file(self, document: Document, path: str) -> bytes | None:
        """What is in a file that the code of a session brings along; None if there is none that may be had.

        Args:
            document: of the session.
            path: below the framework's own route.
        """
        return None

    def autoload(self, sources: PageSources, document: Document, token: str, embedding: Embedding) -> str:
        """The script that shows a session in another page.

        Args:
            sources: of scripts and styles.
            document: of the session.
            token: that the page opens its websocket with.
            embedding: where in that page.
        """
        bundle = sources.bundle(embedding.server_url, with_resources=embedding.with_resources)
        item = RenderItem(token=token, elementid=embedding.element_id, use_for_title=False)  # type: ignore[arg-type]
        script = script_for_render_items({}, [item], app_path=embedding.app_path, absolute_url=embedding.absolute_url)
        bundle.add(Script(script))
        rendered: str = AUTOLOAD_JS.render(bundle=bundle, elementid=embedding.element_id)
        return rendered


BOKEH = Framework()
