"""One app in one worker: its Bokeh `Application`, its sessions and its lifecycle hooks."""

from __future__ import annotations

import logging
import time
import weakref
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakValueDictionary

from bokeh.application import Application
from bokeh.document import Document
from tornado.ioloop import IOLoop

from aperture.app_state import session_state
from aperture.document.ids import IdSequence
from aperture.errors import AppLoadError, StateMismatch
from aperture.log_scope import short_id
from aperture.metrics import AppTally
from aperture.worker.document.loading import failure_of, new_document, use_our_lifecycle
from aperture.worker.document.teardown import take_apart
from aperture.worker.patch.pulls import Pulls
from aperture.worker.session.context import AppServerContext, AppSessionContext, SessionRequest
from aperture.worker.session.placement import NO_FENCE, Fence
from aperture.worker.session.session import Session

__all__ = ["AppHost", "Origin"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Origin:
    """What a session is created from.

    Args:
        request: as the app will see it; None where there was none.
        payload: what `session_context.token_payload` shows.
        values: packed, that the app has kept with the session and finds in its `session_state`.
        user: the user it was created for, as text; None without a login.
    """

    request: SessionRequest | None
    payload: dict[str, Any]
    values: Mapping[str, bytes] = field(default_factory=dict)
    user: str | None = None


class AppHost:
    """Builds and takes down the sessions of one app.

    Args:
        url: the app's route without the prefix, `/` or `/name`.
        application: Bokeh's recipe for the app's documents.
        logout_url: shown to apps as `session_context.logout_url`.
        issue_token: makes a fresh token for a session id.
        pulls: shared by the worker's sessions.
        tally: counts what its sessions do.
        clock: seconds that only grow; for who changed what lately.
    """

    def __init__(
        self,
        url: str,
        application: Application,
        *,
        logout_url: str | None,
        issue_token: Callable[[str], str],
        pulls: Pulls | None = None,
        tally: AppTally | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.url = url
        self.application = application
        self.sessions_by_id: dict[str, Session] = {}
        self.server_context = AppServerContext(self)
        self.tally = tally or AppTally.unread(url)
        """Counts what its sessions do."""
        self._logout_url = logout_url
        self._issue_token = issue_token
        self._pulls = pulls or Pulls()
        self._clock = clock
        use_our_lifecycle(application)

    @property
    def sessions(self) -> Iterable[Session]:
        return self.sessions_by_id.values()

    @property
    def io_loop(self) -> IOLoop:
        return IOLoop.current()

    def load(self) -> None:
        """Run the `on_server_loaded` hooks, and with them a directory app's `__init__.py`.

        Raises:
            AppLoadError: the app's package cannot be loaded. A hook that raises is only logged, as in Bokeh.
        """
        problem = None
        try:
            self.application.on_server_loaded(self.server_context)
        except Exception as raised:
            problem = raised
        failure = failure_of(self.application)
        if failure is not None:
            raise AppLoadError(self.url, failure) from problem
        if problem is not None:
            log.error("on_server_loaded of %s failed", self.url, exc_info=problem)

    def unload(self) -> None:
        """Run the `on_server_unloaded` hooks."""
        try:
            self.application.on_server_unloaded(self.server_context)
        except Exception:
            log.exception("on_server_unloaded of %s failed", self.url)

    async def build(
        self,
        session_id: str,
        origin: Origin,
        *,
        epoch: int = 1,
        fence: Fence = NO_FENCE,
        inherited: bool = False,
    ) -> Session:
        """Run the hooks and the app's code, on the event loop, as Bokeh does. `publish` lets others have the session.

        Args:
            session_id: of the new session.
            origin: what it is created from.
            epoch: of the claim.
            fence: asked before each hold whether the session is still this worker's.
            inherited: whether the id is older than this session.

        Raises:
            StateMismatch: the app's code fails with the values it has kept; nothing is left of the session.
            Exception: what a function app raises. A script's error is logged and leaves the page empty, as in Bokeh.
        """
        ids = IdSequence(session_id, self.url)
        ids.made = WeakValueDictionary()
        with ids.active():
            document = new_document()
        context = AppSessionContext(
            session_id,
            self.server_context,
            document,
            request=origin.request,
            token_payload=origin.payload,
            logout_url=self._logout_url,
        )
        document._session_context = weakref.ref(context)
        session_state(document).lay(origin.values)
        try:
            with ids.active():
                await self._run_hook(self.application.on_session_created(context), "on_session_created", session_id)
                self._fill(document, from_values=bool(origin.values))
        except BaseException:
            _take_apart(document)
            raise
        session = Session(
            session_id,
            document,
            ids=ids,
            issue_token=self._issue_token,
            app=self.url,
            context=context,
            epoch=epoch,
            fence=fence,
            inherited=inherited,
            pulls=self._pulls,
            tally=self.tally,
            clock=self._clock,
        )
        context._session = session
        return session

    def publish(self, session: Session) -> None:
        """Let requests find a session that was built."""
        session.held.ids.made = None
        self.sessions_by_id[session.id] = session

    async def abandon(self, session: Session) -> None:
        """Take down a session that was built and cannot be published."""
        await self.retire(session)
        _take_apart(session.document)

    def _fill(self, document: Document, *, from_values: bool) -> None:
        """Run the app's code.

        Values that it has kept and cannot deal with, perhaps because it is newer than they are, must not keep the
        session from ever being created.
        """
        try:
            self.application.initialize_document(document)
        except Exception as problem:
            if from_values:
                raise StateMismatch(f"the app's code fails with its values: {type(problem).__name__}") from problem
            raise
        if from_values and failure_of(self.application) is not None:
            raise StateMismatch("the app's code fails with its values")

    async def retire(self, session: Session) -> None:
        """Stop the session and run its `on_session_destroyed` hooks. Its lock must be held, or no user be left."""
        session.destroy()
        if self.sessions_by_id.get(session.id) is session:  # it may have been claimed and built anew meanwhile
            del self.sessions_by_id[session.id]
        context = session.context
        if context is not None:
            await self._run_hook(self.application.on_session_destroyed(context), "on_session_destroyed", session.id)
        session.context = None

    async def _run_hook(self, hook: Awaitable[None], name: str, session_id: str) -> None:
        try:
            await hook
        except Exception:
            log.exception("%s of %s failed for session %s", name, self.url, short_id(session_id))


def _take_apart(document: Document) -> None:
    for _ in take_apart(document):
        pass
