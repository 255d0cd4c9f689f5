"""A document that changes only while it is held, with Bokeh's semantics.

A patch, a pull or a callback holds the document's lock from start to end, over its awaits too. What changes meanwhile
is collected in one `Batch`; when the hold ends, the batch is sent to everyone who has the document. Nothing here waits
for a socket.
"""

from __future__ import annotations

from contextvars import Token
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Self

from bokeh.document import Document
from bokeh.document.events import DocumentPatchedEvent

from aperture.app_state import session_state
from aperture.document.ids import IdSequence
from aperture.errors import NotLocked, SessionGone
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
        self.holds = 0
        """How often the lock was held by something that may have changed the document."""
        self.lock = DocumentLock()
        self._fence = fence
        self._discarded = False
        self._frozen = False
        self.callbacks.recorder = self.record
        session_state(document).listener = self._record_value

    @property
    def frozen(self) -> bool:
        """Whether the document is at rest, on its way to another worker."""
        return self._frozen

    def try_enter(self) -> bool:
        """Take the lock if it is free, and the session surely this worker's. Returns whether it was taken."""
        return self._fence.steady() and self.lock.try_acquire()

    async def enter(self) -> None:
        """Take the lock in turn; ask first whether the session is still this worker's, where that is in doubt."""
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
        self.contention.begin(self.fanout.sequence + 1, seen)
        self.batch = Batch(self.document, self.encoder, self.contention)
        return self.batch

    def record(self, event: DocumentPatchedEvent, reach: Reach = Reach.ALL) -> None:
        """Note a change of the document.

        Raises:
            NotLocked: nothing holds the document.
        """
        batch = self._open_batch("document was")
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

    def discard(self) -> None:
        """Record nothing more, and refuse further holds."""
        self._discarded = True
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

    __slots__ = ("_held", "_ids", "_scope", "_seen", "_sender", "_was_live", "batch", "reply")

    batch: Batch
    _scope: Token[SessionScope | None]
    _ids: Token[IdSequence | None]

    def __init__(self, held: HeldDocument, sender: Viewer | None, seen: int) -> None:
        self._held = held
        self._sender = sender
        self._seen = seen
        self._was_live = sender is not None and sender.live
        self.reply: FrameRun | None = None
        """What the sender is answered."""

    def __enter__(self) -> Self:
        try:
            self.batch = self._held.begin(self._seen)
        except BaseException:
            self._held.lock.release()
            raise
        self._scope = SESSION.set(self._held.scope)
        self._ids = self._held.ids.enter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        held = self._held
        held.ids.leave(self._ids)
        held.batch = None
        try:
            held.fanout.send(self.batch, self._sender, self.reply, sender_was_live=self._was_live)
        finally:
            SESSION.reset(self._scope)
            held.lock.release()


def _viewers_know(document: Document, model: Model) -> bool:
    return model.document is document and model not in document.models._new_models


def _viewers_learned(document: Document, model: Model) -> None:
    document.models._new_models.discard(model)
