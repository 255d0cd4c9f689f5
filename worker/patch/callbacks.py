"""Bokeh's callback manager, in the order of what happened.

Bokeh tells its receivers of a change behind the change's callbacks, so what a callback did would come before what
caused it. Ours records first.

While the app holds its document (`Document.hold`), viewers are sent nothing, but what changes has changed, and its
cause is acknowledged. So the two receivers of a change part ways: the journal gets it when it happens, the viewers
when the hold ends.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from bokeh.core.enums import HoldPolicyType
from bokeh.document import Document
from bokeh.document.callbacks import DocumentCallbackManager
from bokeh.document.events import (
    DocumentChangedEvent,
    DocumentPatchedEvent,
    SessionCallbackAdded,
    SessionCallbackRemoved,
)
from bokeh.model import Model

from aperture.document.current import invoke_with_curdoc
from aperture.errors import NotLocked
from aperture.worker.document.ordered import AddedCallbacks, OrderedSet
from aperture.worker.document.teardown import release_callback
from aperture.worker.patch.batch import Reach
from aperture.worker.patch.changes import BUILDING, key_of, left_before, whole_change
from aperture.worker.patch.contention import Key

__all__ = ["OrderedCallbacks", "Recorder", "ordered_callbacks"]


_OF_SESSIONS = (SessionCallbackAdded, SessionCallbackRemoved)


def _no_session() -> None:
    """Before a session follows."""


class Recorder(Protocol):
    """Records changes."""

    def __call__(self, event: DocumentPatchedEvent, reach: Reach = Reach.ALL) -> None: ...


class OrderedCallbacks(DocumentCallbackManager):
    """Bokeh's callback manager, which also hands each change to `recorder` before the change's callbacks run.

    What is held back by `hold` is handed over twice: for the journal when it happens, and for the viewers when it is
    released, all of it before the first of its callbacks runs, because it happened before them.
    """

    def __init__(self, document: Document) -> None:
        super().__init__(document)
        # Bokeh's own are sets, and what is added before there is a session would run in any order.
        self.added: AddedCallbacks[Any] = AddedCallbacks()
        self._session_callbacks = self.added
        self._session_destroyed_callbacks = OrderedSet()
        self.recorder: Recorder | None = None
        self._follower: Callable[[], object] = _no_session
        """The session, to which no other changes than those of its callbacks matter. Held weakly: it holds this."""
        self.changes = 0
        """How many there were, also of those that are held back or were made without the lock."""
        self.journaled = False
        """Whether there is a journal, which is not to wait for what is held back."""
        self._held_is_shown = False
        self._new_before_hold: set[Model] = set()
        self.journaled_ahead: set[Model] = set()
        """Models that the journal has, and that are sent to viewers when the app's hold ends."""
        self._late: list[DocumentChangedEvent] = []
        """Changes that were made without the document's lock, and that the journal gets with the next who has it."""
        self._waiting: list[DocumentChangedEvent] = []
        """Likewise what is to be sent, and is not held back any more."""

    def trigger_on_change(self, event: DocumentChangedEvent) -> None:
        self.changes += 1
        if self._hold is None:
            self._record(event, Reach.ALL)
            self._call(event)
        else:
            if self.journaled:
                self._record_in_time(event)
            super().trigger_on_change(event)

    def _call(self, event: DocumentChangedEvent) -> None:
        """As Bokeh's, but a change without a callback costs nothing."""
        document = self._document()
        if document is None:
            return
        if event.callback_invoker is not None:
            invoke_with_curdoc(document, event.callback_invoker)
        if isinstance(event, _OF_SESSIONS) or self._asked_for_changes():
            invoke_with_curdoc(document, lambda: self._call_for_changes(event))

    def _asked_for_changes(self) -> bool:
        return len(self._change_callbacks) > (self._follower() in self._change_callbacks)

    def _call_for_changes(self, event: DocumentChangedEvent) -> None:
        for callback in self.change_callbacks():
            callback(event)

    def follow(self, session: object) -> None:
        """Tell the session of callbacks that are added and removed, as `on_change_dispatch_to` does."""
        self._follower = weakref.ref(session)
        self.on_change_dispatch_to(session)

    def hold(self, policy: HoldPolicyType = "combine") -> None:
        document = self._document()
        if self._hold is None and document is not None:
            self._new_before_hold = set(document.models._new_models)
        super().hold(policy)

    def unhold(self) -> None:
        if self._hold is None:
            return
        self._hold = None
        held, self._held_events = self._held_events, []
        self.release(held)
        for event in held:
            super().trigger_on_change(event)

    def release(self, held: Iterable[DocumentChangedEvent]) -> None:
        """Record for the viewers what was held back. It is all there is, also where the hold itself goes on."""
        shown, self._held_is_shown = self._held_is_shown, False
        document = self._document()
        if document is None:
            return
        ahead, self.journaled_ahead = self.journaled_ahead, set()
        document.models._new_models |= {model for model in ahead if model.document is document}
        new = document.models._new_models - self._new_before_hold
        reach = Reach.VIEWERS if self.journaled else Reach.ALL
        for event in _let_go(document, held, new, shown=shown):
            self._record(event, reach)

    def release_next(self, held: Iterable[DocumentChangedEvent]) -> None:
        """As `release`, with the next who has the document's lock, and before anything that they change."""
        self._waiting.extend(held)

    def note(self, event: DocumentPatchedEvent) -> None:
        """Record a change for the journal alone."""
        if self.journaled:
            self._record_in_time(event)

    def catch_up(self) -> bool:
        """Record what was changed, or let go, without the lock, now that it is taken. Returns whether there was any."""
        late, self._late = self._late, []
        for event in late:
            self._record_ahead(event)
        waiting, self._waiting = self._waiting, []
        if waiting:
            self.release(waiting)
        return bool(late or waiting)

    def document_shown(self) -> None:
        """A viewer was sent the whole document, which contains the changes that are held back."""
        self._held_is_shown = bool(self._held_events)

    @contextmanager
    def unnoticed(self) -> Iterator[None]:
        """A context in which changes are not recorded and run no callbacks, then or later."""
        recorder, self.recorder = self.recorder, None
        policy, held = self._hold, list(self._held_events)
        self._hold = "collect"
        try:
            yield
        finally:
            self.recorder = recorder
            self._hold = policy
            self._held_events[:] = held

    def resume(self, *, held: bool) -> None:
        """Restore the app's hold after a recovery.

        Changes that the app's code has held back in this run are in the document that viewers are about to pull. A hold
        that the code itself began is resumed. One that a callback began is not: the timeout that was to end it may have
        been lost with the worker, and the hold would never end.
        """
        self._held_events.clear()
        if not held:
            self._hold = None

    def _record(self, event: DocumentChangedEvent, reach: Reach) -> None:
        if self.recorder is not None and isinstance(event, DocumentPatchedEvent):
            self.recorder(event, reach)

    def _record_in_time(self, event: DocumentChangedEvent) -> None:
        """Record a change that is held back for the journal: now, or with the next who has the document's lock.

        Without the lock a change that is not held back is refused. One that is can be kept until then: Bokeh refuses
        nothing here, and Panel's async callbacks rely on that.
        """
        try:
            self._record_ahead(event)
        except NotLocked:
            self._late.append(event)

    def _record_ahead(self, event: DocumentChangedEvent) -> None:
        document = self._document()
        if document is None:
            return
        new = set(document.models._new_models)
        self._record(event, Reach.JOURNAL)
        self.journaled_ahead |= new - document.models._new_models

    def remove_session_callback(self, callback_obj: Any) -> None:
        # Bokeh's one-shot callbacks refer to themselves: each that ran would keep the document until a full collection.
        super().remove_session_callback(callback_obj)
        release_callback(callback_obj)


def ordered_callbacks(document: Document) -> OrderedCallbacks:
    """The callbacks of a served document."""
    callbacks = document.callbacks
    if not isinstance(callbacks, OrderedCallbacks):
        raise AssertionError("a served document's callbacks are made by aperture.worker.document.loading")
    return callbacks


def _let_go(
    document: Document, held: Iterable[DocumentChangedEvent], new: set[Model], *, shown: bool
) -> Iterator[DocumentChangedEvent]:
    """The changes that were held back, with values as they are now, because they are encoded only on release.

    A new model is encoded whole, so changes to it are included; changes to a model that has left are dropped. A column
    that is encoded whole includes all rows streamed to it, so these must not be sent again; nor must they where `shown`
    says that a viewer has been sent the whole document meanwhile.
    """
    in_full: dict[Key, Model] = {}
    replaced: set[Key] = set()
    for event in held:
        key = key_of(event) if isinstance(event, DocumentPatchedEvent) else None
        model: Model | None = getattr(event, "model", None)
        if key is None or model is None:
            yield event
        elif model.document is not document:
            continue
        elif model in new:
            in_full[key] = model
        elif isinstance(event, BUILDING) and (shown or key in replaced):
            yield whole_change(document, model, key[1], event.setter)
        else:
            if not isinstance(event, BUILDING):
                replaced.add(key)
            yield event
    left = left_before(document)
    for (_, attr), model in in_full.items():
        if shown or left(model.id):
            # A Python client that has the model already, as it was then, does not look at it again.
            yield whole_change(document, model, attr)
