"""What we send means what Bokeh would have sent: compared value by value with Bokeh's own serializer."""

from __future__ import annotations

import json
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest
from bokeh.core.has_props import is_abstract
from bokeh.core.serialization import Buffer as BokehBuffer
from bokeh.core.serialization import Deserializer, Serialized
from bokeh.core.types import ID
from bokeh.document import Document
from bokeh.document.events import (
    ColumnDataChangedEvent,
    ColumnsPatchedEvent,
    ColumnsStreamedEvent,
    DocumentPatchedEvent,
    MessageSentEvent,
    ModelChangedEvent,
    RootAddedEvent,
    RootRemovedEvent,
    TitleChangedEvent,
)
from bokeh.events import ButtonClick, DocumentReady, Pan, SelectionGeometry
from bokeh.model import Model
from bokeh.models import Column, CustomJS, Range1d
from bokeh.models.widgets import Button, Div, Slider
from bokeh.plotting import figure
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.events import Viewers, resolved, stock_document, stock_events
from support.values import BUTTON, DOC, KNOWN, PARENT, SOURCE, columns, leaves, numbers, patches, values

from aperture.protocol.codec import encode_document, join_events

pytestmark = [
    pytest.mark.filterwarnings("ignore:out of range integer"),
    pytest.mark.filterwarnings("ignore:.*:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*:UserWarning"),
]


def outcome(encode: Any) -> Any:
    """The encoding, or the kind of error it ended in."""
    try:
        return encode()
    except Exception as problem:
        return type(problem).__name__


def assert_same(*events: DocumentPatchedEvent) -> None:
    """Ours equals Bokeh's, whether it is an encoding or an error."""
    ours = outcome(lambda: Viewers(DOC.models).content(*events))
    stock = outcome(lambda: stock_events(DOC.models, *events))
    assert typed(ours) == typed(stock)


def typed(value: Any) -> Any:
    """A form in which True and 1 differ, as they do in JSON; 1 and 1.0 are the same number there."""
    if isinstance(value, list):
        return [typed(item) for item in value]
    if isinstance(value, dict):
        return {key: typed(item) for key, item in value.items()}
    return ("bool", value) if isinstance(value, bool) else value


SLOW = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


@SLOW
@given(values())
def test_any_value_of_a_changed_attribute(value: Any) -> None:
    """ModelChanged, with whatever value."""
    assert_same(ModelChangedEvent(DOC, KNOWN, "tags", value))


@SLOW
@given(st.lists(leaves(), max_size=6))
def test_any_list_of_values(items: list[Any]) -> None:
    """Lists are where the shortcuts are, so mixtures in them get a test of their own."""
    assert_same(ModelChangedEvent(DOC, KNOWN, "tags", items))


@SLOW
@given(
    st.lists(st.floats() | st.integers(), max_size=6)
    | st.lists(numbers() | st.none() | st.sampled_from([np.float64(1), np.array([1.0]), pd.NaT]), max_size=6)
)
def test_any_list_of_numbers(items: list[Any]) -> None:
    """Numbers of every size and kind side by side."""
    assert_same(ModelChangedEvent(DOC, KNOWN, "tags", items))


@SLOW
@given(columns(), st.none() | st.integers(0, 100))
def test_any_stream(data: dict[str, Any], rollover: int | None) -> None:
    """ColumnsStreamed, with any columns."""
    assert_same(ColumnsStreamedEvent(DOC, SOURCE, "data", data, rollover))


@SLOW
@given(patches())
def test_any_column_patch(changes: dict[str, Any]) -> None:
    """ColumnsPatched, at indices, slices and inside nested columns."""
    assert_same(ColumnsPatchedEvent(DOC, SOURCE, "data", changes))


@SLOW
@given(columns(), st.none() | st.lists(st.text(max_size=3), max_size=3))
def test_any_column_data(data: dict[str, Any], cols: list[str] | None) -> None:
    """ColumnDataChanged, whole or for some of the columns."""
    assert_same(ColumnDataChangedEvent(DOC, SOURCE, "data", data, cols))


def test_the_data_of_a_source_itself() -> None:
    """ColumnDataChanged without data takes what the source holds, in its own container."""
    assert_same(ColumnDataChangedEvent(DOC, SOURCE, "data"), ColumnDataChangedEvent(DOC, SOURCE, "data", None, ["y"]))


@SLOW
@given(values(), st.text())
def test_any_message(content: Any, kind: str) -> None:
    """MessageSent, with any content."""
    assert_same(MessageSentEvent(DOC, kind, content))


@pytest.mark.parametrize(
    "event",
    [
        DocumentReady(),
        ButtonClick(BUTTON),
        Pan(None, delta_x=float("nan")),
        SelectionGeometry(None, cast("Any", {"type": "point"}), True),
    ],
    ids=lambda event: type(event).__name__,
)
def test_user_interface_events(event: Any) -> None:
    """Events that Python sends to the browser."""
    assert_same(MessageSentEvent(DOC, "bokeh_event", event))


def test_title_and_root_events() -> None:
    """The kinds without a value of their own."""
    assert_same(TitleChangedEvent(DOC, "a \ud800 b"))
    assert_same(RootAddedEvent(DOC, Div(text="new")), RootRemovedEvent(DOC, PARENT), RootAddedEvent(DOC, PARENT))


def test_a_new_model_is_full_once_in_a_batch() -> None:
    """The second event of a batch refers to what the first introduced, as Bokeh's one serializer does."""
    new = Div(text="new")
    assert_same(ModelChangedEvent(DOC, PARENT, "children", [KNOWN, new]), ModelChangedEvent(DOC, KNOWN, "tags", [new]))


def test_new_models_that_refer_to_each_other() -> None:
    """A cycle of new models ends, at the same place as Bokeh's."""
    one, two = Slider(name="one"), Slider(name="two")
    one.tags = [two]
    two.tags = [one, KNOWN]
    assert_same(ModelChangedEvent(DOC, PARENT, "children", [one, two]))


def test_a_list_that_holds_itself_fails_the_same_way() -> None:
    """Neither encodes what has no end."""
    endless: list[Any] = [1]
    endless.append(endless)
    assert_same(ModelChangedEvent(DOC, KNOWN, "tags", endless))


@SLOW
@given(columns())
def test_bokeh_decodes_it_to_the_same_values(data: dict[str, Any]) -> None:
    """Through Bokeh's own deserializer, with our buffers beside the content, streams arrive as they were."""
    event = ColumnsStreamedEvent(DOC, SOURCE, "data", data, 5)
    viewers = Viewers(DOC.models)
    ours = outcome(lambda: join_events([viewers.encode(event)]))
    if isinstance(ours, str):
        return
    content, buffers = ours
    serialized = Serialized(json.loads(content), [BokehBuffer(ID(buffer.id), bytes(buffer.data)) for buffer in buffers])
    [got] = Deserializer(list(DOC.models)).deserialize(serialized)["events"]
    assert got["model"] is SOURCE
    for name, column in data.items():
        if (
            isinstance(column, np.ndarray) and column.ndim and column.dtype.isnative and column.dtype.name in BINARY
        ) or (isinstance(column, list) and all(type(item) is float for item in column)):
            np.testing.assert_array_equal(got["data"][name], column)


CONCRETE = sorted(
    (
        cls
        for cls in Model.model_class_reverse_map.values()
        if cls.__module__.startswith("bokeh.") and not is_abstract(cls)
    ),
    key=lambda cls: cls.__qualified_model__,
)


@pytest.mark.parametrize("cls", CONCRETE, ids=lambda cls: cls.__qualified_model__)
def test_every_model_of_bokeh(cls: type[Model]) -> None:
    """A fresh instance of each class, also after Bokeh has looked at all its defaults, and after each was set."""
    for model in (cls(), with_every_value_set(cls)):
        for _ in range(2):
            ours = outcome(lambda model=model: Viewers().content(RootAddedEvent(DOC, model)))
            stock = outcome(lambda model=model: stock_events([], RootAddedEvent(DOC, model)))
            assert typed(ours) == typed(stock)


def with_every_value_set(cls: type[Model]) -> Model:
    """An instance whose properties hold their defaults as if the app had set them."""
    model = cls()
    for name in sorted(cls.properties()):
        try:
            setattr(model, name, getattr(model, name))
        except Exception:  # Read-only, without a value, or not to be set: those are in the other instance.
            continue
    return model


BINARY = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64")


def a_document() -> Document:
    doc = Document(title="a title")
    plot: Any = figure(x_range=cast("Any", (0, 1)), tooltips="@x", title="t")
    plot.line([1, 2, float("nan")], np.arange(3))
    plot.multi_line([[1, 2], [3.5, 4]], [[1, 2], [3, 4]], color=["red", "blue"])
    plot.circle(np.arange(9).reshape(3, 3)[:, 1], [1, 2, 3], radius=0.5)
    plot.x_range.js_on_change("start", CustomJS(args={"plot": plot}, code="1"))
    button = Button(label="b")
    button.on_click(print)
    doc.add_root(Column(children=[plot, Slider(start=0, end=1, value=0.5), button]))
    doc.add_root(Range1d(start=0, end=5))
    doc.js_on_event("document_ready", CustomJS(code="2"))
    return doc


@pytest.mark.parametrize("theme", [None, "dark_minimal"])
@pytest.mark.parametrize("inline", [False, True])
def test_a_document(inline: bool, theme: str | None) -> None:
    """A pull reply holds what `Document.to_json` gives, with a theme or without, buffers beside or inside."""
    doc = a_document()
    if theme:
        doc.theme = theme
    ours = resolved(*encode_document(doc, inline=inline))
    assert typed(ours) == typed(stock_document(doc))
    assert typed(resolved(*encode_document(doc, inline=inline))) == typed(stock_document(doc))


def test_a_document_with_defaults_included(monkeypatch: pytest.MonkeyPatch) -> None:
    """`BOKEH_SERIALIZE_INCLUDE_DEFAULTS` keeps its meaning."""
    monkeypatch.setenv("BOKEH_SERIALIZE_INCLUDE_DEFAULTS", "yes")
    doc = a_document()
    assert typed(resolved(*encode_document(doc, inline=False))) == typed(stock_document(doc))


def test_bokeh_builds_the_same_document() -> None:
    """Bokeh's client reads our pull reply into an equal document."""
    doc = a_document()
    content, buffers = encode_document(doc, inline=False)
    beside = [BokehBuffer(ID(buffer.id), bytes(buffer.data)) for buffer in buffers]
    copy = Document.from_json(Serialized(json.loads(content)["doc"], beside))
    assert {model.id for model in copy.models} == {model.id for model in doc.models}
    assert copy.title == doc.title
