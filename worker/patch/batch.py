"""What was changed during one hold of the document, and the patches that it makes.

`Batch` gives the changes out in as many variants as there are origins: everyone gets all of them, but a viewer is not
sent its own changes back. Where two change the same thing at the same time that leaves them with different values; the
batch names such places, and the session corrects them when the changing pauses (see `contention`).

A change that is not a plain value is encoded when it happens: a list that a callback sets and then fills must be sent
as it was set. A plain one waits for the end of the batch, so a slider that is set a hundred times is encoded once.

A patch is decoded as a whole before any of it is applied. A model that left the document and comes back in one
callback is written out as it is then; in one patch, a browser would set all of that first and then apply the changes
that came before, and a Python client, which has the model still, would not look at it. So what brings such a model back
begins a patch of its own: a batch may become several, behind one another, of one number.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from bokeh.core.serialization import SerializationError
from bokeh.document import Document
from bokeh.document.events import DocumentPatchedEvent, ModelChangedEvent

from aperture.protocol.codec import Buffer, EncodedEvent, EventEncoder, is_scalar, join_events
from aperture.worker.patch.changes import OF_MODELS, REPLACING, key_of, left_before
from aperture.worker.patch.contention import Contention, Key

__all__ = ["Batch", "Patch", "Reach"]

log = logging.getLogger(__name__)


class Reach(Enum):
    """Who a change is recorded for."""

    ALL = "the journal and the viewers"
    JOURNAL = "the journal alone: the app holds it back from the viewers"
    VIEWERS = "the viewers alone: it is released, and was recorded when it happened"


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
        """Keys that a viewer has changed shortly after another writer had."""
        self._left_out: set[object] = set()
        self.unencodable: Exception | None = None
        """Why the first change that was left out could not be encoded; None if there is no such change."""
        self.values: dict[str, bytes | None] = {}
        """Of the app's own that have changed, packed; None for those deleted."""

    def __bool__(self) -> bool:
        """Whether there is anything to send to viewers."""
        return any(entry.reach is not Reach.JOURNAL for entry in self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def lasting(self) -> bool:
        """Whether there is anything for the journal."""
        return bool(self._entries or self.values) or self._held_before != _is_held(self._document)

    def record(self, event: DocumentPatchedEvent, reach: Reach = Reach.ALL) -> None:
        """Take note of a change. Its setter, if any, is the viewer that it came from.

        One that cannot be encoded is the app's fault. It is logged and left out, as in Bokeh, and nothing is raised:
        the assignment has happened, and its callbacks must run.
        """
        if self._encoder.failed and self._is_unknown(event):
            return
        origin = event.setter
        key = key_of(event)
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
        """All changes for viewers, for those that made none of them."""
        return Patch(self._parts_for_all() or self._parts(self._shown()))

    def lasting_patch(self) -> Patch:
        """All changes, for the journal."""
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
        return key_of(event) is not None and getattr(event, "model", None) in self._document.models._new_models

    def _brings_back(self, encoded: EncodedEvent) -> bool:
        if not encoded.introduced:
            return False
        left = left_before(self._document)
        found = any(name in self._introduced or left(name) for name in encoded.introduced)
        self._introduced.update(encoded.introduced)
        return found

    def _collapses(self, event: DocumentPatchedEvent, reach: Reach, key: Key, origin: object | None) -> bool:
        """Whether this change replaces the last one: same attribute, same receivers, and none of them needs both."""
        if not self._entries:
            return False
        last = self._entries[-1]
        same_thing = last.key == key and type(last.event) is type(event) in REPLACING and last.reach is reach
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
    if type(entry.event) not in REPLACING or entry.introduced:
        return False
    return any(other.origin is origin and other.key == entry.key and type(other.event) in REPLACING for other in later)


def _is_held(document: Document) -> bool:
    return document.callbacks.hold_value is not None


def _log_unencodable(event: DocumentPatchedEvent, problem: Exception) -> None:
    """Log without the value, which is private. Bokeh's errors name only types; the text of others may quote values."""
    changed = f"{type(event.model).__name__}.{event.attr}" if isinstance(event, OF_MODELS) else event.kind
    reason = problem if isinstance(problem, SerializationError) else type(problem).__name__
    log.error("a change of %s cannot be encoded and is not sent: %s", changed, reason)
