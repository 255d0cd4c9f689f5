"""Document events and whole documents to the content of a message, once for all viewers.

An event is encoded when it happens, to JSON text and buffers that own their data; a scalar may wait. The events
of one batch are then joined as text. Nothing here looks at more of the document than the event
names: whether a model is known to the viewers is asked for each model met.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import count
from math import isfinite, isnan
from typing import Any, NamedTuple

from bokeh import __version__ as bokeh_version
from bokeh.document import Document
from bokeh.document.events import DocumentPatchedEvent, ModelChangedEvent
from bokeh.model import DataModel, Model

from aperture.protocol.frames import Buffer
from aperture.protocol.json_text import write_json
from aperture.protocol.values import MAX_SAFE_INT, ValueEncoder

__all__ = ["EncodedEvent", "EventEncoder", "encode_document", "is_scalar", "join_events"]

_SCALARS = frozenset((type(None), bool, str, float))


class EncodedEvent(NamedTuple):
    """One event as it goes into a patch: a tuple, which is made in a third of a frozen dataclass's time.

    Args:
        json: the event's object.
        buffers: what the object refers to.
        introduced: the ids of the models in it that are written out in full, because the viewers did not have them.
    """

    json: bytes
    buffers: tuple[Buffer, ...]
    introduced: tuple[str, ...]


def is_scalar(value: Any) -> bool:
    """Whether the value cannot change under us, so that its encoding can wait for the end of the batch."""
    kind = type(value)
    return kind in _SCALARS or (kind is int and -MAX_SAFE_INT < value <= MAX_SAFE_INT)


class EventEncoder:
    """Encodes the events of one session. Calls must be serialised, as the document lock does.

    Args:
        knows: whether the viewers already have a model; asked once for each model met.
        learned: called with each model that was written out in full, after the event is encoded.
    """

    __slots__ = ("_knows", "_learned", "_next_buffer_id", "failed")

    def __init__(self, knows: Callable[[Model], bool], learned: Callable[[Model], None]) -> None:
        self._knows = knows
        self._learned = learned
        self.failed = False
        """Whether an event could not be encoded: then the receivers may not know what it would have brought."""
        self._next_buffer_id = map("b{}".format, count(1)).__next__

    def encode(self, event: DocumentPatchedEvent) -> EncodedEvent:
        """The event with its values as they are now; later changes in place do not show.

        Raises:
            SerializationError: a value that Bokeh cannot serialize either; `learned` was not called.
        """
        if type(event) is ModelChangedEvent and is_scalar(event.new):
            return EncodedEvent(_scalar_change(event), (), ())
        encoder = ValueEncoder(next_buffer_id=self._next_buffer_id, knows=self._knows)
        try:
            content = encoder.render(lambda: event.to_serializable(encoder))
        except Exception:
            self.failed = True
            raise
        for model in encoder.written:
            self._learned(model)
        return EncodedEvent(content, tuple(encoder.beside), tuple(model.id for model in encoder.written))


def _scalar_change(event: ModelChangedEvent) -> bytes:
    new = event.new
    if type(new) is float and not isfinite(new):
        new = {"type": "number", "value": "nan" if isnan(new) else "-inf" if new < 0 else "+inf"}
    rep = {"kind": "ModelChanged", "model": {"id": event.model.id}, "attr": event.attr, "new": new}
    return write_json(rep)


def join_events(events: Iterable[EncodedEvent]) -> tuple[bytes, list[Buffer]]:
    """The content of one patch, and the buffers beside it."""
    listed = list(events)
    if len(listed) == 1:
        return b'{"events":[%b]}' % listed[0].json, list(listed[0].buffers)
    content = b'{"events":[%b]}' % b",".join([event.json for event in listed])
    return content, [buffer for event in listed for buffer in event.buffers]


def encode_document(doc: Document, *, inline: bool) -> tuple[bytes, list[Buffer]]:
    """The content of a pull reply, and the buffers beside it; they share the document's arrays, so frame them at once.

    Which models count as known to the viewers is left as it is: only this viewer gets what is written here.

    Args:
        doc: read under its lock.
        inline: write arrays into the content, for a viewer that pulls again: BokehJS 3.9 loses buffers there.
    """
    encoder = ValueEncoder(next_buffer_id=map("b{}".format, count(1)).__next__, inline=inline, snapshot=False)
    content = encoder.render(lambda: {"doc": _document(doc, encoder)})
    return content, encoder.beside


def _document(doc: Document, encoder: ValueEncoder) -> dict[str, Any]:
    """What `Document.to_json` gives: definitions first, for whatever is encoded later may refer to them."""
    classes = Model.model_class_reverse_map.values()
    data_models = [cls for cls in classes if getattr(cls, "__data_model__", False) and cls is not DataModel]
    defs = encoder.encode(data_models)
    fields = {
        "version": bokeh_version,
        "title": doc.title,
        "config": encoder.encode(doc.config),
        "roots": encoder.encode(doc.roots),
    }
    if data_models:
        fields["defs"] = defs
    callbacks = doc.callbacks.js_event_callbacks
    if callbacks:
        fields["callbacks"] = encoder.encode(callbacks)
    return fields
