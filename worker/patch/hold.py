"""A document that changes only while it is held, with Bokeh's semantics.

A patch, a pull or a callback holds the document's lock from start to end, over its awaits too. What changes meanwhile
is collected in one `Batch`; when the hold ends, the batch is sent to everyone who has the document. Nothing here waits
for a socket.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextvars import Token
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from bokeh.document import Document
from bokeh.document.events import DocumentChangedEvent, DocumentPatchedEvent

from aperture.app_state import session_state
from aperture.document.ids import IdSequence
from aperture.errors import NotLocked, SessionGone
from aperture.inheritance import end_if_forked
from aperture.log_scope import SESSION, SessionScope
from aperture.protocol.codec import EventEncoder
from aperture.protocol.frames import FrameRun
from aperture.worker.patch.batch import Batch, Reach
from aperture.worker.patch.callbacks import ordered_callbacks
from aperture.worker.patch.contention import Contention
from aperture.worker.patch.fanout import Fanout
from aperture.worker.patch.lock import DocumentLock
from aperture.worker.patch.viewer import Viewer

if TYPE_CHECKING:
    from bokeh.model import Model

    from aperture.worker.session.placement import Fence

__all__ = ["DocumentDiscarded", "HeldDocument", "Hold"]


T = TypeVar("T")


class DocumentDiscarded(SessionGone):
    """This document's session was discarded, as opposed to a `SessionGone` that app code raises inside a hold."""


class HeldDocument:
    """One session's document, its lock, and what is collected while the lock is held.

    Args:
        document: its callbacks are an `OrderedCallbacks`.
        ids: where models made during a hold take their ids from.
        scope: of log lines written during a hold.
        fence: asked before each hold whether the session is still this worker's to change.
        fanout: sends what has changed.
        contention: remembers who changed what lately.
    """

    def __init__(
        self,
        document: Document,
        *,
        ids: IdSequence,
        scope: SessionScope,
        fence: Fence,
        fanout: Fanout,
        contention: Contention,
    ) -> None:
        self.document = document
        self.callbacks = ordered_callbacks(document)
        self.ids = ids
        self.scope = scope
        self.fanout = fanout
        self.contention = contention
        # Functions of the document: methods of this object would tie it into cycles that only a collection frees.
        self.encoder = EventEncoder(partial(_viewers_know, document), partial(_viewers_learned, document))
        self.batch: Batch | None = None
        """What the current hold has changed; None between two holds."""
        self._current: Hold | None = None
        self.holds = 0
        """How often the lock was held by something that may have changed the document."""
        self.lock = DocumentLock()
        self._fence = fence
        self._discarded = False
        self._frozen = False
        # These tie it into a cycle; `discard` opens it.
        self.callbacks.recorder = self.record
        session_state(document).listener = self._record_value

    @property
    def frozen(self) -> bool:
        """Whether the document is at rest, on its way to another worker."""
        return self._frozen

    def try_enter(self) -> bool:
        """Take the lock if it is free, and the session surely this worker's. Returns whether it was taken."""
        # The fence first: a lock that is taken for nothing would have to be passed on.
        return self._fence.steady() and self.lock.try_acquire()

    async def enter(self) -> None:
        """Take the lock in turn; ask first whether the session is still this worker's, where that is in doubt.

        Raises:
            WouldDeadlock: who has the lock waits for the caller.
        """
        # Asked before waiting, and not again behind the lock: a session that is lost meanwhile is refused by `begin`,
        # and what a hold still sends by Redis, for its epoch.
        if not self._fence.steady():
            await self._fence.settle()
        await self.lock.acquire()

    def hold(self, sender: Viewer | None = None, seen: int = 0) -> Hold:
        """A context in which the document may change. The lock must have been taken, and is released at its end.

        Args:
            sender: whose message changes it; None for the app's own code.
            seen: sequence number of the last patch that the sender can have known.

        Raises:
            DocumentDiscarded: on entry; the session was discarded.
        """
        return Hold(self, sender, seen)

    def begin(self, seen: int) -> Batch:
        """Open a batch. For `Hold`.

        Raises:
            DocumentDiscarded: the session was discarded.
        """
        if self._discarded:
            raise DocumentDiscarded("the session was discarded")
        self.holds += 1
        # The number that this hold's patch gets, if it makes one: there is only one hold at a time.
        self.contention.begin(self.fanout.sequence + 1, seen)
        self.batch = Batch(self.document, self.encoder, self.contention)
        return self.batch

    def entered(self, hold: Hold | None) -> None:
        """Take note of who has the document: a hold, or None at its end. For `Hold`."""
        self._current = hold
        if hold is None:
            self.batch = None

    def flush(self, held_back: Sequence[DocumentChangedEvent]) -> bool:
        """Send what the current hold has changed so far, and behind it what the app holds back; the hold goes on.

        Returns:
            Whether there is a hold.
        """
        if self._current is None or self._discarded:
            return False
        self.callbacks.release(held_back)
        self._current.flush()
        return True

    def record(self, event: DocumentPatchedEvent, reach: Reach = Reach.ALL) -> None:
        """Note a change of the document.

        Raises:
            NotLocked: nothing holds the document.
        """
        batch = self._open_batch("document was")
        # Most sessions of pages that were left have no receiver at all: then nothing is encoded.
        if self.fanout.wants_changes():
            batch.record(event, reach)

    async def freeze(self) -> None:
        """Take the lock for good: the document is about to go to another worker."""
        if not self._frozen:
            await self.lock.acquire()
            self._frozen = True

    def thaw(self) -> None:
        """Let the document change again; those who waited for the lock find out what has become of the session."""
        if self._frozen:
            self._frozen = False
            self.lock.release()

    def take_made(self) -> dict[str, Model]:
        """The models that the app's code has made, in the document or not, by id; nothing is noted any more."""
        made, self.ids.made = self.ids.made, None
        return dict(made or {})

    def resume(self, *, held: bool) -> None:
        """Go on with a document that another worker had.

        Args:
            held: whether the app held it there.
        """
        self.callbacks.resume(held=held)
        # A new model must not get an id that a model of the document has.
        self.ids.skip(model.id for model in self.document.models)

    def discard(self) -> None:
        """Record nothing more, and refuse further holds."""
        self._discarded = True
        # App code that is still running may go on changing the document; no receiver is left.
        self.callbacks.recorder = None
        session_state(self.document).listener = None

    def _record_value(self, key: str, packed: bytes | None) -> None:
        self._open_batch("session's values were").values[key] = packed

    def _open_batch(self, what: str) -> Batch:
        if self.batch is None:
            raise NotLocked(
                f"the {what} changed without the lock; from another thread or task use "
                "add_next_tick_callback, or session_context.with_locked_document"
            )
        return self.batch


class Hold:
    """One stay under the document's lock: `with held.hold(viewer) as hold`.

    At its end, also by an exception, what has changed is sent to everyone, with `reply` to the sender behind it.
    """

    __slots__ = ("_held", "_ids", "_scope", "_seen", "_sender", "_was_live", "_work", "batch", "reply")

    batch: Batch
    _scope: Token[SessionScope | None]
    _ids: Token[IdSequence | None]

    def __init__(self, held: HeldDocument, sender: Viewer | None, seen: int) -> None:
        self._held = held
        self._sender = sender
        self._seen = seen
        # Taken here, before the message is acted on: the answer to a pull makes its sender live, and the patch of the
        # same hold is in that document already.
        self._was_live = sender is not None and sender.live
        self._work: asyncio.Future[Any] | None = None
        self.reply: FrameRun | None = None
        """What the sender is answered."""

    def __enter__(self) -> Self:
        try:
            self.batch = self._held.begin(self._seen)
        except BaseException:
            # `__exit__` is not called when `__enter__` raises, and the caller has taken the lock.
            self._held.lock.release()
            raise
        self._held.entered(self)
        self._scope = SESSION.set(self._held.scope)
        self._ids = self._held.ids.enter()
        if self._held.callbacks.catch_up():
            # A patch of its own: a snapshot that is taken in this hold gives it the number of the last patch.
            self.flush()
        return self

    def flush(self) -> None:
        """Send what has changed so far to everyone, in the middle of the hold, and collect the rest anew."""
        held = self._held
        held.batch = None  # as at the end
        held.fanout.send_ahead(self.batch, self._sender, sender_was_live=self._was_live)
        # Anew, with the next number: contention is judged patch by patch.
        self.batch = held.begin(self._seen)

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        # A child that app code has forked comes back here with a copy of all this: it must neither send nor release.
        end_if_forked(problem)
        self._held.ids.leave(self._ids)
        try:
            if self._work is None or self._work.done():
                self._end()
            else:  # who waited for the thread was cancelled; the thread still changes the document
                self._work.add_done_callback(lambda work: self._end())
        finally:
            SESSION.reset(self._scope)

    async def lasts(self, work: asyncio.Future[T]) -> T:
        """Wait for a thread that works within this hold, which does not end before it."""
        self._work = work
        # The thread goes on when its caller is cancelled, and `__exit__` asks this future when it has ended.
        return await asyncio.shield(work)

    def _end(self) -> None:
        held = self._held
        # Closed before it is sent: what changes meanwhile would be in no patch, and is refused instead.
        held.entered(None)
        try:
            # Also when app code has raised: what it had changed by then stays changed, as in Bokeh.
            held.fanout.send(self.batch, self._sender, self.reply, sender_was_live=self._was_live)
        finally:
            held.lock.release()


def _viewers_know(document: Document, model: Model) -> bool:
    # Until it has been written out once, a reference to it would be one to nothing.
    return model.document is document and model not in document.models._new_models


def _viewers_learned(document: Document, model: Model) -> None:
    document.models._new_models.discard(model)
