"""The present values of all that a viewer has missed, as patches that an unmodified BokehJS takes.

Of an attribute that was set five times it gets the last value, of a column that was streamed to the whole column. A
model that has come meanwhile is written out where it is first referred to. Values are read in a hold, so the viewer
ends with what everybody else has who has had the patches one by one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Set
from contextlib import suppress
from typing import TYPE_CHECKING

from bokeh.document.events import DocumentPatchedEvent, RootAddedEvent

from aperture.protocol import messages
from aperture.protocol.codec import EncodedEvent, EventEncoder, join_events
from aperture.protocol.frames import FrameRun
from aperture.protocol.json_text import write_json
from aperture.worker.patch.changes import final_change, whole_change

if TYPE_CHECKING:
    from bokeh.document import Document
    from bokeh.model import Model

    from aperture.worker.patch.change_log import ChangeLog

__all__ = ["Refresh"]


class Refresh:
    """What leads one viewer to the present.

    Args:
        document: held.
        log: reaches back to `after`.
        after: the number of the last patch that the viewer was given.
        unshown: models that no viewer has been sent yet, as the app holds them back.
    """

    def __init__(self, document: Document, log: ChangeLog, after: int, unshown: Set[Model]) -> None:
        self._document = document
        self._log = log
        self._after = after
        self._unshown = unshown
        self._had = log.models_after(after)
        self._written: set[str] = set()
        self._encoder = EventEncoder(self._viewer_knows, lambda model: self._written.add(model.id))

    def frames(self, *, epoch: int, sequence: int) -> FrameRun:
        """One patch of all values, and behind it one for each of the app's messages."""
        contents = [join_events(self._encoded(self._values()))]
        contents += (join_events([event]) for event in self._encoded(self._log.messages_after(self._after)))
        return FrameRun.join(
            messages.patch(content, buffers, epoch=epoch, sequence=sequence, part=part, after=self._after)
            for part, (content, buffers) in enumerate(contents)
        )

    def _values(self) -> Iterator[DocumentPatchedEvent | EncodedEvent]:
        """The changes, in one patch: a viewer keeps all models that it has until it has applied all of it."""
        document = self._document
        were_roots = self._log.roots_after(self._after)
        for model_id, was_root in were_roots.items():
            if was_root:
                yield _root_removed(model_id)
        yield from (RootAddedEvent(document, root) for root in document.roots if root.id in were_roots)
        # Not those of models that the viewer has not: they are written out as they are now where they are referred to,
        # and that may be behind this, where the change that brought them was one of a model that has left again.
        known = (key for key in self._log.changed_after(self._after) if key[0] is None or self._had.get(key[0], True))
        changes = (final_change(document, key) for key in known)
        yield from (change for change in changes if change is not None)
        for model_id, had in self._had.items():
            model = document.models.get_by_id(model_id)  # type: ignore[arg-type]
            if had and model is not None:
                # It was away, and what changed meanwhile was no change of the document.
                yield from (whole_change(document, model, attr) for attr in _shared_attributes(model))

    def _encoded(self, events: Iterable[DocumentPatchedEvent | EncodedEvent]) -> Iterator[EncodedEvent]:
        for event in events:
            if isinstance(event, EncodedEvent):
                yield event
                continue
            encoded = self._try_to_encode(event)
            if encoded is not None:
                yield encoded

    def _try_to_encode(self, event: DocumentPatchedEvent) -> EncodedEvent | None:
        with suppress(Exception):  # what cannot be encoded was logged when it was changed, and not sent
            return self._encoder.encode(event)
        return None

    def _viewer_knows(self, model: Model) -> bool:
        if model.id in self._written:
            return True
        return self._had.get(model.id, True) and model.document is self._document and model not in self._unshown


def _shared_attributes(model: Model) -> Iterator[str]:
    return (attr for attr in model.properties() if model.lookup(attr).serialized)


def _root_removed(model_id: str) -> EncodedEvent:
    """As Bokeh's; the model itself may be gone."""
    return EncodedEvent(write_json({"kind": "RootRemoved", "model": {"id": model_id}}), (), ())
