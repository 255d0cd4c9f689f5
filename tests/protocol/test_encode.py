"""The encoder's own promises: what it asks, what it costs, and that values are those of the moment."""

from __future__ import annotations

import base64
import gzip
import json
from typing import Any

import bokeh.util.serialization
import numpy as np
import pandas as pd
import pytest
from bokeh.core.serialization import SerializationError
from bokeh.document import Document
from bokeh.document.events import ColumnsStreamedEvent, ModelChangedEvent, RootAddedEvent
from bokeh.models import Column, ColumnDataSource
from bokeh.models.widgets import Div, Slider
from bokeh.plotting import figure
from bokeh.settings import settings
from support.events import Viewers, resolved, stock_document

from aperture.protocol.codec import encode_document, is_scalar, join_events
from aperture.protocol.values import MAX_SAFE_INT


class Session:
    """A document whose models the viewers know."""

    def __init__(self, sliders: int = 3) -> None:
        self.doc = Document()
        self.sliders = [Slider(start=0, end=1, value=0) for _ in range(sliders)]
        self.parent = Column(children=list(self.sliders))
        self.source = ColumnDataSource()
        self.doc.add_root(self.parent)
        self.doc.add_root(self.source)
        self.viewers = Viewers(self.doc.models)

    def change(self, attr: str, new: Any) -> ModelChangedEvent:
        return ModelChangedEvent(self.doc, self.sliders[0], attr, new)

    def stream(self, data: Any) -> ColumnsStreamedEvent:
        return ColumnsStreamedEvent(self.doc, self.source, "data", data)


@pytest.fixture
def session() -> Session:
    return Session()


@pytest.mark.parametrize(
    ("value", "scalar"),
    [
        (None, True), (True, True), ("text", True), (0, True), (1.5, True), (float("nan"), True), (float("-inf"), True),
        (MAX_SAFE_INT, True), (MAX_SAFE_INT + 1, False), (-MAX_SAFE_INT + 1, True), (-MAX_SAFE_INT, False),
        ([], False), ((), False), ({}, False), (b"", False), (np.float64(1), False), (np.array(1), False),
    ],
)  # fmt: skip
def test_scalars_are_what_can_wait(value: Any, scalar: bool) -> None:
    """Only values that cannot change, and that need no warning, are scalars."""
    assert is_scalar(value) is scalar


def test_a_scalar_asks_nothing(session: Session) -> None:
    """The slider's path looks at no model at all."""
    encoded = session.viewers.encode(session.change("value", 0.5))
    assert json.loads(encoded.json) == {
        "kind": "ModelChanged", "model": {"id": session.sliders[0].id}, "attr": "value", "new": 0.5,
    }  # fmt: skip
    assert (encoded.buffers, encoded.introduced) == ((), ())
    assert session.viewers.asked == []


def test_only_models_that_the_event_names_are_asked_for() -> None:
    """The size of the document does not matter: each model in the value is asked for once."""
    session = Session(sliders=500)
    one, two = session.sliders[:2]
    session.viewers.encode(ModelChangedEvent(session.doc, session.parent, "tags", [one, [two, {"a": one}]]))
    assert sorted(session.viewers.asked) == sorted([one.id, two.id])


def test_new_models_are_reported_after_they_were_written(session: Session) -> None:
    """`introduced` says so, and `learned` hears of every model that went out in full, children too."""
    inner = Div(text="inner")
    new = Column(children=[inner, session.sliders[0]])
    encoded = session.viewers.encode(RootAddedEvent(session.doc, new))
    assert encoded.introduced
    assert {model.id for model in session.viewers.learned} == {inner.id, new.id}
    assert not session.viewers.encode(RootAddedEvent(session.doc, new)).introduced


def test_a_failed_event_teaches_nothing(session: Session) -> None:
    """When a value cannot be encoded, the new models beside it were not sent either."""
    with pytest.raises(SerializationError):
        session.viewers.encode(session.change("tags", [Div(), object()]))
    assert session.viewers.learned == []


def test_a_shortcut_that_fails_is_taken_back(session: Session) -> None:
    """The integer that JavaScript cannot hold is found last; models and buffers before it are not counted twice."""
    new = Div(text="new")
    with pytest.warns(UserWarning, match="precision"):
        encoded = session.viewers.encode(session.change("tags", [new, np.arange(3.0), [1.0, 2**60]]))
    assert session.viewers.learned == [new]
    assert len(encoded.buffers) == 1
    parsed = resolved(*join_events([encoded]))["events"][0]["new"]
    assert parsed[1]["array"] == {"bytes": np.arange(3.0).tobytes()}
    assert parsed[2] == [1.0, float(2**60)]


def test_values_are_those_of_the_moment(session: Session) -> None:
    """Lists, arrays and pandas columns may change in place as soon as the event is encoded."""
    numbers, array, series = [1.0, 2.0], np.array([1.0, 2.0]), pd.Series([1.0, 2.0])
    strided, matrix = np.arange(6.0)[::2], np.asfortranarray(np.arange(4.0).reshape(2, 2))
    data = {"list": numbers, "array": array, "series": series, "strided": strided, "matrix": matrix}
    encoded = session.viewers.encode(session.stream(data))
    before = resolved(*join_events([encoded]))
    numbers[0] = array[0] = strided[0] = matrix[0, 0] = series[0] = 99.0
    assert resolved(*join_events([encoded])) == before
    assert before == session_content(session, {key: _one_again(value) for key, value in data.items()})


def _one_again(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        value = value.copy()
        value[(0,) * value.ndim] = {3: 0.0, 2: 1.0 if value.ndim == 1 else 0.0}[len(value)]
        return value
    value = value.copy()
    value[0] = 1.0
    return value


def session_content(session: Session, data: Any) -> Any:
    return session.viewers.content(session.stream(data))


def test_buffers_are_named_apart(session: Session) -> None:
    """Events are encoded one by one and sent together, so no two buffers of a session share a name."""
    events = [session.viewers.encode(session.stream({"x": np.arange(3.0), "y": np.arange(3)})) for _ in range(3)]
    _, buffers = join_events(events)
    assert len({buffer.id for buffer in buffers}) == 6


def test_encoding_makes_no_ids(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """Model ids count from the session's start; encoding must not use any up."""

    def refuse() -> str:
        raise AssertionError("an id was made")

    monkeypatch.setattr(bokeh.util.serialization, "make_id", refuse)
    monkeypatch.setattr("bokeh.core.serialization.make_id", refuse)
    session.viewers.encode(session.stream({"x": np.arange(3.0), "y": pd.Series([1, 2]), "z": b"bytes"}))
    encode_document(session.doc, inline=False)
    encode_document(session.doc, inline=True)


def test_a_batch_is_one_list_of_events(session: Session) -> None:
    """Joined text parses to the events in order, whether one or many; none is an empty list."""
    events = [session.viewers.encode(session.change("value", value)) for value in (1, 2)]
    assert [event["new"] for event in json.loads(join_events(events)[0])["events"]] == [1, 2]
    assert [event["new"] for event in json.loads(join_events(events[:1])[0])["events"]] == [1]
    assert join_events([]) == (b'{"events":[]}', [])


def test_text_that_is_no_text_still_arrives(session: Session) -> None:
    """Half a surrogate pair is escaped, as a browser would."""
    assert json.loads(session.viewers.encode(session.change("title", "\ud83d")).json)["new"] == "\ud83d"


def test_inline_documents_have_nothing_beside_them() -> None:
    """For a viewer that pulls again everything is in the content."""
    doc = Document()
    doc.add_root(ColumnDataSource(data={"x": np.arange(1000.0), "y": np.arange(1000)[::-1]}))
    content, buffers = encode_document(doc, inline=True)
    assert buffers == []
    assert resolved(content, buffers) == resolved(*encode_document(doc, inline=False))


@pytest.mark.parametrize(
    ("array", "chosen", "level"),
    [
        (np.random.default_rng(1).normal(size=10_000), None, 0),
        (np.arange(10_000, dtype=np.int32), None, 1),
        (np.zeros(3), None, 1),
        (np.zeros(0), None, 0),
        (np.random.default_rng(1).normal(size=10_000), 6, 6),
        (np.arange(10_000, dtype=np.int32), 0, 0),
    ],
)
def test_inline_arrays_are_compressed_where_it_is_worth_it(array: Any, chosen: int | None, level: int) -> None:
    """Measurements hardly shrink, at a high price; Bokeh's setting goes first where it is set."""
    doc = Document()
    doc.add_root(ColumnDataSource(data={"x": array}))
    if chosen is not None:
        settings.compression_level.set_value(chosen)
    try:
        content, _ = encode_document(doc, inline=True)
    finally:
        settings.compression_level.unset_value()
    assert base64.b64encode(gzip.compress(array.tobytes(), level, mtime=1)) in content


def test_a_pull_does_not_copy_arrays() -> None:
    """The buffers of a document are views of its own arrays, until they are framed."""
    array = np.arange(1000.0)
    doc = Document()
    doc.add_root(ColumnDataSource(data={"x": array}))
    [buffer] = encode_document(doc, inline=False)[1]
    assert np.shares_memory(np.frombuffer(buffer.data), array)


def test_an_unset_required_value_fails_as_bokeh_fails() -> None:
    """A model that Bokeh refuses to serialize is refused here with the same error."""
    from bokeh.models import ImageURLTexture

    doc = Document()
    doc.add_root(ImageURLTexture())
    with pytest.raises(Exception) as stock:
        stock_document(doc)
    with pytest.raises(type(stock.value)):
        encode_document(doc, inline=False)


def test_app_classes_are_not_kept_alive() -> None:
    """Each session runs the app's code anew; what is remembered about its model classes goes with them."""
    from aperture.protocol import attributes

    plot = figure()
    doc = Document()
    doc.add_root(plot)
    encode_document(doc, inline=False)
    for plan in attributes._plans.values():
        assert plan is None or all(isinstance(name, str) for name in (*plan.order, *plan.required, *plan.plain))
