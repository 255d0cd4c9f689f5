"""Both encodings of the same thing, in a form that can be compared: ours, and stock Bokeh's as the reference."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Iterable
from typing import Any

from bokeh.core.json_encoder import serialize_json
from bokeh.core.serialization import Serializer
from bokeh.document import Document
from bokeh.document.events import DocumentPatchedEvent
from bokeh.model import Model

from aperture.protocol.codec import Buffer, EncodedEvent, EventEncoder, join_events

__all__ = ["Viewers", "resolved", "stock_document", "stock_events"]


class Viewers:
    """What the viewers of a session know, and an encoder that asks them."""

    def __init__(self, known: Iterable[Model] = ()) -> None:
        self.known = {model.id for model in known}
        self.asked: list[str] = []
        self.learned: list[Model] = []
        self.encoder = EventEncoder(self._knows, self._learn)

    def encode(self, event: DocumentPatchedEvent) -> EncodedEvent:
        return self.encoder.encode(event)

    def content(self, *events: DocumentPatchedEvent) -> Any:
        """The parsed content of a patch, with its buffers put where they belong."""
        return resolved(*join_events([self.encode(event) for event in events]))

    def _knows(self, model: Model) -> bool:
        self.asked.append(model.id)
        return model.id in self.known

    def _learn(self, model: Model) -> None:
        self.known.add(model.id)
        self.learned.append(model)


def stock_events(known: Iterable[Model], *events: DocumentPatchedEvent) -> Any:
    """The parsed content of the patch that stock Bokeh would send, with its buffers put where they belong."""
    serializer = Serializer(references=set(known))
    text = serialize_json({"events": serializer.encode(list(events))})
    return resolved(text.encode(), [Buffer(buffer.id, buffer.to_bytes()) for buffer in serializer.buffers])


def stock_document(doc: Document) -> Any:
    serialized = doc.to_json()
    buffers = [Buffer(buffer.id, buffer.to_bytes()) for buffer in serialized.buffers]
    return resolved(serialize_json({"doc": serialized.content}).encode(), buffers)


def resolved(content: bytes, buffers: Iterable[Buffer]) -> Any:
    """Parsed content in which every `bytes` holds its bytes, whichever way they travelled."""
    by_id = {buffer.id: bytes(buffer.data) for buffer in buffers}
    used: set[str] = set()

    def resolve(value: Any) -> Any:
        if isinstance(value, list):
            return [resolve(item) for item in value]
        if not isinstance(value, dict):
            return value
        if value.get("type") == "bytes":
            data = value["data"]
            if isinstance(data, str):
                return {"bytes": gzip.decompress(base64.b64decode(data))}
            used.add(data["id"])
            return {"bytes": by_id[data["id"]]}
        return {key: resolve(item) for key, item in value.items()}

    found = resolve(json.loads(content, parse_constant=_refuse))
    assert used == by_id.keys(), "every buffer is referred to"
    return found


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
