"""The state of a document as bytes, and a document brought to that state without its app noticing.

A session that lost its worker is built again by running the app's code, which gives the same models, by the same ids,
with their callbacks. What has happened since is then laid over it: first a snapshot, property by property, then the
patches that came after it. Callbacks stay attached and are not called; what they did is in the state already.

The values that the app keeps itself (`aperture.app_state`) are part of both: a snapshot has all of them, a patch those
that were changed under the same hold of the lock. They can be read by themselves, because the app's code needs them
before there is a document that anything could be laid over.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from types import MappingProxyType
from typing import Any

import msgpack
from bokeh.core.has_props import HasProps
from bokeh.core.property.validation import validate
from bokeh.core.types import ID
from bokeh.document import Document
from bokeh.model import Model

from aperture.app_state import session_state, unpack_value
from aperture.bokeh_versions import new_model
from aperture.document.applying import NamedModels, apply_event
from aperture.errors import StateMismatch
from aperture.protocol.codec import Buffer, encode_document
from aperture.protocol.decode import ValueDecoder
from aperture.protocol.json_text import read_json
from aperture.protocol.values import MAX_SAFE_INT
from aperture.worker.patch.batch import Patch
from aperture.worker.patch.callbacks import ordered_callbacks

__all__ = ["fingerprint", "fits", "lay_over", "pack_patch", "replay", "snapshot", "stored_values", "was_held"]

FORMAT = 4
"""Of snapshots and packed patches; one of another format, from before or after an upgrade, is not read."""


def fingerprint(document: Document) -> str:
    """The ids and types of all models, and their names: equal for two runs of app code that made the same document."""
    types = _digest(f"{model.id} {type(model).__qualified_model__}" for model in document.models)
    return f"{types} {_digest(f'{model.id} {model.name}' for model in document.models)}"


def fits(document: Document, made: str, *, names: bool) -> bool:
    """Whether the app's code has made the document that this is the fingerprint of.

    Args:
        document: just made.
        made: a fingerprint.
        names: whether models must have the same names, too.
    """
    now = fingerprint(document)
    return now == made if names else now.partition(" ")[0] == made.partition(" ")[0]


def snapshot(document: Document) -> bytes:
    """All models with their properties, the roots, the title and the app's values. Called under the document's lock."""
    content, buffers = encode_document(document, inline=False)
    held = document.callbacks.hold_value is not None
    return _packed(content, buffers, session_state(document).packed(), held=held)


def pack_patch(patch: Patch) -> bytes:
    """A patch, as `replay` takes it."""
    content = b"[%b]" % b",".join([content for content, _ in patch.parts])
    buffers = [buffer for _, buffers in patch.parts for buffer in buffers]
    return _packed(content, buffers, dict(patch.values), held=patch.held)


def was_held(state: bytes, patches: Sequence[bytes]) -> bool:
    """Whether the app held its document after the last of the patches.

    Raises:
        StateMismatch: that is damaged.
    """
    return _unpacked(patches[-1] if patches else state).held


def stored_values(state: bytes, patches: Iterable[bytes]) -> dict[str, bytes]:
    """The app's values, packed, as of the last of the patches.

    Raises:
        StateMismatch: one is damaged.
    """
    values: dict[str, bytes] = {}
    for packed in (state, *patches):
        for key, value in _unpacked(packed).values.items():
            if value is None:
                values.pop(key, None)
            else:
                values[key] = value
    with _misfits():
        for value in values.values():
            unpack_value(value)
    return values


def lay_over(document: Document, state: bytes, made: Mapping[str, Model] = MappingProxyType({})) -> None:
    """Bring a document that the app's code has just made to the state of a snapshot.

    Models that the app made since are added, those that it removed are removed, and properties that the snapshot does
    not have are what they are by default.

    Args:
        document: to be changed.
        state: a snapshot.
        made: all models that the app's code has made, by id. What it shows only now and then is among them, and must
            be the one that its callbacks know.

    Raises:
        StateMismatch: the snapshot does not fit the document, or is no snapshot. The document is of no use then.
    """
    kept = _unpacked(state)
    with _misfits(), ordered_callbacks(document).unnoticed():
        doc = read_json(kept.content)["doc"]
        reps = {rep["id"]: rep for rep in _model_reps(doc)}
        known = _models_for(reps, document, made)
        decoder = _StateDecoder(known.get, kept.buffers, None)
        values = {model_id: _decoded(decoder, rep) for model_id, rep in reps.items()}
        with document.models.freeze():
            for model_id, attributes in values.items():
                _set_all(known[ID(model_id)], attributes)
            document._roots[:] = [known[ID(root["id"])] for root in doc["roots"]]
        document._title = str(doc["title"])
    document.models.flush_synced()


def replay(document: Document, packed: bytes, made: Mapping[str, Model] = MappingProxyType({})) -> None:
    """Apply a patch that the document was sent when it was another worker's.

    Args:
        document: to be changed.
        packed: by `pack_patch`.
        made: as for `lay_over`.

    Raises:
        StateMismatch: it does not fit the document, or is no patch. The document is of no use then.
    """
    kept = _unpacked(packed)
    with _misfits(), ordered_callbacks(document).unnoticed():
        for part in read_json(kept.content):
            decoder = _PatchDecoder(document, kept.buffers, made)
            for event in [decoder.event(rep) for rep in part["events"]]:
                if event["kind"] != "MessageSent":  # for the viewers of that moment
                    _apply(document, event)
    document.models.flush_synced()


class _StateDecoder(ValueDecoder):
    """Makes tuples again of what can only have been one: JSON has nothing but lists."""

    def _decode_map(self, obj: Any) -> dict[Any, Any]:
        decode = self._decode
        return {_hashable(decode(key)): decode(value) for key, value in obj.get("entries", ())}

    def _decode_set(self, obj: Any) -> set[Any]:
        return {_hashable(self._decode(entry)) for entry in obj.get("entries", ())}


def _hashable(value: Any) -> Any:
    return tuple(map(_hashable, value)) if type(value) is list else value


class _PatchDecoder(_StateDecoder):
    """Finds what the app's code has made also where a patch shows it for the first time.

    A model that is written out in full becomes what is written, as in BokehJS, also if it is in the document: it may
    have been taken out of it, changed and brought back while the app held its changes back.
    """

    def __init__(self, document: Document, buffers: dict[str, bytes], made: Mapping[str, Model]) -> None:
        super().__init__(NamedModels(document).find, buffers, None)
        self._made = made

    def _decode_object_ref(self, obj: Any) -> Model:
        name = obj["id"]
        model = None if name in self._references else self._known(name) or self._made.get(name)
        if model is None or type(model).__qualified_model__ != obj["name"]:
            return super()._decode_object_ref(obj)
        self._references[model.id] = model
        _set_all(model, {name: self._decode(value) for name, value in obj.get("attributes", {}).items()})
        return model


@contextmanager
def _misfits() -> Iterator[None]:
    """Whatever setting a property, or a damaged state, can raise."""
    try:
        yield
    except StateMismatch:
        raise
    except Exception as problem:
        raise StateMismatch(f"{type(problem).__name__}: {problem}") from problem


def _digest(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(sorted(lines)).encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True, slots=True)
class _Unpacked:
    """A snapshot or a patch: JSON text of the document's part, its buffers, and the app's values."""

    content: bytes
    buffers: dict[str, bytes]
    values: dict[str, bytes | None]
    held: bool


def _packed(content: bytes, buffers: list[Buffer], values: Mapping[str, bytes | None], *, held: bool) -> bytes:
    beside = [(buffer.id, bytes(buffer.data)) for buffer in buffers]
    packed: bytes = msgpack.packb([FORMAT, content, beside, values, held], unicode_errors="surrogatepass")
    return packed


def _unpacked(packed: bytes) -> _Unpacked:
    try:
        form, *parts = msgpack.unpackb(packed, use_list=False, unicode_errors="surrogatepass")
        if form != FORMAT:
            raise StateMismatch(f"of format {form}, and this is {FORMAT}")
        content, beside, values, held = parts
        return _Unpacked(bytes(content), dict(beside), dict(values), held)
    except StateMismatch:
        raise
    except Exception as problem:
        raise StateMismatch(f"damaged: {type(problem).__name__}") from problem


def _model_reps(part: Any) -> Iterator[dict[str, Any]]:
    """Every model in a document's JSON, wherever it is first mentioned."""
    waiting = [part]
    while waiting:
        value = waiting.pop()
        if type(value) is dict:
            if value.get("type") == "object" and "id" in value:
                yield value
            waiting.extend(inner for inner in value.values() if type(inner) in (dict, list))
        else:
            waiting.extend(inner for inner in value if type(inner) in (dict, list))


def _models_for(reps: dict[str, dict[str, Any]], document: Document, made: Mapping[str, Model]) -> dict[ID, Model]:
    """The models that are there, their types checked, those that the app's code has made, and new ones for the rest."""
    known: dict[ID, Model] = {model.id: model for model in document.models}
    known.update({model.id: model for model in document.config.references()})
    maker = ValueDecoder(known.get, {}, None)
    for model_id, rep in reps.items():
        existing = known.get(ID(model_id))
        if existing is None:
            mine = made.get(model_id)
            # By its name: what Bokeh finds by the name may be the class of another session of the app.
            if mine is None or type(mine).__qualified_model__ != rep["name"]:
                mine = _new_model(maker._resolve_type(rep["name"]), ID(model_id))
            known[ID(model_id)] = mine
        elif type(existing).__qualified_model__ != rep["name"]:
            raise StateMismatch(f"{model_id} was a {rep['name']}, and is a {type(existing).__qualified_model__}")
    return known


def _new_model(cls: type[Model], model_id: ID) -> Model:
    model = new_model(cls, model_id)
    if not model._initialized:
        HasProps.__init__(model)
    return model


def _decoded(decoder: ValueDecoder, rep: dict[str, Any]) -> dict[str, Any]:
    return {name: decoder.value(value) for name, value in rep.get("attributes", {}).items()}


def _set_all(model: Model, attributes: dict[str, Any]) -> None:
    for name in [name for name in model._property_values if name not in attributes]:
        # Not by the property's deleter: it would ask for the default to report, which not every property has.
        del model._property_values[name]
    # One that is in no document calls them at once, whether or not the document collects events.
    callbacks, model._callbacks = model._callbacks, {}
    try:
        for name, value in attributes.items():
            try:
                model.set_from_json(name, value)
            except ValueError:
                with validate(False):
                    model.set_from_json(name, _nearest(model, name, value))
    finally:
        model._callbacks = callbacks


def _apply(document: Document, event: dict[str, Any]) -> None:
    try:
        apply_event(document, dict(event), None)
    except ValueError:
        if event["kind"] == "ModelChanged":
            event["new"] = _nearest(event["model"], event["attr"], event["new"])
        elif event["kind"] != "ColumnDataChanged":
            raise
        with validate(False):
            apply_event(document, event, None)


def _nearest(model: Model, name: str, value: Any) -> Any:
    """What comes nearest to what the property held: JavaScript has neither large integers nor durations.

    If that is nothing that the property takes, it is the value itself, as viewers have it: a property that is not
    quite what it was is better than a session that is lost.
    """
    accepts = model.lookup(name).property.is_valid
    integers = _with_integers(value)
    if accepts(integers):
        return integers
    if isinstance(value, int | float) and accepts(duration := timedelta(milliseconds=value)):
        return duration
    return value


def _with_integers(value: Any) -> Any:
    """The value, with integers for all floats in it that only a large integer is written as."""
    match value:
        case float() if abs(value) > MAX_SAFE_INT and value.is_integer():
            return int(value)
        case list() | tuple() | set():
            return type(value)(map(_with_integers, value))
        case dict():
            return {_with_integers(key): _with_integers(item) for key, item in value.items()}
    return value
