"""Patches of browsers: decoded and applied by ours, and by Bokeh to a document that is the same."""

from __future__ import annotations

import json
import re
import warnings
from typing import Any

import orjson
from bokeh.core.property.descriptors import UnsetValueError
from bokeh.core.serialization import Serialized
from bokeh.core.types import ID
from bokeh.document import Document
from bokeh.models import Column, ColumnDataSource
from bokeh.models.widgets import Button, RangeSlider, Slider
from fuzz.target import Target

from aperture.document.applying import NamedModels, apply_event
from aperture.errors import ProtocolError, UnknownReference
from aperture.protocol.codec import decode_patch
from aperture.protocol.messages import Message


def _change(model: str, attr: str, new: Any) -> dict[str, Any]:
    return {"kind": "ModelChanged", "model": {"id": model}, "attr": attr, "new": new}


_NEW = {"type": "object", "name": "Slider", "id": "new", "attributes": {"start": 0, "end": 5, "value": 1}}
_FLOATS = {"type": "ndarray", "array": {"type": "bytes", "data": "AAAAAAAA8D8="}, "shape": [1], "dtype": "float64"}
_ON_SOURCE = {"model": {"id": "ColumnDataSource"}, "attr": "data"}

EVENTS: list[list[dict[str, Any]]] = [
    [_change("Slider", "value", 3)],
    [_change("RangeSlider", "value", [2, 3]), _change("Slider", "title", "x")],
    [_change("Column", "children", [{"id": "Slider"}, _NEW])],
    [
        _change(
            "ColumnDataSource", "data", {"type": "map", "entries": [["x", {**_FLOATS, "order": "little"}], ["y", [1]]]}
        )
    ],
    [{"kind": "ColumnsStreamed", **_ON_SOURCE, "data": {"x": [5], "y": [6]}, "rollover": 2}],
    [{"kind": "ColumnsPatched", **_ON_SOURCE, "patches": {"x": [[0, 9]]}}],
    [{"kind": "ColumnDataChanged", **_ON_SOURCE, "data": {"x": [1], "y": [2]}, "cols": None}],
    [{"kind": "TitleChanged", "title": "t"}, {"kind": "RootRemoved", "model": {"id": "ColumnDataSource"}}],
    [{"kind": "RootAdded", "model": _NEW}],
    [_change("Slider", "tags", [{"type": "set", "entries": [1]}, {"type": "slice", "start": 1, "stop": 2}])],
    [_change("Slider", "tags", [{"type": "number", "value": "nan"}, {"type": "symbol", "name": "x"}, None, 1.5])],
]

WORDS = [
    b'{"id":"Slider"}', b'{"id":"new"}', b'{"type":"number","value":"-inf"}', b"null", b"true", b"-1", b"1e400", b"[]",
    b"{}", b'"kind":"RootAdded",', b'"type":"map","entries":[', b'"attr":"name"', b'"attr":"id"', b'"rollover":-1',
    b'"cols":["x"]', b'"start":null', b'"x":[[{"type":"slice","start":0,"stop":1,"step":1},[1]]]', b'"dtype":"int8"',
    b'"shape":[0]', b'"order":"big"', b'"compression":"gzip"', b'"type":"ref"', b'"type":"set"', b'"__class__"',
]  # fmt: skip


def _document() -> Document:
    """Its models are called after their classes."""
    slider, interval = Slider(start=0, end=10, value=1), RangeSlider(start=0, end=10, value=(1, 2))
    roots = Column(children=[slider, interval, Button()]), ColumnDataSource(data={"x": [1, 2], "y": [3, 4]})
    document = Document()
    for root in roots:
        for model in root.references():
            model._id = ID(type(model).__name__)  # type: ignore[attr-defined]
        document.add_root(root)
    return document


def _content(document: Document) -> str:
    """As JSON, without the ids that models were given as they were made; or why it is none."""
    try:
        content = {**document.to_json(deferred=False), "config": {}}
    except UnsetValueError as problem:  # a new model without a value that it needs
        return str(problem)
    return re.sub(r'"p\d+"', '"p"', json.dumps(content, sort_keys=True, default=repr))


def _apply_ours(document: Document, content: Any) -> bool:
    events = _decoded(document, content)
    try:
        for event in events:
            apply_event(document, event, None)
    except Exception:  # whatever it is, the sender is answered with ERROR
        return False
    return bool(events)


def _decoded(document: Document, content: Any) -> list[dict[str, Any]]:
    message = Message("1", "PATCH-DOC", None, content, {})
    try:
        events = decode_patch(message, find=NamedModels(document).find, seen=document.models.seen, setter=None)
    except (ProtocolError, UnknownReference, ValueError):
        return []
    return events or []


def _apply_stocks(document: Document, content: Any) -> bool:
    try:
        document.apply_json_patch(Serialized(content, []))
    except Exception:
        return False
    return True


def check(drawn: bytes) -> bool:
    """What ours applies, Bokeh applies too, and the documents are the same."""
    try:
        content = {"events": orjson.loads(drawn)}
    except ValueError:
        return False
    ours, stocks = _document(), _document()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if not _apply_ours(ours, content):
            return False
        assert _apply_stocks(stocks, content), "accepted, and refused by Bokeh"
        assert _content(ours) == _content(stocks)
    return True


PATCHES = Target("patches", [orjson.dumps(events) for events in EVENTS], check, WORDS)
