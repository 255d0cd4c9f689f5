"""From changes of a document to patches.

Bokeh tells of a change only after the callbacks of that change have run, so the results of a callback come before
their cause, and a value that a callback corrects is overwritten again at every other viewer. `OrderedCallbacks` takes
note of each change before its callbacks run, which makes the order of the patch the order in which things happened.

A change is written down the moment it happens: a list or a column that is replaced and then streamed to in one callback
must go out as it was when it was replaced, or its new rows arrive twice. Numbers, strings and the like cannot change
under us; their encoding waits for the end of the batch, so a slider that is set a hundred times is encoded once.

`Batch` holds what was changed while the document's lock was held, and gives it out in as many variants as there are
origins: everyone gets all of it, but a viewer is not sent its own changes back. Where two change the same thing at the
same time that leaves them with different values; the batch names such places, and the session puts them right when the
changing pauses (see `contention`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

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

from aperture.protocol.codec import Buffer, EncodedEvent, EventEncoder, is_scalar, join_events
from aperture.worker.document.contention import Contention, Key
from aperture.worker.document.teardown import release_callback

__all__ = ["Batch", "OrderedCallbacks", "Patch", "Recorder", "final_change"]

Recorder = Callable[[DocumentPatchedEvent], None]

_TITLE = "title"

_REPLACING = (ModelChangedEvent, TitleChangedEvent)
"""Changes that leave nothing of the value that was there; streams and patches of columns build on it."""


class OrderedCallbacks(DocumentCallbackManager):
    """Bokeh's callback manager, which also hands each change to `recorder` before the change's callbacks run.

    What is held back by `hold` is handed over when it is let go.
    """

    def __init__(self, document: Document) -> None:
        super().__init__(document)
        self.recorder: Recorder | None = None
        self.changes = 0
        """How many there were, also of those that are held back or were made without the lock."""

    def trigger_on_change(self, event: DocumentChangedEvent) -> None:
        self.changes += 1
        if self.recorder is not None and self._hold is None and isinstance(event, DocumentPatchedEvent):
            self.recorder(event)
        super().trigger_on_change(event)

    def remove_session_callback(self, callback_obj: Any) -> None:
        # Bokeh's one-shot callbacks refer to themselves: each that ran would keep the document until a full collection.
        super().remove_session_callback(callback_obj)
        release_callback(callback_obj)


@dataclass(frozen=True, slots=True)
class Patch:
    """The content of one PATCH-DOC: `{"events": […]}` as JSON text, and its binary buffers.

    Args:
        content: empty if the document has not changed.
        buffers: of the content.
        events: how many.
        values: of the app's own that have changed with it, packed; None for those deleted. No viewer gets them.
    """

    content: bytes
    buffers: list[Buffer]
    events: int
    values: Mapping[str, bytes | None] = field(default_factory=dict)


@dataclass(slots=True)
class _Entry:
    event: DocumentPatchedEvent
    origin: object | None
    key: Key | None
    encoded: EncodedEvent | None

    @property
    def brought_models(self) -> bool:
        """Whether later changes, and final values, only refer to models that came with this one."""
        return self.encoded is not None and self.encoded.introduced


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
        self.contested: set[Key] = set()
        """What a viewer has changed shortly after somebody else had."""
        self._left_out: set[object] = set()
        self._unencodable: Exception | None = None
        self.values: dict[str, bytes | None] = {}
        """Of the app's own that have changed, packed; None for those deleted."""

    def __bool__(self) -> bool:
        return bool(self._entries) or self._unencodable is not None

    def __len__(self) -> int:
        return len(self._entries)

    def check(self) -> None:
        """Raise what made a change of this batch impossible to encode, if anything did."""
        if self._unencodable is not None:
            raise self._unencodable

    def record(self, event: DocumentPatchedEvent) -> None:
        """Take note of a change. Its setter, if any, is the viewer that it came from."""
        origin = event.setter
        key = _key_of(event)
        if key is not None and self._contention.note(key, origin):
            self.contested.add(key)
        if key is not None and self._collapses(event, key, origin):
            self._entries.pop()
        try:
            self._entries.append(_Entry(event, origin, key, self._encode_now(event)))
        except Exception as problem:
            # The app's assignment has happened and its callbacks must run; who sends the batch deals with this.
            self._unencodable = self._unencodable or problem

    def leave_out(self, viewer: object) -> None:
        """The viewer has all of this already: it pulled or pushed the whole document."""
        self._left_out.add(viewer)

    def origins(self) -> set[object]:
        """The viewers that must get a variant of their own."""
        return {entry.origin for entry in self._entries if entry.origin is not None} | self._left_out

    def patch(self) -> Patch:
        """Everything, for everyone who changed nothing, and to be written down."""
        if not self._entries:
            return Patch(b"", [], 0, self.values)
        return _join((self._encoded(entry) for entry in self._entries), self.values)

    def patch_for(self, origin: object) -> Patch | None:
        """Everything but `origin`'s own changes; None if there is nothing else."""
        if origin in self._left_out:
            return None
        parts = [
            self._encoded(entry)
            for place, entry in enumerate(self._entries)
            if entry.origin is not origin and not self._replaced_by(origin, place)
        ]
        return _join(parts) if parts else None

    def _replaced_by(self, origin: object, place: int) -> bool:
        """Whether `origin` itself has since replaced what this entry sets: it has the later value already."""
        entry = self._entries[place]
        if type(entry.event) not in _REPLACING or entry.brought_models:
            return False
        return any(
            later.origin is origin and later.key == entry.key and type(later.event) in _REPLACING
            for later in self._entries[place + 1 :]
        )

    def _collapses(self, event: DocumentPatchedEvent, key: Key, origin: object | None) -> bool:
        """Whether the last change is made pointless by this one: same attribute, and nobody needs both."""
        if not self._entries:
            return False
        last = self._entries[-1]
        same_thing = last.key == key and type(last.event) is type(event) in _REPLACING
        same_audience = last.origin is origin or origin is None
        return same_thing and same_audience and not last.brought_models

    def _encode_now(self, event: DocumentPatchedEvent) -> EncodedEvent | None:
        if type(event) is ModelChangedEvent and is_scalar(event.new):
            return None
        return self._encoder.encode(event)

    def _encoded(self, entry: _Entry) -> EncodedEvent:
        if entry.encoded is None:
            entry.encoded = self._encoder.encode(entry.event)
        return entry.encoded


def final_change(document: Document, key: Key) -> DocumentPatchedEvent | None:
    """A change to what the document holds there now; None if the model has left it."""
    model_id, attr = key
    if model_id is None:
        return TitleChangedEvent(document, document.title)
    model = document.models.get_by_id(model_id)  # type: ignore[arg-type]
    if model is None:
        return None
    return ModelChangedEvent(document, model, attr, model.lookup(attr).get_value(model))


def _key_of(event: DocumentPatchedEvent) -> Key | None:
    """What two changes must have in common to overwrite each other."""
    match event:
        case ModelChangedEvent() | ColumnsStreamedEvent() | ColumnsPatchedEvent() | ColumnDataChangedEvent():
            return (event.model.id, event.attr)
        case TitleChangedEvent():
            return (None, _TITLE)
        case _:
            return None


def _join(parts: Iterable[EncodedEvent], values: Mapping[str, bytes | None] = MappingProxyType({})) -> Patch:
    events = list(parts)
    content, buffers = join_events(events)
    return Patch(content, buffers, len(events), values)
