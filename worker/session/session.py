"""A session: one document, its lock, its viewers.

All access to the document goes through the lock, with Bokeh's semantics: a patch, a pull or a callback holds it from
start to end, over its awaits too. What changes meanwhile is collected in one `Batch`; when the lock is released the
batch is encoded once, framed once and handed to every viewer's outbox. Nothing here waits for a socket.

The public names are those that apps reach through `curdoc().session_context.session`.
"""

from __future__ import annotations

import inspect
import logging
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any, TypeVar

from bokeh.document import Document
from bokeh.document.callbacks import invoke_with_curdoc
from bokeh.document.events import DocumentPatchedEvent
from bokeh.events import ConnectionLost
from tornado.ioloop import IOLoop

from aperture import tracing
from aperture.app_state import session_state
from aperture.document.ids import IdSequence
from aperture.errors import NotLocked, SessionGone
from aperture.log_scope import REQUEST, SESSION, SessionScope, short_id
from aperture.protocol.closing import SERVICE_RESTART
from aperture.protocol.codec import EventEncoder
from aperture.worker.document.changes import Batch, Reach, final_change, ordered_callbacks
from aperture.worker.document.contention import Contention, Key
from aperture.worker.session.corrections import Corrections
from aperture.worker.session.fanout import send_batch
from aperture.worker.session.lock import DocumentLock
from aperture.worker.session.pulls import Pulls
from aperture.worker.session.schedule import Schedule
from aperture.worker.session.viewer import Audience, Viewer

if TYPE_CHECKING:
    from bokeh.model import Model

    from aperture.metrics import AppTally
    from aperture.protocol.frames import FrameRun
    from aperture.protocol.messages import FramedDocument
    from aperture.worker.session.context import AppSessionContext
    from aperture.worker.session.keeping import Journal
    from aperture.worker.session.placement import Placement

__all__ = ["Session"]

log = logging.getLogger(__name__)

T = TypeVar("T")

_NOT_TRACED = nullcontext()

_TOKENS_REMEMBERED = 50_000
"""Pages that may come back to one session. A megabyte or two, and only for a session that many look at."""


class _Discarded(SessionGone):
    """This session itself was, and not one that the app has asked for meanwhile."""


class Session:
    """One instance of an app.

    Args:
        session_id: as the browser knows it.
        document: filled in by the app's code; its callbacks are an `OrderedCallbacks`.
        ids: where models made in this session take their ids from.
        issue_token: makes a fresh token for this session.
        app: the app's route, for logs.
        pulls: what all sessions of the worker share for those who ask for a whole document.
    """

    def __init__(
        self,
        session_id: str,
        document: Document,
        *,
        ids: IdSequence,
        issue_token: Callable[[str], str],
        app: str = "/",
        pulls: Pulls | None = None,
    ) -> None:
        self.app = app
        self.epoch = 1
        self.context: AppSessionContext | None = None
        self.created = time.monotonic()
        self.viewers: set[Viewer] = set()
        """Those whose connections are in this worker."""
        self._journal: Journal | None = None
        self.fence: Placement | None = None
        """Asked before each change whether the session is still this worker's to change."""
        self.audience: Audience | None = None
        """Those whose connections are in other workers, if there are any."""
        self.sequence = 0
        self.tally: AppTally | None = None
        """What the sessions of the app do, if anybody counts it."""
        self._id = session_id
        self._scope = SessionScope(session_id, app)
        self._ids = ids
        self._issue_token = issue_token
        self._document = document
        self.pulls = pulls or Pulls()
        self._callbacks = ordered_callbacks(document)
        self._lock = DocumentLock()
        self._holds = 0
        """How often the lock was held by something that may have changed the document."""
        self._batch: Batch | None = None
        self._contention = Contention()
        self.corrections = Corrections(self._correct)
        # Functions of the document: methods of this session would tie it into cycles that only a collection frees.
        self._encoder = EventEncoder(partial(_viewers_know, document), partial(_viewers_learned, document))
        self._schedule = Schedule(self._run_scheduled)
        self.inherited = False
        """Whether the session's id is older than this object: pages may come that another worker has served."""
        self._pulled_tokens: dict[int, None] = {}
        self._issued_tokens: dict[int, None] = {}
        self._last_unsubscribe = time.monotonic()
        self._last_lost = -inf
        self._destroyed = False
        self._frozen = False
        self._expiration_requested = False
        self._expiration_blocks = 0
        self._listen()

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
        return self._document

    @property
    def destroyed(self) -> bool:
        return self._destroyed

    @property
    def connection_count(self) -> int:
        return len(self.viewers) + (0 if self.audience is None else self.audience.connections)

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
        """Let the next check discard this session if nobody is connected, however short a time it has been unused."""
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
        except _Discarded:
            log.debug("session %s was discarded; what was to be done with its document is not", short_id(self._id))
            return None

    async def locked(self, func: Callable[[], T | Awaitable[T]]) -> T:
        """As `with_document_locked`, for those who must know that it was not done.

        Raises:
            SessionGone: the session was discarded, perhaps while this waited for its turn.
        """
        self.block_expiration()
        try:
            if not self._is_ours():
                await self._settle()
            await self._lock.acquire()
            try:
                with self._changing():
                    result = func()
                    if result is not None and inspect.isawaitable(result):
                        result = await result
                    return result
            finally:
                self._lock.release()
        finally:
            self.unblock_expiration()

    async def read_locked(self, func: Callable[[], T]) -> T:
        """Run a function that only reads the document, between two changes; also once the session is frozen."""
        if self._frozen:
            return func()
        return await self.locked(func)

    async def freeze(self) -> None:
        """Let nobody change the document any more: it is about to go to another worker."""
        if not self._frozen:
            await self._lock.acquire()
            self._frozen = True

    def count_in(self, tally: AppTally | None) -> None:
        """Have what happens from now on counted."""
        self.tally = tally
        self._schedule.tally = tally

    def thaw(self) -> None:
        """Let the document be changed again; those who have waited for it find out what has become of the session."""
        if self._frozen:
            self._frozen = False
            self._lock.release()

    def take_made(self) -> dict[str, Model]:
        """The models that the app's code has made, in the document or not, by id; nothing is noted any more."""
        made, self._ids.made = self._ids.made, None
        return dict(made or {})

    def resume(self, *, held: bool) -> None:
        """Go on with a document that another worker had.

        Args:
            held: whether the app held it there.
        """
        self._callbacks.resume(held=held)
        # A new model must not get an id that a model of the document has.
        self._ids.skip(model.id for model in self._document.models)

    @property
    def journal(self) -> Journal | None:
        """Writes down what changes, if the session is to outlive its worker."""
        return self._journal

    @journal.setter
    def journal(self, journal: Journal) -> None:
        self._journal = journal
        self._callbacks.journaled = True
        # It begins with a snapshot, so it knows all models of now, and nobody else has any yet.
        self._document.models.flush_synced()

    @property
    def unencodable(self) -> Exception | None:
        """Why something that was changed in this hold of the lock reaches nobody, if anything does not."""
        return None if self._batch is None else self._batch.unencodable

    # What connections use

    def attach(self, viewer: Viewer) -> None:
        """Count a connection in. It gets patches once it has pulled or pushed the document."""
        self.viewers.add(viewer)

    def detach(self, viewer: Viewer, *, lost: bool = False) -> None:
        """Count a connection out, and tell the app's `ConnectionLost` callbacks."""
        if viewer not in self.viewers:
            return
        self.viewers.discard(viewer)
        self.viewer_left(lost=lost)

    def viewer_left(self, *, lost: bool) -> None:
        """A connection, here or elsewhere, has ended; `lost`, if its page did not say goodbye and may come back."""
        self._last_unsubscribe = time.monotonic()
        if lost:
            self._last_lost = self._last_unsubscribe
        if not self._destroyed and self._document.callbacks.event_callbacks_for_event_name(ConnectionLost.event_name):
            IOLoop.current().spawn_callback(self.with_document_locked, self.notify_connection_lost)

    def notify_connection_lost(self) -> None:
        """Run the document's `ConnectionLost` callbacks."""
        document = self._document
        invoke_with_curdoc(document, lambda: document.callbacks.trigger_event(ConnectionLost()))

    def is_return(self, token: str, *, from_browser: bool = True) -> bool:
        """Whether a page that used this token has pulled the document before, and so is coming back.

        Of pages that somebody else has sent nobody here knows what they have; they are taken for pages that come back,
        which costs them a longer text, where the other mistake would leave them without a document.
        """
        known = hash(token)
        strange = self.inherited and from_browser and known not in self._issued_tokens
        return strange or known in self._pulled_tokens

    def remember_pull(self, token: str) -> None:
        """Count a page with this token as one that comes back, whatever this session has seen of it."""
        _remember(self._pulled_tokens, token)

    def run_locked(
        self, sender: Viewer, act: Callable[[], FrameRun], *, on_error: Callable[[Exception], FrameRun]
    ) -> Awaitable[None] | None:
        """Run one message of a viewer under the lock: at once where the lock is free, else as an awaitable.

        Args:
            sender: gets the reply, right behind the patches that came of the message.
            act: applies the message and returns the reply.
            on_error: turns what `act` raised into the reply. The changes made before it was raised still go out.
        """
        # What is sent while the message waits, here or on its way here, cannot have been known to whoever sent it.
        seen = self.sequence if sender.seen is None else sender.seen
        if self._is_ours() and self._lock.try_acquire():
            self._act_locked(sender, seen, act, on_error)
            return None
        return self._act_in_turn(sender, seen, act, on_error)

    def whole_document(self, *, inline: bool) -> FramedDocument:
        """What a pull is answered with. Called with the lock held, and by what changes nothing before or after that."""
        self._holds -= 1
        as_of = (self._holds, self._callbacks.changes)
        return self.pulls.take(self._document, as_of, inline=inline, keep=self.connection_count > 1)

    def mark_pulled(self, viewer: Viewer) -> None:
        """The viewer has the whole document as of now. Called with the lock held, after all changes made with it."""
        if self._batch is not None:
            # What a push tells of its new roots is for the others.
            self._batch.leave_out(viewer)
        # A journal has been told of what is new as well as the viewers, or is still to be: it may be held back.
        if self.journal is None and not self._anyone_live(but=viewer):
            self._document.models.flush_synced()
        self._callbacks.document_shown()
        viewer.live = True
        self.remember_pull(viewer.token)

    def destroy(self) -> None:
        """End the callbacks and refuse further use. The document is left for the hooks; see `teardown`."""
        if self._destroyed:
            return
        self._destroyed = True
        self._schedule.close()
        self.corrections.close()
        self.pulls.forget(self._document)
        self._callbacks.recorder = None
        session_state(self._document).listener = None
        self._document.remove_on_change(self)
        if self.audience is not None:
            self.audience.close(SERVICE_RESTART, "the session is gone")

    # What the document calls

    def _session_callback_added(self, event: Any) -> None:
        self._callbacks.added.schedule(self._schedule.add)

    def _session_callback_removed(self, event: Any) -> None:
        self._schedule.remove(event.callback)

    def _record(self, event: DocumentPatchedEvent, reach: Reach = Reach.ALL) -> None:
        batch = self._open_batch("document was")
        if self.journal is not None or self._anyone_live():
            batch.record(event, reach)

    def _record_value(self, key: str, packed: bytes | None) -> None:
        self._open_batch("session's values were").values[key] = packed

    # Inside

    def _open_batch(self, what: str) -> Batch:
        if self._batch is None:
            raise NotLocked(
                f"the {what} changed without the lock; from another thread or task use "
                "add_next_tick_callback, or session_context.with_locked_document"
            )
        return self._batch

    def _listen(self) -> None:
        callbacks = self._callbacks
        callbacks.recorder = self._record
        session_state(self._document).listener = self._record_value
        callbacks.on_change_dispatch_to(self)
        callbacks.added.schedule(self._schedule.add)

    def _act_locked(
        self, sender: Viewer, seen: int, act: Callable[[], FrameRun], on_error: Callable[[Exception], FrameRun]
    ) -> None:
        try:
            with self._changing(sender, seen) as reply:
                try:
                    reply.append(act())
                except Exception as problem:
                    reply.append(on_error(problem))
        finally:
            self._lock.release()

    async def _act_in_turn(
        self, sender: Viewer, seen: int, act: Callable[[], FrameRun], on_error: Callable[[Exception], FrameRun]
    ) -> None:
        if not self._is_ours():
            await self._settle()
        await self._lock.acquire()
        self._act_locked(sender, seen, act, on_error)

    def _is_ours(self) -> bool:
        return self.fence is None or self.fence.steady()

    async def _settle(self) -> None:
        if self.fence is not None:
            await self.fence.settle()

    @contextmanager
    def _changing(self, sender: Viewer | None = None, seen: int = 0) -> Iterator[list[FrameRun]]:
        """The lock is held: collect changes, and send them, with the sender's reply behind them, at the end."""
        if self._destroyed:
            raise _Discarded("the session was discarded")
        self._holds += 1
        self._contention.begin(self.sequence + 1, seen)
        batch = self._batch = Batch(self._document, self._encoder, self._contention)
        reply: list[FrameRun] = []
        was_live = sender is not None and sender.live
        outer = SESSION.set(self._scope)
        try:
            with self._ids.active():
                yield reply
        finally:
            self._batch = None
            try:
                send_batch(self, batch, sender, reply, sender_was_live=was_live)
            finally:
                SESSION.reset(outer)

    def _anyone_live(self, but: Viewer | None = None) -> bool:
        """Whether anybody has the document; `but` is not asked, but for viewers elsewhere, who are asked together."""
        if self.audience is not None and self.audience.live:
            return True
        return any(viewer.live for viewer in self.viewers if viewer is not but)

    async def _run_scheduled(self, func: Callable[[], Any]) -> None:
        """Run a callback with the lock, unless the app said `without_document_lock`. In a task of its own."""
        SESSION.set(self._scope)
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
        with self._ids.active():
            result = func()
            if inspect.isawaitable(result):
                await result

    async def _correct(self, keys: set[Key]) -> None:
        """Send everyone what the document holds in these places."""

        def record() -> None:
            for key in keys:
                change = final_change(self._document, key)
                if change is not None:
                    self._record(change)

        with suppress(SessionGone):
            await self.locked(record)


def _viewers_know(document: Document, model: Model) -> bool:
    return model.document is document and model not in document.models._new_models


def _viewers_learned(document: Document, model: Model) -> None:
    document.models._new_models.discard(model)


def _remember(tokens: dict[int, None], token: str) -> None:
    tokens[hash(token)] = None
    if len(tokens) > _TOKENS_REMEMBERED:
        del tokens[next(iter(tokens))]
