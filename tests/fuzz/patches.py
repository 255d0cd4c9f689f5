"""Patches of browsers: decoded and applied by ours, and by Bokeh to a document that is the same."""

from __future__ import annotations

import re
import warnings
from typing import Any, TypeVar

import numpy as np
import orjson
from bokeh.core.property.descriptors import UnsetValueError
from bokeh.core.serialization import Serialized
from bokeh.core.types import ID
from bokeh.document import Document
from bokeh.model import Model
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
    [_change("Column", "children", [{"id": "Slider"}, _NEW, {"id": "Button"}, {"id": "RangeSlider"}])],
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


def document() -> Document:
    """Its models are called after their classes."""
    slider, interval = _named(Slider(start=0, end=10, value=1)), _named(RangeSlider(start=0, end=10, value=(1, 2)))
    column = _named(Column(children=[slider, interval, _named(Button())]))
    document = Document()
    with document.models.freeze():  # or all models are looked through for each root
        document.add_root(column)
        document.add_root(_named(ColumnDataSource(data={"x": [1, 2], "y": [3, 4]})))
    return document


M = TypeVar("M", bound=Model)

_NAMES = [ID(name) for name in ("Column", "Slider", "RangeSlider", "Button", "ColumnDataSource")]


def _named(model: M) -> M:
    model._id = ID(type(model).__name__)  # type: ignore[attr-defined]
    return model


def assert_same(ours: Document, stocks: Document) -> None:
    """The same models, with the same values: compared as they are kept, which takes a tenth of what JSON takes."""
    mine, theirs = _Content(ours), _Content(stocks)
    assert mine.shape == theirs.shape
    for one, other in zip(mine.models, theirs.models, strict=True):
        for name in {*_set_values(one), *_set_values(other)}:
            assert mine.plain(_value(one, name)) == theirs.plain(_value(other, name)), f"{one} and {other}: {name}"


class _Content:
    """What a document holds. Models that were given an id as they were made are called by their place instead.

    Args:
        document: of which all models are known.
    """

    def __init__(self, document: Document) -> None:
        self.models = sorted(document.models, key=_by_id)
        self._names = {
            model: f"new {place}" if _is_drawn(model) else model.id for place, model in enumerate(self.models)
        }
        roots = [self._names[root] for root in document.roots]
        self.shape = document.title, roots, [(type(model), self._names[model]) for model in self.models]

    def plain(self, value: Any) -> Any:
        """The value, of types that can be compared; NaN is itself."""
        if isinstance(value, Model):
            return ("model", self._names.get(value, "of no document"))
        if isinstance(value, np.ndarray):
            return ("array", str(value.dtype), value.shape, [self.plain(item) for item in value.ravel().tolist()])
        if isinstance(value, dict):
            return ("map", [(self.plain(key), self.plain(item)) for key, item in value.items()])
        if isinstance(value, list | tuple):
            return ("list", [self.plain(item) for item in value])
        return (type(value).__name__, repr(value))


_DRAWN = re.compile(r"p(?:[0-9a-f]+-)?(\d+)")
"""An id that was drawn as the model was made: Bokeh's, or ours once anything in this process has installed those."""


def _is_drawn(model: Model) -> bool:
    return _DRAWN.fullmatch(model.id) is not None


def _by_id(model: Model) -> tuple[str, int, str]:
    """By class, then in the order in which they were made."""
    drawn = _DRAWN.fullmatch(model.id)
    return (type(model).__name__, -1 if drawn is None else int(drawn[1]), model.id)


def _set_values(model: Model) -> dict[str, Any]:
    return {**model._unstable_default_values, **model._property_values}


def _value(model: Model, name: str) -> Any:
    """What it has under that name, or why it has none."""
    try:
        return getattr(model, name)
    except UnsetValueError as problem:  # a new model without a value that it needs
        return str(problem)


class _Twins:
    """Two documents that the same patches were applied to, one after the other, as in a session.

    Making them takes fifty times as long as a patch does, so they are used again, until they are worn.
    """

    MOST_PATCHES = 32
    """Or a fault would be far from the first patch that has to do with it."""

    def __init__(self) -> None:
        self._made: tuple[Document, Document] | None = None
        self._patches = 0

    def get(self) -> tuple[Document, Document]:
        """Ours, and Bokeh's."""
        if self._made is None:
            self._made, self._patches = (document(), document()), 0
        return self._made

    def drop(self) -> None:
        """They may differ now."""
        self._made = None

    def keep(self) -> None:
        """They were compared after a patch. Other models than those of the beginning no patch can name."""
        assert self._made is not None
        self._patches += 1
        if self._patches == self.MOST_PATCHES or any(self._made[0].models.get_by_id(name) is None for name in _NAMES):
            self.drop()


_TWINS = _Twins()


def _apply_ours(document: Document, events: list[dict[str, Any]]) -> bool:
    try:
        for event in events:
            apply_event(document, event, None)
    except Exception:  # whatever it is, the sender is answered with ERROR
        return False
    return True


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
    """What ours applies, Bokeh applies too, and the documents are the same.

    They were patched before, by inputs that came earlier: who looks into a fault draws those too, by the same seed.
    """
    try:
        content = {"events": orjson.loads(drawn)}
    except ValueError:
        return False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ours, stocks = _TWINS.get()
        events = _decoded(ours, content)
        if not events:
            return False
        if not _apply_ours(ours, events):
            _TWINS.drop()
            return False
        try:
            assert _apply_stocks(stocks, content), "accepted, and refused by Bokeh"
            assert_same(ours, stocks)
        except BaseException:
            _TWINS.drop()
            raise
        _TWINS.keep()
    return True


PATCHES = Target("patches", [orjson.dumps(events) for events in EVENTS], check, WORDS)
