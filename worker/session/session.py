"""A session: one document, who looks at it, and the app code that runs for it.

The document changes only while it is held (`aperture.worker.patch.hold`); what has changed goes out by the fan-out.
A viewer gets to the present by `catch_up`; `pages`, `expiry` and `stays` are the session's own and need no document.

The public names are those that apps reach through `curdoc().session_context.session`.
"""

from __future__ import annotations

import inspect
import logging
import time
import weakref
from collections.abc import Awaitable, Callable, Sequence
from contextlib import nullcontext, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, cast, overload

from bokeh.document import Document
from bokeh.events import ConnectionLost
from tornado.ioloop import IOLoop

from aperture import tracing
from aperture.document.current import invoke_with_curdoc
from aperture.document.ids import IdSequence
from aperture.errors import NotTheirs, SessionGone
from aperture.log_scope import REQUEST, SESSION, SessionScope, short_id
from aperture.metrics import AppTally
from aperture.protocol.closing import SERVICE_RESTART
from aperture.worker.app_threads import ON_LOOP, AppCode, called, contained, stays_on_loop
from aperture.worker.patch.catch_up import CatchUp
from aperture.worker.patch.change_log import ChangeLog
from aperture.worker.patch.changes import final_change
from aperture.worker.patch.contention import Contention, Key
from aperture.worker.patch.corrections import Corrections
from aperture.worker.patch.fanout import Fanout
from aperture.worker.patch.hold import DocumentDiscarded, HeldDocument
from aperture.worker.patch.pulls import Pulls
from aperture.worker.patch.receivers import Journal
from aperture.worker.patch.viewer import Viewer
from aperture.worker.session.expiry import Expiry
from aperture.worker.session.framework import BOKEH, Framework
from aperture.worker.session.known_pages import KnownPages
from aperture.worker.session.placement import NO_FENCE, Fence
from aperture.worker.session.schedule import Schedule
from aperture.worker.session.stays import Stays

if TYPE_CHECKING:
    from bokeh.application.application import SessionContext
    from bokeh.core.types import ID
    from bokeh.document.events import DocumentChangedEvent

__all__ = ["Session"]

log = logging.getLogger(__name__)

T = TypeVar("T")

_NOT_TRACED = nullcontext()


class Session:
    """One instance of an app.

    Args:
        session_id: as the browser knows it.
        document: filled in by the app's code; its callbacks are an `OrderedCallbacks`.
        ids: where models made in this session take their ids from.
        issue_token: makes a fresh token for this session.
        app: the app's route, for logs.
        context: what the app sees of the session.
        epoch: of the claim that this worker holds it by; grows with each claim.
        fence: asked before each hold of the document whether the session is still this worker's to change.
        user: it was made for, as text; None where users have no names.
        inherited: whether the id is older than this object, so that pages may come that another worker has served.
        framework: that the app is written with.
        pulls: what all sessions of the worker share for those who ask for a whole document.
        tally: counts what the app's sessions do.
        code: runs the app's code.
        clock: seconds that only grow; for who changed what lately, and since when the session is unused.
    """

    def __init__(
        self,
        session_id: str,
        document: Document,
        *,
        ids: IdSequence,
        issue_token: Callable[[str], str],
        app: str = "/",
        context: SessionContext | None = None,
        epoch: int = 1,
        fence: Fence = NO_FENCE,
        user: str | None = None,
        inherited: bool = False,
        framework: Framework = BOKEH,
        pulls: Pulls | None = None,
        tally: AppTally | None = None,
        code: AppCode = ON_LOOP,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.app = app
        self.context = context
        self.framework = framework
        self.expiry = Expiry(clock)
        self.pages = KnownPages(inherited=inherited)
        self.stays = Stays(code)
        tally = tally or AppTally.unread(app)
        self.corrections = Corrections(self._correct)
        self.fanout = Fanout(
            epoch,
            tally,
            contested=self.corrections.expect,
            drained=_refresher(self),
            log=ChangeLog(partial(_has_model, document)),
        )
        self.held = HeldDocument(
            document,
            ids=ids,
            scope=SessionScope(session_id, app),
            fence=fence,
            fanout=self.fanout,
            contention=Contention(clock),
        )
        self.catch_up = CatchUp(self.held, self.pages, framework, pulls or Pulls())
        self._id = session_id
        self._issue_token = issue_token
        self._schedule = Schedule(self._run_scheduled, tally)
        self._user = user
        self._destroyed = False
        self._follow_callbacks()

    # What apps use

    @property
    def id(self) -> str:
        return self._id

    @property
    def token(self) -> str:
        """A fresh token that a page can open a websocket with."""
        token = self._issue_token(self._id)
        self.pages.note_issued(token)
        return token

    @property
    def document(self) -> Document:
        return self.held.document

    @property
    def destroyed(self) -> bool:
        return self._destroyed

    @property
    def connection_count(self) -> int:
        return self.fanout.connections

    @property
    def expiration_requested(self) -> bool:
        return self.expiry.requested

    @property
    def expiration_blocked(self) -> bool:
        return self.expiry.blocks > 0

    @property
    def expiration_blocked_count(self) -> int:
        return self.expiry.blocks

    @property
    def milliseconds_since_last_unsubscribe(self) -> float:
        return self.expiry.unused_for * 1000

    def request_expiration(self) -> None:
        """Let the next check discard this session if it has no connection, however short a time it has been unused."""
        self.expiry.requested = True

    def check_user(self, user: str | None) -> None:
        """Refuse a request that is not of the user the session was made for. None: of no user in particular.

        Raises:
            NotTheirs: it is another user's.
        """
        if user is not None and user != self._user:
            raise NotTheirs("the session is another user's")

    def block_expiration(self) -> None:
        self.expiry.block()

    def unblock_expiration(self) -> None:
        self.expiry.unblock()

    # Two types for one function: mypy does not find T in a union with what awaits it, where the outcome is not used.
    @overload
    async def with_document_locked(self, func: Callable[..., Awaitable[T]], *args: Any, **kwargs: Any) -> T | None: ...

    @overload
    async def with_document_locked(self, func: Callable[..., T], *args: Any, **kwargs: Any) -> T | None: ...

    async def with_document_locked(self, func: Callable[..., T | Awaitable[T]], *args: Any, **kwargs: Any) -> T | None:
        """Run `func`, or await it, while holding the document; its changes reach the viewers when it is done.

        Does nothing once the session was discarded, as in Bokeh: an app's background task may outlive its session.
        """
        try:
            return await self.locked(partial(func, *args, **kwargs), app_code=True)
        except DocumentDiscarded:
            log.debug("session %s was discarded; what was to be done with its document is not", short_id(self._id))
            return None

    async def locked(self, func: Callable[[], T | Awaitable[T]], *, app_code: bool = False) -> T:
        """As `with_document_locked`, for those who must know that it was not done.

        Args:
            func: called, or awaited, with the lock.
            app_code: whether it may take its time, and has a thread to itself if there are threads.

        Raises:
            SessionGone: the session was discarded, perhaps while this waited for its turn.
        """
        self.expiry.block()
        try:
            await self.held.enter()
            with self.held.hold() as hold:
                if app_code and self.stays.threaded and not stays_on_loop(func):
                    result = await self.stays.run(hold, func)
                else:
                    result = called(func)
                if result is not None and inspect.isawaitable(result):
                    return cast("T", await _finished(result))
                return result
        finally:
            self.expiry.unblock()

    def flush(self, held_back: Sequence[DocumentChangedEvent]) -> None:
        """Send changes that the app holds back to everyone now, in the middle of a callback or outside of one.

        Behind what has changed before them; without the lock, if another has it, as soon as it is free.
        """
        if self._destroyed or self.held.flush(held_back):
            return
        self.held.callbacks.release_next(held_back)
        if self.held.try_enter():
            with self.held.hold():
                pass
        else:
            IOLoop.current().spawn_callback(self.with_document_locked, _nothing)

    @property
    def _subscribed_connections(self) -> Sequence[object]:
        """Bokeh's name for what Panel writes to, past the document's callbacks."""
        from aperture.worker.panel.connections import connections_of

        return connections_of(self)

    async def read_locked(self, func: Callable[[], T]) -> T:
        """Run a function that only reads the document, between two changes; also once the session is frozen."""
        if self.held.frozen:
            return func()
        return await self.locked(func)

    async def rest(self, timeout: float) -> None:
        """Return when no callback of the app's that has begun still runs, or after so many seconds."""
        if timeout > 0:
            await self._schedule.rest(timeout)

    def begin_journal(self, journal: Journal) -> None:
        """Have changes written down from now on. The journal begins with a snapshot."""
        self.fanout.journal = journal
        self.held.callbacks.journaled = True
        # The snapshot holds all models of now, and no viewer has any yet.
        self.document.models.flush_synced()
        self.framework.journaled(self)

    # What connections use

    def attach(self, viewer: Viewer) -> None:
        """Count a connection in. It gets patches once it has pulled or pushed the document."""
        self.fanout.viewers.add(viewer)

    def detach(self, viewer: Viewer, *, lost: bool = False) -> None:
        """Count a connection out, and tell the app's `ConnectionLost` callbacks."""
        if viewer not in self.fanout.viewers:
            return
        self.fanout.leave(viewer)
        self.viewer_left(lost=lost)

    def viewer_left(self, *, lost: bool) -> None:
        """A connection, here or elsewhere, has ended; `lost`, if its page did not say goodbye and may come back."""
        self.expiry.note_left(lost=lost)
        if not self._destroyed and self.document.callbacks.event_callbacks_for_event_name(ConnectionLost.event_name):
            IOLoop.current().spawn_callback(self.with_document_locked, self.notify_connection_lost)

    def notify_connection_lost(self) -> None:
        """Run the document's `ConnectionLost` callbacks."""
        document = self.document
        invoke_with_curdoc(document, lambda: document.callbacks.trigger_event(ConnectionLost()))

    def destroy(self) -> None:
        """End the callbacks and refuse further use. The document is left for the hooks; see `teardown`."""
        if self._destroyed:
            return
        self._destroyed = True
        self._schedule.close()
        self.corrections.close()
        self.catch_up.close()
        self.held.discard()
        self.document.remove_on_change(self)
        self.fanout.audience.close(SERVICE_RESTART, "the session is gone")

    # What the document calls

    def _session_callback_added(self, event: Any) -> None:
        self.held.callbacks.added.schedule(self._schedule.add)

    def _session_callback_removed(self, event: Any) -> None:
        self._schedule.remove(event.callback)

    # Inside

    def _follow_callbacks(self) -> None:
        callbacks = self.held.callbacks
        callbacks.follow(self)
        callbacks.added.schedule(self._schedule.add)

    async def _run_scheduled(self, func: Callable[[], Any]) -> None:
        """Run a callback with the lock, unless the app said `without_document_lock`. In a task of its own."""
        SESSION.set(self.held.scope)
        REQUEST.set("")  # whatever request added it is over
        try:
            with tracing.scheduled() if tracing.on else _NOT_TRACED:
                await self._run_callback(func)
        except SessionGone:
            log.debug("callback of discarded session %s skipped", short_id(self._id))
        except Exception:
            log.exception("callback failed in session %s of %s", short_id(self._id), self.app)

    async def _run_callback(self, func: Callable[[], Any]) -> None:
        if not getattr(func, "nolock", False):
            await self.locked(func, app_code=True)
            return
        with self.held.ids.active():
            threaded = self.stays.threaded and not stays_on_loop(func)
            result = await self.stays.run(None, func) if threaded else called(func)
            if inspect.isawaitable(result):
                await _finished(result)

    async def _correct(self, keys: set[Key]) -> None:
        """Send everyone what the document holds in these places."""

        def record() -> None:
            for key in keys:
                change = final_change(self.document, key)
                if change is not None:
                    self.held.record(change)

        with suppress(SessionGone):
            await self.locked(record)


async def _finished(work: Awaitable[T]) -> T:
    """Await app code, which ends nothing but itself; its task may be cancelled."""
    try:
        return await work
    except SystemExit as problem:
        raise contained(problem) from problem


def _nothing() -> None:
    """For a hold that sends what waits for one."""


def _refresher(session: Session) -> Callable[[Viewer], None]:
    """Refreshes viewers of a session that it does not hold: a cycle would be freed by a collection only."""
    weak = weakref.ref(session)

    def refresh(viewer: Viewer) -> None:
        found = weak()
        if found is not None:
            found.catch_up.refresh_soon(viewer)

    return refresh


def _has_model(document: Document, model_id: str) -> bool:
    return document.models.get_by_id(cast("ID", model_id)) is not None
