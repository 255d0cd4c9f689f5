"""The content of received messages to document events and documents.

A peer's mistake must cost the peer an error reply and nothing more, so everything that comes out of here is an event
that has the fields its kind needs, or one of few exceptions. Models are found by asking for the ids that a patch names;
stock Bokeh builds a table of all models for every patch. A model that is already here is recognised by its id and its
attributes are not looked at: BokehJS sends the whole document back after a reconnect.
"""

from __future__ import annotations

import base64
import sys
import zlib
from collections.abc import Callable, Mapping
from typing import Any, NoReturn, cast

from bokeh.core.serialization import DeserializationError, Deserializer, UnknownReferenceError
from bokeh.core.types import ID
from bokeh.document.config import DocumentConfig
from bokeh.document.events import DocumentPatchedEvent
from bokeh.model import Model

from aperture.errors import ProtocolError, UnknownReference
from aperture.protocol.allowance import UNLIMITED, Allowance
from aperture.protocol.messages import Message
from aperture.protocol.weights import weight_of

__all__ = ["ValueDecoder", "decode_document", "decode_patch"]

_DTYPES = frozenset(
    ("bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float32", "float64", "object")
)

_PLAIN = frozenset((str, float, int, bool, type(None)))

_LIST_BYTES = 56
_DICT_BYTES = 128
_POINTER_BYTES = 8
_ENTRY_BYTES = 48
"""What CPython needs for a list and its items, a dict or set and its entries, roughly."""

_FIELDS: dict[str, tuple[frozenset[str], frozenset[str]]] = {
    kind: (frozenset(required), frozenset(required + optional))
    for kind, required, optional in (
        ("ModelChanged", ("kind", "model", "attr", "new"), ()),
        ("ColumnDataChanged", ("kind", "model", "attr"), ("data", "cols")),
        ("ColumnsStreamed", ("kind", "model", "attr", "data"), ("rollover",)),
        ("ColumnsPatched", ("kind", "model", "attr", "patches"), ()),
        ("TitleChanged", ("kind", "title"), ()),
        ("RootAdded", ("kind", "model"), ()),
        ("RootRemoved", ("kind", "model"), ()),
        ("MessageSent", ("kind", "msg_type", "msg_data"), ()),
    )
}
"""The fields each kind must have, and those it may have; they become keyword arguments, so nothing else passes."""


def decode_patch(
    message: Message,
    *,
    find: Callable[[ID], Model | None],
    seen: Callable[[ID], bool],
    setter: object,
    created: Callable[[Model], None] | None = None,
    allowance: Allowance = UNLIMITED,
) -> list[dict[str, Any]] | None:
    """The events of a PATCH-DOC, each ready for `DocumentPatchedEvent.handle_event(doc, event, setter)`.

    Call under the document lock: new models are made here.

    Args:
        message: as the assembler gave it.
        find: the document's model of that id, if it has one.
        seen: whether the document once had a model of that id.
        setter: who is changing the document, so that the change is not sent back to it.
        created: called with each model that the patch made, when all of it was decoded.
        allowance: of the connection that the message came over.

    Returns:
        The events, or None when the patch crossed the removal of a model that it names and must be dropped.

    Raises:
        ProtocolError: the content is not a list of events, or needs more memory than the connection may have.
        UnknownReference: it names a model that the document never had.
        ValueError: a value or an event that cannot be decoded.
    """
    allowance.begin(message.size)
    reps = _events(message.content)
    events = [_plain_change(rep, find) for rep in reps]
    # Nearly always: what a decoder takes to be made is a fifth of what applying such a change takes.
    if None not in events:
        return cast("list[dict[str, Any]]", events)
    decoder = ValueDecoder(find, message.buffers, setter, allowance)
    try:
        decoded = [event or decoder.event(rep) for event, rep in zip(events, reps, strict=True)]
    except UnknownReferenceError as problem:
        if seen(problem.id):
            return None
        raise UnknownReference(str(problem)) from None
    if created is not None:
        for model in decoder.created:
            created(model)
    return decoded


def decode_document(message: Message, *, setter: object = None, allowance: Allowance = UNLIMITED) -> dict[str, Any]:
    """The document of a PUSH-DOC, ready for `Document.replace_with_json`: its values are objects already.

    Raises:
        ProtocolError: the content is not a document, or needs more memory than the connection may have.
        ValueError: a value that cannot be decoded, or a reference to nothing.
    """
    content = message.content
    doc = content.get("doc") if isinstance(content, dict) else None
    if not isinstance(doc, dict):
        raise ProtocolError("PUSH-DOC without a document")
    allowance.begin(message.size)
    decoder = ValueDecoder(lambda _: None, message.buffers, setter, allowance)
    fields = {name: decoder.value(doc.get(name)) for name in ("config", "roots", "title")}
    roots = fields["roots"]
    if not isinstance(roots, list) or not all(isinstance(root, Model) for root in roots):
        raise ProtocolError("PUSH-DOC whose roots are not models")
    if not isinstance(fields["title"], str) or not isinstance(fields["config"], DocumentConfig):
        raise ProtocolError("PUSH-DOC without a title or a configuration")
    return fields


def _events(content: Any) -> list[Any]:
    events = content.get("events") if isinstance(content, dict) else None
    if not isinstance(events, list):
        raise ProtocolError("PATCH-DOC without events")
    return events


def _plain_change(rep: Any, find: Callable[[ID], Model | None]) -> dict[str, Any] | None:
    """The event, if it sets one scalar on a model that is here: nearly all that browsers send."""
    try:
        if rep["kind"] != "ModelChanged" or len(rep) != 4 or type(rep["new"]) not in _PLAIN:
            return None
        ref = rep["model"]
        attr = rep["attr"]
        model = find(ref["id"]) if len(ref) == 1 else None
    except (KeyError, TypeError):
        return None
    if model is None or type(attr) is not str:
        return None
    return {"kind": "ModelChanged", "model": model, "attr": attr, "new": rep["new"]}


class ValueDecoder(Deserializer):
    """Decodes the values of one message. What Bokeh's own decoder leaves open to a hostile peer is closed here.

    Args:
        find: the model of that id that is here already, if there is one.
        buffers: binary data by the id that the values use.
        setter: who is changing the document.
        allowance: what may be allocated.
    """

    def __init__(
        self,
        find: Callable[[ID], Model | None],
        buffers: Mapping[str, bytes],
        setter: object,
        allowance: Allowance = UNLIMITED,
    ) -> None:
        super().__init__(setter=setter)  # type: ignore[arg-type]  # Bokeh names its own session classes there.
        self.created: list[Model] = []
        self._find = find
        self._received = buffers
        self._allowance = allowance
        self._take = allowance.take
        self._levels = allowance.depth

    def event(self, rep: Any) -> dict[str, Any]:
        """One event, checked to have the fields of its kind."""
        if not isinstance(rep, dict):
            raise ProtocolError("an event is not an object")
        kind = rep.get("kind")
        if not isinstance(kind, str) or kind not in DocumentPatchedEvent._handlers:
            raise DeserializationError("unknown kind of event")
        fields = _FIELDS.get(kind)
        if fields is not None and not (fields[0] <= rep.keys() <= fields[1]):
            raise DeserializationError(f"wrong fields for {kind}")
        event = {name: self.value(value) for name, value in rep.items()}
        _check_event(event)
        return event

    def value(self, rep: Any) -> Any:
        """One value.

        Raises:
            ValueError: it cannot be decoded.
        """
        self._levels = self._allowance.depth  # an error may have left some of them used up
        try:
            return self.decode(rep)
        except (UnknownReferenceError, DeserializationError, ProtocolError):
            raise
        except RecursionError:
            raise DeserializationError("a value is nested too deeply") from None
        except Exception as problem:
            # Decoding runs property validation of any model, so a wrong shape can surface as any exception at all.
            raise DeserializationError(f"{type(problem).__name__}: {problem}") from problem

    def _decode(self, obj: Any) -> Any:
        kind = type(obj)
        if kind in _PLAIN:
            return obj
        if self._levels <= 0:
            self.error("a value is nested too deeply")
        self._levels -= 1
        if kind is list:
            self._take(_LIST_BYTES + _POINTER_BYTES * len(obj))
            decode = self._decode
            value: Any = [item if type(item) in _PLAIN else decode(item) for item in obj]
        else:
            entries = obj.get("entries", obj) if kind is dict else ()
            self._take(_DICT_BYTES + (_ENTRY_BYTES * len(entries) if type(entries) in (list, dict) else 0))
            value = super()._decode(obj)
        self._levels += 1
        return value

    def _decode_ref(self, obj: Any) -> Model:
        found = self._known(obj["id"])
        if found is None:
            raise UnknownReferenceError(obj["id"])
        return found

    def _decode_object_ref(self, obj: Any) -> Model:
        found = self._known(obj["id"])
        if found is not None:
            return found
        self._allowance.make(weight_of(self._resolve_type(obj["name"])))
        model = super()._decode_object_ref(obj)
        self.created.append(model)
        return model

    def _known(self, model_id: Any) -> Model | None:
        if not isinstance(model_id, str):
            self.error("a model's id is not a string")
        name = ID(model_id)
        return self._references.get(name) or self._find(name)

    def _decode_bytes(self, obj: Any) -> bytes:
        data = obj["data"]
        if isinstance(data, str):
            return self._inflate(data)
        found = self._received.get(data["id"])
        if found is None:
            self.error(f"can't resolve buffer '{data['id']}'")
        self._take(len(found))  # shared here, but written out at each place that names it
        return found

    def _inflate(self, packed: str) -> bytes:
        inflater = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
        data = inflater.decompress(base64.b64decode(packed), min(self._allowance.left + 1, sys.maxsize))
        self._take(len(data))
        if not inflater.eof:
            self.error("inline data is cut short")
        return data

    def _decode_ndarray(self, obj: Any) -> Any:
        if obj["dtype"] not in _DTYPES:
            self.error("unsupported dtype")
        self._take(self._size_of(obj["array"]))  # Bokeh copies it, however many arrays name one buffer
        return super()._decode_ndarray(obj)

    def _decode_typed_array(self, obj: Any) -> Any:
        self._take(self._size_of(obj["array"]))
        return super()._decode_typed_array(obj)

    def _size_of(self, rep: Any) -> int:
        """Bytes of an array: of the buffer that it names, or of the list that it is; what is inline is counted twice
        where it is inflated."""
        if type(rep) is list:
            return _POINTER_BYTES * len(rep)
        data = rep.get("data") if type(rep) is dict else None
        return len(self._received.get(data["id"], b"")) if type(data) is dict else 0

    def error(self, error: str | DeserializationError) -> NoReturn:
        raise DeserializationError(error) if isinstance(error, str) else error


def _check_event(event: dict[str, Any]) -> None:
    if "model" in event and not isinstance(event["model"], Model):
        raise DeserializationError("an event's model is not a model")
    for name in ("attr", "title", "msg_type"):
        if name in event and not isinstance(event[name], str):
            raise DeserializationError(f"an event's {name} is not a string")
