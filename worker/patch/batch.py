"""What was changed during one hold of the document, and the patches that it makes.

`Batch` gives the changes out in as many variants as there are origins: everyone gets all of them, but a viewer is not
sent its own changes back. A batch is nearly always one patch; where a model leaves the document and comes back it
becomes several, behind one another, of one number.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from enum import Enum

from bokeh.core.serialization import SerializationError
from bokeh.document import Document
from bokeh.document.events import DocumentPatchedEvent, ModelChangedEvent
from bokeh.model import Model

from aperture.protocol.codec import Buffer, EncodedEvent, EventEncoder, is_scalar, join_events
from aperture.worker.patch.changes import OF_MODELS, REPLACING, key_of, left_before
from aperture.worker.patch.contention import Contention, Key

__all__ = ["Batch", "Entry", "Patch", "Reach", "unshown"]

log = logging.getLogger(__name__)


_NONE: Set[Model] = frozenset()


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
class Entry:
    """One change in a batch."""

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
        self._entries: list[Entry] = []
        self._joined: list[tuple[bytes, list[Buffer]]] | None = None
        self._held_before = _is_held(document)
        self._introduced: set[str] = set()
        self.contested: set[Key] = set()
        """Keys that a viewer has changed shortly after another writer had."""
        self._models_before = document.models._models  # which Bokeh replaces, and does not change
        self._unshown_before = unshown(document)
        self._left_out: set[object] = set()
        self.unencodable: Exception | None = None
        """Why the first change that was left out could not be encoded; None if there is no such change."""
        self.values: dict[str, bytes | None] = {}
        """Of the app's own that have changed, packed; None for those deleted."""

    def __bool__(self) -> bool:
        """Whether there is anything to send to viewers."""
        for entry in self._entries:  # a loop, as a generator costs more than the one change that there is as a rule
            if entry.reach is not Reach.JOURNAL:
                return True
        return False

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def lasting(self) -> bool:
        """Whether there is anything for the journal."""
        return bool(self._entries or self.values) or self._held_before != _is_held(self._document)

    def record(self, event: DocumentPatchedEvent, reach: Reach = Reach.ALL) -> None:
        """Take note of a change. Its setter, if any, is the viewer that it came from.

        One that cannot be encoded is logged and left out, as in Bokeh.
        """
        # Its model came with a change that could not be encoded: to every receiver it would be a reference to nothing.
        if self._encoder.failed and self._is_unknown(event):
            return
        origin = event.setter
        key = key_of(event)
        # A viewer does not get its own changes back: if two change one thing at the same time, each ends with the
        # other's value. Such places are noted, and the session sends its value once the changing pauses.
        if key is not None and reach is not Reach.JOURNAL and self._contention.note(key, origin):
            self.contested.add(key)
        try:
            encoded = self._encode_now(event)
        except Exception as problem:
            # Not raised: the assignment has happened, and its callbacks must run.
            self.unencodable = self.unencodable or problem
            _log_unencodable(event, problem)
            return
        brings_back = encoded is not None and self._brings_back(encoded)
        # Before it is collapsed: a change that brings a model back begins a patch, and must not replace what is in the
        # one before.
        if key is not None and not brings_back and self._collapses(event, reach, key, origin):
            self._entries.pop()
        self._entries.append(Entry(event, reach, origin, key, encoded, brings_back))

    def gone(self) -> list[str]:
        """The models that viewers had before, and that are not in the document any more, by their ids."""
        before, now = self._models_before, self._document.models._models
        if before is now:
            return []
        return [model_id for model_id in before.keys() - now.keys() if self.had(model_id)]

    def had(self, model_id: str) -> bool:
        """Whether viewers had this model before."""
        model = self._models_before.get(model_id)  # type: ignore[call-overload]
        return model is not None and model not in self._unshown_before

    def leave_out(self, viewer: object) -> None:
        """The viewer has all of this already: it pulled or pushed the whole document."""
        self._left_out.add(viewer)

    def origins(self) -> set[object]:
        """The viewers that must get a variant of their own."""
        return {entry.origin for entry in self.shown() if entry.origin is not None} | self._left_out

    def patch(self) -> Patch:
        """All changes for viewers, for those that made none of them."""
        return Patch(self._parts_for_all() or self._parts(self.shown()))

    def lasting_patch(self) -> Patch:
        """All changes, for the journal."""
        # Without what the app let go just now: the journal got that when it happened, under the number of then.
        lasting = (entry for entry in self._entries if entry.reach is not Reach.VIEWERS)
        return Patch(self._parts_for_all() or self._parts(lasting), self.values, _is_held(self._document))

    def patch_for(self, origin: object) -> Patch | None:
        """Everything but `origin`'s own changes; None if there is nothing else."""
        # A viewer that drags a slider, as a rule, has made all of it.
        if origin in self._left_out or {entry.origin for entry in self._entries} == {origin}:
            return None
        parts = self._parts(self._entries_for(origin))
        return Patch(parts) if parts else None

    def shown(self) -> list[Entry]:
        """The changes that viewers get."""
        return [entry for entry in self._entries if entry.reach is not Reach.JOURNAL]

    def _entries_for(self, origin: object) -> Iterator[Entry]:
        written: set[str | None] = set()
        shown = self.shown()
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

    def _parts(self, entries: Iterable[Entry]) -> list[tuple[bytes, list[Buffer]]]:
        parts: list[list[EncodedEvent]] = []
        for entry in entries:
            # A patch is decoded as a whole before any of it is applied. A model that left and comes back is written
            # out as it is then: in one patch a browser would set all of that first, and then apply the changes that
            # came before; and a Python client, which still has the model, would not look at it.
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
        # In this batch or in an earlier one: the viewers may still have it, as it was when it left.
        left = left_before(self._document)
        found = any(name in self._introduced or left(name) for name in encoded.introduced)
        self._introduced.update(encoded.introduced)
        return found

    def _collapses(self, event: DocumentPatchedEvent, reach: Reach, key: Key, origin: object | None) -> bool:
        """Whether this change replaces the last one: same attribute, same receivers, and none of them needs both."""
        if not self._entries:
            return False
        # Only the last: a change in between may have been made because of this value, and must not come before it.
        last = self._entries[-1]
        same_thing = last.key == key and type(last.event) is type(event) in REPLACING and last.reach is reach
        # The app's own change goes to everyone, the viewer that made the last one among them; not the other way round.
        same_audience = last.origin is origin or origin is None
        # One that brought models cannot go: later changes only refer to them.
        return same_thing and same_audience and not last.introduced

    def _encode_now(self, event: DocumentPatchedEvent) -> EncodedEvent | None:
        # A plain value cannot change any more, so it waits for the end of the batch: a slider that is set a hundred
        # times is encoded once. A list that is set and then filled must be sent as it was set, with the fillings
        # behind it.
        if type(event) is ModelChangedEvent and is_scalar(event.new):
            return None
        return self._encoder.encode(event)

    def _encoded(self, entry: Entry) -> EncodedEvent:
        if entry.encoded is None:
            entry.encoded = self._encoder.encode(entry.event)
        return entry.encoded


def _is_replaced(entry: Entry, origin: object, later: Iterable[Entry]) -> bool:
    """Whether `origin` itself has since replaced what this entry sets: it has the later value already."""
    # A stream of rows was the base of the later value, and a model that came with this one may be what other changes
    # refer to.
    if type(entry.event) not in REPLACING or entry.introduced:
        return False
    return any(other.origin is origin and other.key == entry.key and type(other.event) in REPLACING for other in later)


def unshown(document: Document) -> Set[Model]:
    """The models that the document has and its viewers have not; nearly always none."""
    new, ahead = document.models._new_models, getattr(document.callbacks, "journaled_ahead", _NONE)
    return {*new, *ahead} if new or ahead else _NONE


def _is_held(document: Document) -> bool:
    return document.callbacks.hold_value is not None


def _log_unencodable(event: DocumentPatchedEvent, problem: Exception) -> None:
    """Log without the value, which is private. Bokeh's errors name only types; the text of others may quote values."""
    changed = f"{type(event.model).__name__}.{event.attr}" if isinstance(event, OF_MODELS) else event.kind
    reason = problem if isinstance(problem, SerializationError) else type(problem).__name__
    log.error("a change of %s cannot be encoded and is not sent: %s", changed, reason)
