"""What is particular about a session whose app is written with Panel: its request, its page, its end."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import panel.io.document as panel_document
from bokeh.application import Application
from bokeh.application.handlers.document_lifecycle import DocumentLifecycleHandler
from bokeh.document import Document
from bokeh.events import DocumentReady
from bokeh.settings import settings as bokeh_settings
from panel.config import config
from panel.io.logging import LOG_SESSION_CREATED
from panel.io.resources import CDN_DIST, LOCAL_DIST, Resources, patch_model_css
from panel.io.server import RequestProxy, autoload_js_script, server_html_page_for_session
from panel.io.session import generate_session
from panel.io.state import set_curdoc, state
from tornado.httputil import HTTPServerRequest

from aperture.errors import StateMismatch
from aperture.worker.document.classes import only_packaged_models
from aperture.worker.panel import authorization, users
from aperture.worker.panel.admin_logs import LOGS
from aperture.worker.panel.admin_page import AdminPage
from aperture.worker.panel.components import file_of
from aperture.worker.panel.memory import Memory
from aperture.worker.panel.recovery import take_over
from aperture.worker.panel.routes import COMPONENTS
from aperture.worker.panel.session_info import SESSIONS
from aperture.worker.panel.tasks import TASKS
from aperture.worker.panel.token_refresh import Refreshes
from aperture.worker.panel.watcher import Watcher
from aperture.worker.session.framework import Asks, Embedding, Framework, PageSources, StoredSession, Verdict
from aperture.worker.session.session_request import SessionRequest

__all__ = ["PANEL"]

log = logging.getLogger(__name__)

panel_log = logging.getLogger("panel.io.server")
"""Panel's admin page reads in its log when a session was made."""


@dataclass(frozen=True, slots=True)
class _Shown:
    """A session, as far as Panel's page looks at it."""

    document: Document
    token: str


class PanelFramework(Framework):
    """Panel, upon Bokeh."""

    plain_pages = False
    relative_pages = True
    parameters = True
    settles = 1.0
    """What is bound to an async function is computed in a callback, with the values that the app begins with."""
    routes = (COMPONENTS,)

    def __init__(self) -> None:
        self._watcher: Watcher | None = None
        self._admin_page = AdminPage(SESSIONS.refresh, LOGS.refresh)

    @property
    def checks_imports(self) -> bool:
        """Not with `--autoreload`, which follows the modules that Panel sees being imported when an app runs."""
        return not config.autoreload

    def adopt(self, application: Application) -> None:
        """Have the app call `on_session_destroyed` callbacks as Panel does: what fails in one is a warning."""
        if not any(isinstance(handler, DocumentLifecycleHandler) for handler in application.handlers):
            application.add(DocumentLifecycleHandler())

    def request(self, request: SessionRequest | None, payload: Mapping[str, Any]) -> Any:
        """The request by the type that Panel tests for, before it reads `pn.state.location` of it."""
        if request is None:
            return None
        return RequestProxy(
            request,
            arguments=request.arguments,
            cookies=request.cookies,
            headers=request.headers,
            route_params=payload.get("route_params"),
            app_path=payload.get("app_path"),
        )

    def verdict(self, request: HTTPServerRequest, payload: Callable[[], Mapping[str, Any]]) -> Verdict | None:
        """What the process's `authorize_callback` says; one that a session sets is asked when its page is written."""
        if not config.authorize_callback:
            return None
        # Of no app, and never run: where `pn.state.user_info` and the like look for the request.
        stub = generate_session(None, request, dict(payload()), initialize=False)
        return authorization.verdict(stub.document, request, of_session=False)

    def made(self, document: Document) -> None:
        """Have the document's models load their styles from this server.

        Panel does that when it writes the page. A page that comes back to another worker is not written again.
        """
        users.enter(document)
        with set_curdoc(document):
            here = f"{state.rel_path}/{LOCAL_DIST}" if state.rel_path else LOCAL_DIST
            dist_url = here if bokeh_settings.resources(default="server") == "server" else CDN_DIST
            document._template_variables.update(theme_name=config.theme, dist_url=dist_url)
            for root in document.roots:
                patch_model_css(root, dist_url=dist_url)

    def journaled(self, session: StoredSession) -> None:
        memory = Memory(session)
        memory.watch()
        # What is made when the page is ready is watched from then on.
        session.document.on_event(DocumentReady, lambda event: memory.watch())

    def restored(self, document: Document) -> None:
        """Bring Panel's objects to what their models say.

        Raises:
            StateMismatch: the document has widgets of ipywidgets.
        """
        # A page finds them by ids that are drawn anew in each run: it would look alive, and nothing in it would answer.
        if document in state._ipykernels:
            raise StateMismatch("widgets of ipywidgets do not outlive their worker")
        take_over(document)

    def returned(self, document: Document) -> None:
        """Tell an app that starts afresh under a page which was ready long ago: the page does not say it again."""
        if not state._connected.get(document):
            document.add_next_tick_callback(partial(_loaded, document))

    def file(self, document: Document, path: str) -> bytes | None:
        return file_of(document, path)

    async def start(self, application: Any, peers: Asks) -> None:
        """Run the setup script, answer other workers, and watch the files of the apps if that was asked for."""
        # First of all: what the setup script schedules may be due at once.
        TASKS.start(peers)
        if config.oauth_refresh_tokens:
            Refreshes(peers).install()
        # Made in each worker, so that Panel could not know it when it was given the server's logins.
        for known in list(state._server_config.values())[:1]:
            state._server_config.setdefault(application, known)
        if state._setup_module and state._setup_file_callback:
            try:
                state._setup_file_callback()
            except Exception:
                log.exception("the setup script failed")
        SESSIONS.start(peers)
        LOGS.start(peers)
        self._admin_page.start()
        if config.autoreload:
            self._watcher = Watcher()

    async def stop(self) -> None:
        self._admin_page.stop()
        if self._watcher is not None:
            await self._watcher.stop()

    def discard(self, document: Document) -> None:
        """Stop what Panel runs for the document, and forget it.

        Panel's tables hold the document weakly, but much that they hold of it refers to it.
        """
        users.leave(document)
        # Panel's own refers to the document, and collects all garbage at the end of each session.
        vars(document).pop("destroy", None)
        for callback in state._periodic.get(document, ()):
            callback.stop()
        for task in panel_document._write_tasks.get(document, ()):
            task.cancel()
        for table in _tables():
            table.pop(document, None)
        _forget_widgets(document)
        # The indicators of `sync_busy` are set at every event of the process, and this session's app is gone.
        state._indicators[:] = [indicator for indicator in state._indicators if indicator._models]

    def page(self, sources: PageSources, document: Document, token: str) -> str:
        request = getattr(document.session_context, "request", None)
        if request is not None and (refused := authorization.verdict(document, request, of_session=True)) is not None:
            return authorization.as_page(refused)
        panel_log.info(LOG_SESSION_CREATED, id(document))
        with set_curdoc(document), only_packaged_models():
            page: str = server_html_page_for_session(
                _Shown(document, token),
                resources=Resources.from_bokeh(sources.resources()),
                title=document.title,
                token=token,
                template=document.template,
                template_variables=document.template_variables,
            )
        return page

    def autoload(self, sources: PageSources, document: Document, token: str, embedding: Embedding) -> str:
        with set_curdoc(document), only_packaged_models():
            script: str = autoload_js_script(
                document,
                Resources.from_bokeh(sources.resources(embedding.server_url), absolute=True),
                token,
                embedding.element_id,
                embedding.app_path,
                embedding.absolute_url,
                absolute=True,
            )
        return script


PANEL = PanelFramework()


def _loaded(document: Document) -> None:
    """What Panel does when a page says that it is ready: run `onload` callbacks, and count the session as live."""
    state._schedule_on_load(document, None)
    state._init_session(None)


def _forget_widgets(document: Document) -> None:
    """Have ipywidgets forget the widgets of a document: it keeps each for ever, and each has the document."""
    widgets = sys.modules.get("panel.io.ipywidget")
    if widgets is not None:
        known = widgets._get_ipywidgets()
        for model_id in [name for name, widget in known.items() if getattr(widget, "_document", None) is document]:
            del known[model_id]


def _tables() -> list[WeakKeyDictionary[Document, Any]]:
    """What Panel knows of documents."""
    of_state = (getattr(type(state), name, None) for name in dir(type(state)) if name.startswith("_"))
    of_module = vars(panel_document).values()
    return [table for table in (*of_state, *of_module, config._session_config) if isinstance(table, WeakKeyDictionary)]
