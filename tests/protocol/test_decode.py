"""Decoding: events ready to be applied, models looked up and not scanned, and a hostile peer gets only an error."""

from __future__ import annotations

import base64
import gzip
import json
from typing import Any, cast

import numpy as np
import pytest
from bokeh.core.serialization import Buffer as BokehBuffer
from bokeh.core.serialization import DeserializationError, Deserializer, Serialized
from bokeh.core.types import ID
from bokeh.document import Document
from bokeh.document.events import DocumentPatchedEvent, ModelChangedEvent
from bokeh.events import ButtonClick
from bokeh.model import Model
from bokeh.models import Column, ColumnDataSource, LinearScale, Plot
from bokeh.models.widgets import Button, DataTable, Div, RangeSlider, Slider, TableColumn
from bokeh.plotting import figure
from bokeh.protocol import Protocol
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.events import Viewers

from aperture.errors import ProtocolError, UnknownReference
from aperture.protocol.allowance import (
    MAX_DEPTH,
    MAX_PROPERTIES,
    PROPERTY_BYTES,
    UNLIMITED,
    USUAL_MESSAGE_SIZE,
    Allowance,
)
from aperture.protocol.codec import decode_document, decode_patch, encode_document, join_events
from aperture.protocol.messages import Message
from aperture.protocol.weights import weight_of


class Session:
    """A document that patches are applied to."""

    def __init__(self) -> None:
        self.slider = Slider(start=0, end=10, value=1)
        self.interval = RangeSlider(start=0, end=10, value=(1, 2))
        self.source = ColumnDataSource(data={"x": [1, 2], "y": [3, 4]})
        self.button = Button()
        self.parent = Column(children=[self.slider, self.interval, self.button])
        for name in ("slider", "interval", "source", "button", "parent"):
            getattr(self, name)._id = name
        self.doc = Document()
        self.doc.add_root(self.parent)
        self.doc.add_root(self.source)
        self.looked_up: list[str] = []
        self.created: list[Model] = []
        self.allowance = UNLIMITED

    def find(self, model_id: str) -> Model | None:
        self.looked_up.append(model_id)
        return self.doc.models.get_by_id(model_id)  # type: ignore[arg-type]

    def decode(
        self, content: Any, buffers: dict[str, bytes] | None = None, *, size: int = 0
    ) -> list[dict[str, Any]] | None:
        message = Message("1", "PATCH-DOC", None, content, buffers or {}, size=size)
        return decode_patch(
            message,
            find=self.find,
            seen=self.doc.models.seen,
            setter=None,
            created=self.created.append,
            allowance=self.allowance,
        )

    def apply(self, *events: Any, buffers: dict[str, bytes] | None = None) -> None:
        for event in self.decode({"events": list(events)}, buffers) or ():
            DocumentPatchedEvent.handle_event(self.doc, event, None)  # type: ignore[arg-type]


def pushing(content: Any, buffers: dict[str, bytes] | None = None) -> Message:
    return Message("1", "PUSH-DOC", None, content, buffers or {})


@pytest.fixture
def session() -> Session:
    return Session()


def change(model: str, attr: str, new: Any) -> dict[str, Any]:
    return {"kind": "ModelChanged", "model": {"id": model}, "attr": attr, "new": new}


def test_a_scalar_is_set_by_one_lookup(session: Session) -> None:
    """A slider's value costs one question to the document."""
    session.apply(change("slider", "value", 7))
    assert session.slider.value == 7
    assert session.looked_up == ["slider"]


@pytest.mark.parametrize(
    ("event", "check"),
    [
        (change("interval", "value", [3, 4]), lambda it: it.interval.value == (3, 4)),
        (change("slider", "tags", [{"type": "number", "value": "nan"}]), lambda it: np.isnan(it.slider.tags[0])),
        (change("slider", "tags", [{"type": "map", "entries": [["a", 1]]}]), lambda it: it.slider.tags == [{"a": 1}]),
        (change("slider", "title", None), lambda it: it.slider.title is None),
        (change("slider", "tags", [{"id": "source"}]), lambda it: it.slider.tags == [it.source]),
        ({"kind": "TitleChanged", "title": "new"}, lambda it: it.doc.title == "new"),
        ({"kind": "RootRemoved", "model": {"id": "source"}}, lambda it: it.doc.roots == [it.parent]),
        ({"kind": "RootAdded", "model": {"type": "object", "name": "Div", "id": "new"}},
         lambda it: it.doc.roots[-1].id == "new"),
        (
            {"kind": "ColumnsStreamed", "model": {"id": "source"}, "attr": "data", "rollover": 2,
             "data": {"type": "map", "entries": [["x", [5]], ["y", [6]]]}},
            lambda it: it.source.data == {"x": [2, 5], "y": [4, 6]},
        ),
        (
            {"kind": "ColumnsPatched", "model": {"id": "source"}, "attr": "data",
             "patches": {"type": "map", "entries": [["x", [[0, 9]]]]}},
            lambda it: it.source.data["x"] == [9, 2],
        ),
        (
            {"kind": "ColumnDataChanged", "model": {"id": "source"}, "attr": "data", "cols": None,
             "data": {"type": "map", "entries": [["x", [5]]]}},
            lambda it: it.source.data == {"x": [5]},
        ),
    ],
    ids=lambda found: found.get("kind") if isinstance(found, dict) else "",
)  # fmt: skip
def test_every_kind_of_event_applies(session: Session, event: dict[str, Any], check: Any) -> None:
    """What BokehJS sends changes the document as Bokeh's own decoding would."""
    session.apply(event)
    assert check(session)


def test_messages_become_bokeh_events(session: Session) -> None:
    """A click arrives as the event object that callbacks expect."""
    heard: list[Any] = []
    session.doc.on_message("bokeh_event", heard.append)
    values = {"type": "map", "entries": [["model", {"id": "button"}]]}
    event = {"type": "event", "name": "button_click", "values": values}
    session.apply({"kind": "MessageSent", "msg_type": "bokeh_event", "msg_data": event})
    assert isinstance(heard[0], ButtonClick)
    assert heard[0].model is session.button


def array_rep(data: Any, dtype: str = "float64", shape: Any = (2,), order: str = "little") -> dict[str, Any]:
    return {"type": "ndarray", "array": {"type": "bytes", "data": data}, "shape": shape, "dtype": dtype, "order": order}


@pytest.mark.parametrize("order", ["little", "big"])
@pytest.mark.parametrize("inline", [False, True])
def test_arrays_arrive_beside_or_inside_the_content(session: Session, inline: bool, order: str) -> None:
    """Buffers by id and base64 of gzip are both read, in either byte order, and the array can be written to."""
    raw = np.array([1.5, 2.5], dtype="<f8" if order == "little" else ">f8").tobytes()
    data = base64.b64encode(gzip.compress(raw)).decode() if inline else {"id": "0"}
    columns = {"type": "map", "entries": [["x", array_rep(data, order=order)]]}
    session.apply(change("source", "data", columns), buffers={"0": raw})
    np.testing.assert_array_equal(session.source.data["x"], [1.5, 2.5])
    assert np.asarray(session.source.data["x"]).flags.writeable


def test_new_models_are_made_and_reported(session: Session) -> None:
    """An unknown model is instantiated with its attributes, and its children are too."""
    inner = {"type": "object", "name": "Div", "id": "inner", "attributes": {"text": "hi"}}
    outer = {"type": "object", "name": "Column", "id": "outer", "attributes": {"children": [inner, {"id": "slider"}]}}
    session.apply(change("parent", "children", [outer, {"id": "inner"}]))
    made = session.parent.children[0]
    assert isinstance(made, Column)
    assert made.children == [session.parent.children[1], session.slider]
    assert [model.id for model in session.created] == ["inner", "outer"]


def test_a_known_model_in_full_is_recognised_and_skipped(session: Session) -> None:
    """After a re-pull BokehJS sends the document back: nothing in it is decoded, warned about, or changed."""
    full = {
        "type": "object",
        "name": "Slider",
        "id": "slider",
        "attributes": {"value": 5, "tags": [{"id": "never seen"}]},
    }
    graph = {"type": "object", "name": "Column", "id": "parent", "attributes": {"children": [full]}}
    session.apply({"kind": "RootAdded", "model": graph})
    assert session.slider.value == 1
    assert session.looked_up == ["parent"]
    assert session.created == []


def test_a_patch_that_crossed_a_removal_is_dropped_whole(session: Session) -> None:
    """A model that was once here makes the patch void, and what it would have created is forgotten."""
    session.parent.children = [session.interval]
    new = {"type": "object", "name": "Div", "id": "new"}
    assert session.decode({"events": [change("interval", "tags", [new]), change("slider", "value", 5)]}) is None
    assert session.created == []


@pytest.mark.parametrize("new", [5, [{"id": "absent"}]])
def test_a_model_that_never_was_is_an_unknown_reference(session: Session, new: Any) -> None:
    """Named as the target or in a value, it is the peer's mistake."""
    model = "absent" if new == 5 else "slider"
    with pytest.raises(UnknownReference, match="absent"):
        session.decode({"events": [change(model, "tags", new)]})


@pytest.mark.parametrize(
    "content", [None, [], {}, 5, {"events": None}, {"events": {}}, {"events": [5]}, {"events": [[]]}]
)
def test_content_that_is_no_patch_is_a_protocol_error(session: Session, content: Any) -> None:
    """Without a list of events there is nothing to answer."""
    with pytest.raises(ProtocolError):
        session.decode(content)


def deep(depth: int) -> Any:
    nested: Any = []
    for _ in range(depth):
        nested = [nested]
    return nested


@pytest.mark.parametrize(
    "event",
    [
        {},
        {"kind": None},
        {"kind": "Nonsense"},
        {"kind": ["ModelChanged"]},
        {"kind": "ModelChanged"},
        {**change("slider", "value", 5), "document": 1},
        {**change("slider", "value", 5), "setter": 1},
        {**change("slider", "value", 5), "callback_invoker": 1},
        {**change("slider", "value", 5), "model": None},
        {**change("slider", "value", 5), "model": "slider"},
        {**change("slider", "value", 5), "model": {"id": 5}},
        {**change("slider", "value", 5), "model": {"id": ["slider"]}},
        {**change("slider", "value", 5), "model": {"type": "ref"}},
        {**change("slider", "value", 5), "attr": 5},
        {**change("slider", "value", 5), "attr": {"id": "slider"}},
        {"kind": "TitleChanged", "title": None},
        {"kind": "MessageSent", "msg_type": 5, "msg_data": 1},
        {"kind": "MessageSent", "msg_type": "bokeh_event", "msg_data": {"type": "event"}},
        {"kind": "MessageSent", "msg_type": "bokeh_event", "msg_data": {"type": "event", "name": "pan", "values": 5}},
        {"kind": "RootAdded", "model": {"type": "object", "name": "NoSuchModel", "id": "x"}},
        {"kind": "RootAdded", "model": {"type": "object", "name": "Slider", "id": 5}},
        {"kind": "RootAdded", "model": {"type": "object", "name": "Slider"}},
        {"kind": "RootAdded", "model": {"type": "object", "name": "Slider", "id": "x", "attributes": {"value": "no"}}},
        {"kind": "RootAdded", "model": {"type": "object", "name": "Slider", "id": "x", "attributes": 5}},
        {"kind": "RootAdded", "model": {"type": "object", "name": ["Slider"], "id": "x"}},
        change("slider", "tags", {"type": "nonsense"}),
        change("slider", "tags", {"type": ["list"]}),
        change("slider", "tags", {"type": "symbol", "name": "x"}),
        change("slider", "tags", {"type": "number"}),
        change("slider", "tags", {"type": "number", "value": "x"}),
        change("slider", "tags", {"type": "map", "entries": [[]]}),
        change("slider", "tags", {"type": "map", "entries": [[[], 1]]}),
        change("slider", "tags", {"type": "set", "entries": [[]]}),
        change("slider", "tags", {"type": "slice"}),
        change("slider", "tags", {"type": "bytes"}),
        change("slider", "tags", {"type": "bytes", "data": {"id": "missing"}}),
        change("slider", "tags", {"type": "bytes", "data": {"id": []}}),
        change("slider", "tags", {"type": "bytes", "data": "not base64 of gzip"}),
        change("slider", "tags", {"type": "bytes", "data": base64.b64encode(gzip.compress(b"x" * 99)[:-9]).decode()}),
        change("slider", "tags", array_rep({"id": "0"}, dtype="object")),
        change("slider", "tags", array_rep({"id": "0"}, dtype="V999999999")),
        change("slider", "tags", array_rep({"id": "0"}, dtype=cast("Any", ["float64"]))),
        change("slider", "tags", array_rep({"id": "0"}, shape=[3, 7])),
        change("slider", "tags", array_rep({"id": "0"}, shape=5)),
        change("slider", "tags", {"type": "typed_array", "array": [1], "order": "little", "dtype": "uint64"}),
        change("slider", "tags", deep(2000)),
    ],
)
def test_a_malformed_event_is_a_value_error(session: Session, event: Any) -> None:
    """The session goes on; the peer gets an error reply with the reason. Nothing but a ValueError comes out."""
    with pytest.raises(ValueError):
        session.decode({"events": [change("interval", "value", [1, 2]), event]}, {"0": b"\0" * 16})
    assert session.created == []


def inflating(size: int) -> dict[str, Any]:
    return {"type": "bytes", "data": base64.b64encode(gzip.compress(b"\0" * size)).decode()}


def copying(buffer: str) -> dict[str, Any]:
    data = {"type": "bytes", "data": {"id": buffer}}
    return {"type": "ndarray", "array": data, "shape": [1000], "dtype": "uint8", "order": "little"}


def naming(buffer: str) -> dict[str, Any]:
    return {"type": "bytes", "data": {"id": buffer}}


def typed(buffer: str) -> dict[str, Any]:
    data = {"type": "bytes", "data": {"id": buffer}}
    return {"type": "typed_array", "array": data, "dtype": "uint8", "order": "little"}


@pytest.mark.parametrize(
    ("values", "budget"),
    [
        ([inflating(1000) for _ in range(6)], 6_000),
        ([naming("0") for _ in range(6)], 6_000),
        ([copying("0") for _ in range(6)], 12_000),
        ([typed("0") for _ in range(6)], 12_000),
        (
            [{"type": "object", "name": "Plot", "id": f"p{number}"} for number in range(6)],
            6 * PROPERTY_BYTES * weight_of(Plot),
        ),
        ([[] for _ in range(1000)], 200_000),
        ([{"type": "map", "entries": [[1, 1]] * 100} for _ in range(10)], 48_000),
    ],
    ids=["inflated", "named", "copied", "typed", "models", "lists", "maps"],
)
def test_one_bound_holds_for_all_that_a_message_allocates(session: Session, values: list[Any], budget: int) -> None:
    """However it is spread over the message; a peer that goes beyond is not refused an answer but closed."""
    content = {"events": [change("slider", "tags", [value]) for value in values]}
    session.allowance = Allowance(2 * budget)
    assert session.decode(content, {"0": b"\0" * 1000})
    session.allowance = Allowance(budget - 1)
    with pytest.raises(ProtocolError) as refusal:
        session.decode(content, {"0": b"\0" * 1000})
    assert refusal.value.close_code == 1009


def new_models(name: str, count: int, first: int = 0) -> dict[str, Any]:
    new = [{"type": "object", "name": name, "id": f"{name}{number}"} for number in range(first, first + count)]
    return {"events": [change("slider", "tags", new)]}


@pytest.mark.parametrize("cls", [LinearScale, ColumnDataSource, Plot])
def test_a_new_model_counts_by_what_it_is_to_make(session: Session, cls: type[Model]) -> None:
    """One of a few properties little, a plot and the models of its defaults much; and a peer beyond it is closed."""
    name = cls.__qualified_model__
    session.allowance = Allowance(10**9, properties=8 * weight_of(cls), clock=lambda: 0.0)
    assert session.decode(new_models(name, 8))
    with pytest.raises(ProtocolError) as refusal:
        session.decode(new_models(name, 1, first=8))
    assert refusal.value.close_code == 1009


def test_work_on_models_is_bounded_over_all_messages_of_a_time(session: Session) -> None:
    """What is used up comes back in ten seconds."""
    now = [0.0]
    session.allowance = Allowance(10**9, properties=8 * weight_of(Div), clock=lambda: now[0])
    assert session.decode(new_models("Div", 8))
    now[0] = 5.0
    assert session.decode(new_models("Div", 4, first=8))
    with pytest.raises(ProtocolError):
        session.decode(new_models("Div", 1, first=12))
    now[0] = 20.0
    assert session.decode(new_models("Div", 8, first=20))


def test_a_message_makes_no_more_than_some_hundred_plots_of_names() -> None:
    """Each is forty-five bytes, and 3 ms of the event loop."""
    assert MAX_PROPERTIES // weight_of(figure) < 1500
    assert weight_of(figure) > 5 * weight_of(LinearScale)


def plot() -> Model:
    shown = figure(title="a plot")
    shown.line([1, 2, 3], [1, 2, 3])
    shown.scatter([1, 2, 3], [1, 2, 3])
    return shown


def test_documents_of_thousands_of_models_and_tables_of_hundreds_of_columns_have_room() -> None:
    """As a program pushes them, in one message."""
    shown = plot().references()
    document = (5000 // len(shown)) * sum(weight_of(type(model)) for model in shown)
    assert document <= MAX_PROPERTIES
    table = DataTable(columns=[TableColumn(field=str(number)) for number in range(200)])
    assert sum(weight_of(type(model)) for model in table.references()) < MAX_PROPERTIES / 4


def test_a_bound_in_a_time_holds_for_all_messages_of_a_connection(session: Session) -> None:
    """What is used up comes back in a minute."""
    now = [0.0]
    session.allowance = Allowance(10_000, clock=lambda: now[0])
    content = {"events": [change("slider", "tags", [inflating(6_000)])]}
    assert session.decode(content)
    with pytest.raises(ProtocolError):
        session.decode(content)
    now[0] = 60.0
    assert session.decode(content)


def test_what_is_in_proportion_to_what_was_sent_is_free(session: Session) -> None:
    """A peer may send large lists and arrays all day."""
    session.allowance = Allowance(0, clock=lambda: 0.0)
    pairs = [[1.5, 2.5]] * 10_000
    content = {"events": [change("slider", "tags", pairs)]}
    for _ in range(100):
        assert session.decode(content, size=len(json.dumps(content, separators=(",", ":"))))
        assert session.decode({"events": [change("slider", "tags", [copying("0")])]}, {"0": b"\0" * 1000}, size=1200)


def nested(kind: str, depth: int) -> Any:
    value: Any = 1
    for level in range(depth):
        match kind:
            case "list":
                value = [value]
            case "map":
                value = {"type": "map", "entries": [["a", value]]}
            case "slice":
                value = {"type": "slice", "start": value, "stop": None, "step": None}
            case _:
                attributes = {"attributes": {"tags": [value]}}
                value = {"type": "object", "name": "Div", "id": f"d{level}", **attributes}
    return value


@pytest.mark.parametrize(("kind", "levels"), [("list", 1), ("map", 1), ("slice", 1), ("model", 2)])
def test_what_nests_as_deep_as_is_allowed_can_be_encoded(session: Session, kind: str, levels: int) -> None:
    """And what nests deeper is refused where it comes in: it could be neither pulled nor stored."""
    deepest = (MAX_DEPTH - 1) // levels
    session.allowance = Allowance.for_messages_of(USUAL_MESSAGE_SIZE)
    with pytest.raises(DeserializationError, match="nested too deeply"):
        session.decode({"events": [change("slider", "tags", [nested(kind, deepest + 1)])]})
    session.apply(change("slider", "tags", [nested(kind, deepest)]))
    text, _ = encode_document(session.doc, inline=False)
    assert json.loads(text)["doc"]["roots"]


_reps = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["slider", "Slider", "0", "x", ""]),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(
                ["type", "id", "kind", "model", "attr", "new", "data", "name", "attributes", "entries", "value",
                 "array", "dtype"]
            ),
            inner | st.sampled_from(
                ["ref", "number", "array", "set", "map", "bytes", "slice", "typed_array", "ndarray", "object", "event",
                 "value",
                 "field", "expr", "symbol", "ModelChanged", "float64"]
            ),
            max_size=5,
        ),
    ),
    max_leaves=20,
)  # fmt: skip


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(_reps)
@pytest.mark.filterwarnings("ignore")
def test_nothing_else_ever_escapes(rep: Any) -> None:
    """Arbitrary content is decoded, or refused with one of three kinds of error."""
    session = Session()
    for content in (rep, {"events": rep}, {"events": [rep]}, {"events": [change("slider", "tags", rep)]}):
        try:
            session.decode(content, {"0": b"\0" * 16})
        except (ProtocolError, UnknownReference, ValueError):
            pass
        try:
            decode_document(pushing({"doc": {"roots": [rep], "title": "", "config": rep}}))
        except (ProtocolError, ValueError):
            pass


@settings(deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-100, 100) | st.floats() | st.text(max_size=3) | st.binary(max_size=3),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
        max_leaves=8,
    )
)
def test_values_decode_as_bokeh_decodes_them(value: Any) -> None:
    """The same content gives the same value through Bokeh's decoder and through ours."""
    session = Session()
    event = ModelChangedEvent(session.doc, session.slider, "tags", [value])
    text, buffers = join_events([Viewers(session.doc.models).encode(event)])
    content = json.loads(text)
    beside = [BokehBuffer(ID(buffer.id), bytes(buffer.data)) for buffer in buffers]
    stock = Deserializer(list(session.doc.models)).deserialize(Serialized(content, beside))["events"]
    assert repr(session.decode(content, {buffer.id: bytes(buffer.data) for buffer in buffers})) == repr(stock)


def test_a_pushed_document_replaces_another(session: Session) -> None:
    """What Bokeh's client pushes becomes the document, arrays and all."""
    source = Document(title="pushed")
    source.add_root(ColumnDataSource(data={"x": np.arange(3.0)}))
    source.add_root(Column(children=[Div(text="d")]))
    created = Protocol().create("PUSH-DOC", source)
    content = json.loads(created.content_json)
    buffers = {buffer.id: buffer.to_bytes() for buffer in created.buffers}
    session.doc.replace_with_json(decode_document(pushing(content, buffers)))  # type: ignore[arg-type]
    assert session.doc.title == "pushed"
    assert {model.id for model in session.doc.models} == {model.id for model in source.models}
    replaced: Any = session.doc.roots[0]
    np.testing.assert_array_equal(replaced.data["x"], np.arange(3.0))


@pytest.mark.parametrize(
    "content",
    [
        None,
        {},
        {"doc": None},
        {"doc": {}},
        {"doc": {"roots": [], "title": "t"}},
        {"doc": {"roots": [], "title": 5, "config": {"type": "object", "name": "DocumentConfig", "id": "c"}}},
        {"doc": {"roots": [5], "title": "", "config": {"type": "object", "name": "DocumentConfig", "id": "c"}}},
        {"doc": {"roots": {"a": 1}, "title": "", "config": {"type": "object", "name": "DocumentConfig", "id": "c"}}},
        {"doc": {"roots": [], "title": "", "config": {"type": "object", "name": "Slider", "id": "c"}}},
    ],
)
def test_content_that_is_no_document_is_a_protocol_error(content: Any) -> None:
    """A push without what a document needs is refused before anything is replaced."""
    with pytest.raises(ProtocolError):
        decode_document(pushing(content))


def test_a_pushed_document_that_refers_to_nothing_is_refused() -> None:
    """A dangling reference is a value that cannot be decoded."""
    with pytest.raises(ValueError, match="absent"):
        decode_document(pushing({"doc": {"roots": [{"id": "absent"}], "title": "", "config": None}}))
