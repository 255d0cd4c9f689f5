"""From changes of a document to patches.

Bokeh tells of a change only after the callbacks of that change have run, so the results of a callback come before
their cause, and a value that a callback corrects is overwritten again at every other viewer. `OrderedCallbacks` takes
note of each change before its callbacks run, which makes the order of the patch the order in which things happened.

A change is written down the moment it happens: a list or a column that is replaced and then streamed to in one callback
must go out as it was when it was replaced, or its new rows arrive twice. Numbers, strings and the like cannot change
under us; their encoding waits for the end of the batch, so a slider that is set a hundred times is encoded once.

Whoever gets a patch decodes all of it before applying any of it. A model that left the document and comes back in one
callback is written out as it is then; in one patch, a browser would set all of that first and then apply the changes
that came before, and a Python client, which has the model still, would not look at it. So what brings such a model back
begins a patch of its own: a batch may become several, behind one another, of one number.

`Batch` holds what was changed while the document's lock was held, and gives it out in as many variants as there are
origins: everyone gets all of it, but a viewer is not sent its own changes back. Where two change the same thing at the
same time that leaves them with different values; the batch names such places, and the session puts them right when the
changing pauses (see `contention`).

While the app holds its document (`Document.hold`), viewers are told nothing, but what changes has changed, and whoever
caused it has its answer. So the two receivers of a change part ways: the journal gets it when it happens, the viewers
when it is let go.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Protocol, cast

from bokeh.core.enums import HoldPolicyType
from bokeh.core.serialization import SerializationError
from bokeh.document import Document
from bokeh.document.callbacks import DocumentCallbackManager
from bokeh.document.events import (
    ColumnDataChangedEvent,
    ColumnsPatchedEvent,
    ColumnsStreamedEvent,
    DocumentChangedEvent,
    DocumentPatchedEvent,
    ModelChangedEvent,
    TitleChangedEvent,
)
from bokeh.model import Model

from aperture.protocol.codec import Buffer, EncodedEvent, EventEncoder, is_scalar, join_events
from aperture.worker.document.contention import Contention, Key
from aperture.worker.document.ordered import AddedCallbacks, OrderedSet
from aperture.worker.document.teardown import release_callback

__all__ = ["Batch", "OrderedCallbacks", "Patch", "Reach", "Recorder", "final_change", "ordered_callbacks"]

log = logging.getLogger(__name__)


class Reach(Enum):
    """Who a change is recorded for."""

    ALL = "the journal and the viewers"
    JOURNAL = "the journal alone: the app holds it back from the viewers"
    VIEWERS = "the viewers alone: it is let go, and was written down when it happened"


class Recorder(Protocol):
    """Takes note of changes."""

    def __call__(self, event: DocumentPatchedEvent, reach: Reach = Reach.ALL) -> None: ...


_TITLE = "title"

_REPLACING = (ModelChangedEvent, TitleChangedEvent)
"""Changes that leave nothing of the value that was there; streams and patches of columns build on it."""


_OF_MODELS = (ModelChangedEvent, ColumnsStreamedEvent, ColumnsPatchedEvent, ColumnDataChangedEvent)

_BUILDING = (ColumnsStreamedEvent, ColumnsPatchedEvent)
"""Changes that must be made once, and on the value that was there."""


class OrderedCallbacks(DocumentCallbackManager):
    """Bokeh's callback manager, which also hands each change to `recorder` before the change's callbacks run.

    What is held back by `hold` is handed over twice: for the journal when it happens, and for the viewers when it is
    let go, all of it before the first of its callbacks runs, for it happened before them.
    """

    def __init__(self, document: Document) -> None:
        super().__init__(document)
        # Bokeh's own are sets, and what is added before there is a session would run in any order.
        self.added: AddedCallbacks[Any] = AddedCallbacks()
        self._session_callbacks = self.added  # type: ignore[assignment]
        self._session_destroyed_callbacks = OrderedSet()  # type: ignore[assignment]
        self.recorder: Recorder | None = None
        self.changes = 0
        """How many there were, also of those that are held back or were made without the lock."""
        self.journaled = False
        """Whether there is a journal, which is not to wait for what is held back."""
        self._held_is_shown = False
        self._new_before_hold: set[Model] = set()
        self._journaled_ahead: set[Model] = set()
        """Models that the journal has and viewers will be told of when they are let go."""

    def trigger_on_change(self, event: DocumentChangedEvent) -> None:
        self.changes += 1
        if self._hold is None:
            self._record(event, Reach.ALL)
        elif self.journaled:
            self._record_ahead(event)
        super().trigger_on_change(event)

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
        shown, self._held_is_shown = self._held_is_shown, False
        document = self._document()
        if document is not None:
            ahead, self._journaled_ahead = self._journaled_ahead, set()
            document.models._new_models |= {model for model in ahead if model.document is document}
            new = document.models._new_models - self._new_before_hold
            reach = Reach.VIEWERS if self.journaled else Reach.ALL
            for event in _let_go(document, held, new, shown=shown):
                self._record(event, reach)
        for event in held:
            super().trigger_on_change(event)

    def document_shown(self) -> None:
        """Somebody was given the whole document, and what is held back is in it."""
        self._held_is_shown = bool(self._held_events)

    @contextmanager
    def unnoticed(self) -> Iterator[None]:
        """Let changes be recorded by nobody and call nothing, then or later."""
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
        """Go on where the session was left in another worker.

        What the app's code has held back this time is in the document that everybody is about to get. A hold that the
        session was in goes on if the code has begun it; one that a callback began may have been about to be ended by a
        timeout that has gone with the worker, and would never end.
        """
        self._held_events.clear()
        if not held:
            self._hold = None

    def _record(self, event: DocumentChangedEvent, reach: Reach) -> None:
        if self.recorder is not None and isinstance(event, DocumentPatchedEvent):
            self.recorder(event, reach)

    def _record_ahead(self, event: DocumentChangedEvent) -> None:
        document = self._document()
        if document is None:
            return
        new = set(document.models._new_models)
        self._record(event, Reach.JOURNAL)
        self._journaled_ahead |= new - document.models._new_models

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


@dataclass(frozen=True, slots=True)
class Patch:
    """What a batch has changed.

    Args:
        parts: the content of each PATCH-DOC, `{"events": […]}` as JSON text, and its binary buffers. Nearly always one;
            none if the document has not changed.
        values: of the app's own that have changed with it, packed; None for those deleted. No viewer gets them.
        held: whether the app holds its document since. No viewer learns of it.
    """

    parts: Sequence[tuple[bytes, list[Buffer]]]
    values: Mapping[str, bytes | None] = field(default_factory=dict)
    held: bool = False


@dataclass(slots=True)
class _Entry:
    event: DocumentPatchedEvent
    reach: Reach
    origin: object | None
    key: Key | None
    encoded: EncodedEvent | None
    brings_back: bool
    """Whether it writes out a model that the viewers may have already when they decode what came before it."""

    @property
    def introduced(self) -> tuple[str, ...]:
        """The models that came with this one; later changes, and final values, only refer to them."""
        return () if self.encoded is None else self.encoded.introduced


class Batch:
    """The changes made during one hold of the document's lock, in order.

    Args:
        document: whose changes these are.
        encoder: the session's.
        contention: the session's memory of who changed what lately.
    """

    def __init__(self, document: Document, encoder: EventEncoder, contention: Contention) -> None:
        self._document = document
        self._encoder = encoder
        self._contention = contention
        self._entries: list[_Entry] = []
        self._joined: list[tuple[bytes, list[Buffer]]] | None = None
        self._held_before = _is_held(document)
        self._introduced: set[str] = set()
        self.contested: set[Key] = set()
        """What a viewer has changed shortly after somebody else had."""
        self._left_out: set[object] = set()
        self.unencodable: Exception | None = None
        """Why the first of the changes that nobody is sent could not be encoded, if there are any."""
        self.values: dict[str, bytes | None] = {}
        """Of the app's own that have changed, packed; None for those deleted."""

    def __bool__(self) -> bool:
        """Whether there is anything to tell viewers."""
        return any(entry.reach is not Reach.JOURNAL for entry in self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def lasting(self) -> bool:
        """Whether there is anything to write down."""
        return bool(self._entries or self.values) or self._held_before != _is_held(self._document)

    def record(self, event: DocumentPatchedEvent, reach: Reach = Reach.ALL) -> None:
        """Take note of a change. Its setter, if any, is the viewer that it came from.

        One that cannot be encoded is the app's fault. It is logged and left out, as in Bokeh, and nothing is raised:
        the assignment has happened, and its callbacks must run.
        """
        if self._encoder.failed and self._is_unknown(event):
            return
        origin = event.setter
        key = _key_of(event)
        if key is not None and reach is not Reach.JOURNAL and self._contention.note(key, origin):
            self.contested.add(key)
        try:
            encoded = self._encode_now(event)
        except Exception as problem:
            self.unencodable = self.unencodable or problem
            _log_unencodable(event, problem)
            return
        brings_back = encoded is not None and self._brings_back(encoded)
        if key is not None and not brings_back and self._collapses(event, reach, key, origin):
            self._entries.pop()
        self._entries.append(_Entry(event, reach, origin, key, encoded, brings_back))

    def leave_out(self, viewer: object) -> None:
        """The viewer has all of this already: it pulled or pushed the whole document."""
        self._left_out.add(viewer)

    def origins(self) -> set[object]:
        """The viewers that must get a variant of their own."""
        return {entry.origin for entry in self._shown() if entry.origin is not None} | self._left_out

    def patch(self) -> Patch:
        """Everything that viewers are told, for all who changed nothing."""
        return Patch(self._parts_for_all() or self._parts(self._shown()))

    def lasting_patch(self) -> Patch:
        """Everything that has changed, to be written down."""
        lasting = (entry for entry in self._entries if entry.reach is not Reach.VIEWERS)
        return Patch(self._parts_for_all() or self._parts(lasting), self.values, _is_held(self._document))

    def patch_for(self, origin: object) -> Patch | None:
        """Everything but `origin`'s own changes; None if there is nothing else."""
        if origin in self._left_out:
            return None
        parts = self._parts(self._entries_for(origin))
        return Patch(parts) if parts else None

    def _shown(self) -> list[_Entry]:
        return [entry for entry in self._entries if entry.reach is not Reach.JOURNAL]

    def _entries_for(self, origin: object) -> Iterator[_Entry]:
        written: set[str | None] = set()
        shown = self._shown()
        for place, entry in enumerate(shown):
            if entry.origin is origin:
                # Its own change is gone again where the model is written out as it was before that.
                left_out = entry.key is None or entry.key[0] not in written
            else:
                left_out = _is_replaced(entry, origin, shown[place + 1 :])
            if not left_out:
                written.update(entry.introduced)
                yield entry

    def _parts_for_all(self) -> list[tuple[bytes, list[Buffer]]] | None:
        """What the journal and the viewers get alike, joined once; None where they get different things."""
        if self._joined is None and all(entry.reach is Reach.ALL for entry in self._entries):
            self._joined = self._parts(self._entries)
        return self._joined

    def _parts(self, entries: Iterable[_Entry]) -> list[tuple[bytes, list[Buffer]]]:
        parts: list[list[EncodedEvent]] = []
        for entry in entries:
            if not parts or entry.brings_back:
                parts.append([])
            parts[-1].append(self._encoded(entry))
        return [join_events(events) for events in parts]

    def _is_unknown(self, event: DocumentPatchedEvent) -> bool:
        """Whether it changes a model that came with what could not be encoded, and is still to be written out."""
        return _key_of(event) is not None and getattr(event, "model", None) in self._document.models._new_models

    def _brings_back(self, encoded: EncodedEvent) -> bool:
        if not encoded.introduced:
            return False
        left = _left_before(self._document)
        found = any(name in self._introduced or left(name) for name in encoded.introduced)
        self._introduced.update(encoded.introduced)
        return found

    def _collapses(self, event: DocumentPatchedEvent, reach: Reach, key: Key, origin: object | None) -> bool:
        """Whether the last change is made pointless by this one: same attribute, and nobody needs both."""
        if not self._entries:
            return False
        last = self._entries[-1]
        same_thing = last.key == key and type(last.event) is type(event) in _REPLACING and last.reach is reach
        same_audience = last.origin is origin or origin is None
        return same_thing and same_audience and not last.introduced

    def _encode_now(self, event: DocumentPatchedEvent) -> EncodedEvent | None:
        if type(event) is ModelChangedEvent and is_scalar(event.new):
            return None
        return self._encoder.encode(event)

    def _encoded(self, entry: _Entry) -> EncodedEvent:
        if entry.encoded is None:
            entry.encoded = self._encoder.encode(entry.event)
        return entry.encoded


def _is_replaced(entry: _Entry, origin: object, later: Iterable[_Entry]) -> bool:
    """Whether `origin` itself has since replaced what this entry sets: it has the later value already."""
    if type(entry.event) not in _REPLACING or entry.introduced:
        return False
    return any(other.origin is origin and other.key == entry.key and type(other.event) in _REPLACING for other in later)


def _is_held(document: Document) -> bool:
    return document.callbacks.hold_value is not None


def _log_unencodable(event: DocumentPatchedEvent, problem: Exception) -> None:
    """Without the value, which is the app's user's. Bokeh's own errors name types; of others nobody knows."""
    changed = f"{type(event.model).__name__}.{event.attr}" if isinstance(event, _OF_MODELS) else event.kind
    reason = problem if isinstance(problem, SerializationError) else type(problem).__name__
    log.error("a change of %s cannot be encoded and is sent to nobody: %s", changed, reason)


def _let_go(
    document: Document, held: Iterable[DocumentChangedEvent], new: set[Model], *, shown: bool
) -> Iterator[DocumentChangedEvent]:
    """What was held back, for values as they are now: they are written down only when they are let go.

    What happened meanwhile to a model that is new is in it when it is written out, and what happened to one that has
    left is nobody's business. A column that is written out has all that was streamed to it, so these rows must not come
    again; nor where `shown` says that somebody has been given the whole document meanwhile.
    """
    in_full: dict[Key, Model] = {}
    replaced: set[Key] = set()
    for event in held:
        key = _key_of(event) if isinstance(event, DocumentPatchedEvent) else None
        model: Model | None = getattr(event, "model", None)
        if key is None or model is None:
            yield event
        elif model.document is not document:
            continue
        elif model in new:
            in_full[key] = model
        elif isinstance(event, _BUILDING) and (shown or key in replaced):
            yield _whole_change(document, model, key[1], event.setter)
        else:
            if not isinstance(event, _BUILDING):
                replaced.add(key)
            yield event
    left = _left_before(document)
    for (_, attr), model in in_full.items():
        if shown or left(model.id):
            # A Python client that has the model already, as it was then, does not look at it again.
            yield _whole_change(document, model, attr)


def _left_before(document: Document) -> Callable[[str], bool]:
    """Tells of a model's id whether that model has left the document once, whether or not it is back."""
    return cast("Callable[[str], bool]", document.models.seen)


def final_change(document: Document, key: Key) -> DocumentPatchedEvent | None:
    """A change to what the document holds there now; None if the model has left it."""
    model_id, attr = key
    if model_id is None:
        return TitleChangedEvent(document, document.title)
    model = document.models.get_by_id(model_id)  # type: ignore[arg-type]
    if model is None:
        return None
    return _whole_change(document, model, attr)


def _whole_change(document: Document, model: Model, attr: str, setter: Any = None) -> ModelChangedEvent:
    return ModelChangedEvent(document, model, attr, model.lookup(attr).get_value(model), setter)


def _key_of(event: DocumentPatchedEvent) -> Key | None:
    """What two changes must have in common to overwrite each other."""
    match event:
        case ModelChangedEvent() | ColumnsStreamedEvent() | ColumnsPatchedEvent() | ColumnDataChangedEvent():
            return (event.model.id, event.attr)
        case TitleChangedEvent():
            return (None, _TITLE)
        case _:
            return None
