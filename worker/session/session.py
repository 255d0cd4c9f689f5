"""A session: one document, who looks at it, and how long it lives.

The document changes only while it is held (`aperture.worker.patch.hold`); what has changed goes out by the fan-out.

The public names are those that apps reach through `curdoc().session_context.session`.
"""

from __future__ import annotations

import inspect
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import nullcontext, suppress
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any, TypeVar

from bokeh.document import Document
from bokeh.events import ConnectionLost
from tornado.ioloop import IOLoop

from aperture import tracing
from aperture.document.current import invoke_with_curdoc
from aperture.document.ids import IdSequence
from aperture.errors import SessionGone
from aperture.log_scope import REQUEST, SESSION, SessionScope, short_id
from aperture.metrics import AppTally
from aperture.protocol.closing import SERVICE_RESTART
from aperture.worker.patch.changes import final_change
from aperture.worker.patch.contention import Contention, Key
from aperture.worker.patch.corrections import Corrections
from aperture.worker.patch.fanout import Fanout
from aperture.worker.patch.hold import DocumentDiscarded, HeldDocument, Hold
from aperture.worker.patch.pulls import Pulls
from aperture.worker.patch.receivers import Journal
from aperture.worker.patch.viewer import Viewer
from aperture.worker.session.placement import NO_FENCE, Fence
from aperture.worker.session.schedule import Schedule

if TYPE_CHECKING:
    from bokeh.application.application import SessionContext
    from bokeh.model import Model

    from aperture.protocol.messages import FramedDocument

__all__ = ["Session"]

log = logging.getLogger(__name__)

T = TypeVar("T")

_NOT_TRACED = nullcontext()

_TOKENS_REMEMBERED = 50_000
"""Pages that may come back to one session. A megabyte or two, and only for a session that many look at."""


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
        inherited: whether the id is older than this object, so that pages may come that another worker has served.
        pulls: what all sessions of the worker share for those who ask for a whole document.
        tally: counts what the app's sessions do.
        clock: seconds that only grow; for who changed what lately.
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
        inherited: bool = False,
        pulls: Pulls | None = None,
        tally: AppTally | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.app = app
        self.context = context
        self.created = time.monotonic()
        self.inherited = inherited
        self.pulls = pulls or Pulls()
        tally = tally or AppTally.unread(app)
        self.corrections = Corrections(self._correct)
        self.fanout = Fanout(epoch, tally, self.corrections.expect)
        self.held = HeldDocument(
            document,
            ids=ids,
            scope=SessionScope(session_id, app),
            fence=fence,
            fanout=self.fanout,
            contention=Contention(clock),
        )
        self._id = session_id
        self._issue_token = issue_token
        self._schedule = Schedule(self._run_scheduled, tally)
        self._pulled_tokens: dict[int, None] = {}
        self._issued_tokens: dict[int, None] = {}
        self._last_unsubscribe = time.monotonic()
        self._last_lost = -inf
        self._destroyed = False
        self._expiration_requested = False
        self._expiration_blocks = 0
        self._follow_callbacks()

    # What apps use

    @property
    def id(self) -> str:
        return self._id

    @property
    def token(self) -> str:
        """A fresh token that a page can open a websocket with."""
        token = self._issue_token(self._id)
        _remember(self._issued_tokens, token)
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
        return self._expiration_requested

    @property
    def expiration_blocked(self) -> bool:
        return self._expiration_blocks > 0

    @property
    def expiration_blocked_count(self) -> int:
        return self._expiration_blocks

    @property
    def age_seconds(self) -> float:
        return time.monotonic() - self.created

    @property
    def milliseconds_since_last_unsubscribe(self) -> float:
        return (time.monotonic() - self._last_unsubscribe) * 1000

    @property
    def seconds_since_last_lost(self) -> float:
        """Since a connection ended whose page may come back; infinite, if none has."""
        return time.monotonic() - self._last_lost

    def request_expiration(self) -> None:
        """Let the next check discard this session if it has no connection, however short a time it has been unused."""
        self._expiration_requested = True

    def touch(self) -> None:
        """Count the unused time from now: a page of this session has just been sent."""
        self._last_unsubscribe = time.monotonic()

    def block_expiration(self) -> None:
        self._expiration_blocks += 1

    def unblock_expiration(self) -> None:
        if self._expiration_blocks <= 0:
            raise RuntimeError("mismatched block_expiration / unblock_expiration")
        self._expiration_blocks -= 1

    async def with_document_locked(self, func: Callable[..., T | Awaitable[T]], *args: Any, **kwargs: Any) -> T | None:
        """Run `func`, or await it, while holding the document; its changes reach the viewers when it is done.

        Does nothing once the session was discarded, as in Bokeh: an app's background task may outlive its session.
        """
        try:
            return await self.locked(partial(func, *args, **kwargs))
        except DocumentDiscarded:
            log.debug("session %s was discarded; what was to be done with its document is not", short_id(self._id))
            return None

    async def locked(self, func: Callable[[], T | Awaitable[T]]) -> T:
        """As `with_document_locked`, for those who must know that it was not done.

        Raises:
            SessionGone: the session was discarded, perhaps while this waited for its turn.
        """
        self.block_expiration()
        try:
            await self.held.enter()
            with self.held.hold():
                result = func()
                if result is not None and inspect.isawaitable(result):
                    result = await result
                return result
        finally:
            self.unblock_expiration()

    async def read_locked(self, func: Callable[[], T]) -> T:
        """Run a function that only reads the document, between two changes; also once the session is frozen."""
        if self.held.frozen:
            return func()
        return await self.locked(func)

    def take_made(self) -> dict[str, Model]:
        """The models that the app's code has made, in the document or not, by id; nothing is noted any more."""
        ids = self.held.ids
        made, ids.made = ids.made, None
        return dict(made or {})

    def resume(self, *, held: bool) -> None:
        """Go on with a document that another worker had.

        Args:
            held: whether the app held it there.
        """
        self.held.callbacks.resume(held=held)
        # A new model must not get an id that a model of the document has.
        self.held.ids.skip(model.id for model in self.document.models)

    def keep_journal(self, journal: Journal) -> None:
        """Have changes written down from now on. The journal begins with a snapshot."""
        self.fanout.journal = journal
        self.held.callbacks.journaled = True
        # The snapshot holds all models of now, and no viewer has any yet.
        self.document.models.flush_synced()

    # What connections use

    def attach(self, viewer: Viewer) -> None:
        """Count a connection in. It gets patches once it has pulled or pushed the document."""
        self.fanout.viewers.add(viewer)

    def detach(self, viewer: Viewer, *, lost: bool = False) -> None:
        """Count a connection out, and tell the app's `ConnectionLost` callbacks."""
        if viewer not in self.fanout.viewers:
            return
        self.fanout.viewers.discard(viewer)
        self.viewer_left(lost=lost)

    def viewer_left(self, *, lost: bool) -> None:
        """A connection, here or elsewhere, has ended; `lost`, if its page did not say goodbye and may come back."""
        self._last_unsubscribe = time.monotonic()
        if lost:
            self._last_lost = self._last_unsubscribe
        if not self._destroyed and self.document.callbacks.event_callbacks_for_event_name(ConnectionLost.event_name):
            IOLoop.current().spawn_callback(self.with_document_locked, self.notify_connection_lost)

    def notify_connection_lost(self) -> None:
        """Run the document's `ConnectionLost` callbacks."""
        document = self.document
        invoke_with_curdoc(document, lambda: document.callbacks.trigger_event(ConnectionLost()))

    def is_return(self, token: str, *, from_browser: bool = True) -> bool:
        """Whether a page that used this token has pulled the document before, and so is coming back.

        It is unknown which patches a page made by another worker has; it is treated as a page that reconnects. That
        costs it a longer text, where the other mistake would leave it without a document.
        """
        known = hash(token)
        strange = self.inherited and from_browser and known not in self._issued_tokens
        return strange or known in self._pulled_tokens

    def remember_pull(self, token: str) -> None:
        """Count a page with this token as one that comes back, whatever this session has seen of it."""
        _remember(self._pulled_tokens, token)

    def whole_document(self, *, inline: bool) -> FramedDocument:
        """What a pull is answered with. Called in a hold, and by what changes nothing before or after that."""
        self.held.holds -= 1
        as_of = (self.held.holds, self.held.callbacks.changes)
        return self.pulls.take(self.document, as_of, inline=inline, keep=self.connection_count > 1)

    def mark_pulled(self, viewer: Viewer, hold: Hold) -> None:
        """The viewer has the whole document as of now, after all changes made in this hold."""
        # What a push tells of its new roots is for the others.
        hold.batch.leave_out(viewer)
        # A journal or another viewer may lack the new models, as changes may be held back: keep them marked as new.
        if not self.fanout.journal.writes and not self.fanout.any_live(but=viewer):
            self.document.models.flush_synced()
        self.held.callbacks.document_shown()
        viewer.live = True
        self.remember_pull(viewer.token)

    def destroy(self) -> None:
        """End the callbacks and refuse further use. The document is left for the hooks; see `teardown`."""
        if self._destroyed:
            return
        self._destroyed = True
        self._schedule.close()
        self.corrections.close()
        self.pulls.forget(self.document)
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
            await self.locked(func)
            return
        with self.held.ids.active():
            result = func()
            if inspect.isawaitable(result):
                await result

    async def _correct(self, keys: set[Key]) -> None:
        """Send everyone what the document holds in these places."""

        def record() -> None:
            for key in keys:
                change = final_change(self.document, key)
                if change is not None:
                    self.held.record(change)

        with suppress(SessionGone):
            await self.locked(record)


def _remember(tokens: dict[int, None], token: str) -> None:
    tokens[hash(token)] = None
    if len(tokens) > _TOKENS_REMEMBERED:
        del tokens[next(iter(tokens))]
