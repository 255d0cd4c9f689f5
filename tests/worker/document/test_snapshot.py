"""A document's state as bytes, laid over a document that the app's code has made again."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import numpy as np
import pytest
from bokeh.application import Application
from bokeh.application.handlers.function import FunctionHandler
from bokeh.command.util import build_single_handler_application
from bokeh.core.properties import Any as Any_
from bokeh.core.properties import ColumnData, Dict, Int, List, Nullable, Seq, Set, String, TimeDelta, Tuple
from bokeh.core.serialization import SerializationError
from bokeh.document import Document
from bokeh.document.events import DocumentPatchedEvent
from bokeh.layouts import column
from bokeh.model import DataModel
from bokeh.models import ColumnDataSource
from bokeh.models.widgets import Div, Slider
from bokeh.plotting import figure
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from support.node import EXAMPLES
from support.peers import state_of
from support.values import columns, numbers

from aperture.document import ids
from aperture.document.ids import IdSequence
from aperture.errors import StateMismatch
from aperture.protocol.codec import EventEncoder, join_events
from aperture.protocol.json_text import presentable
from aperture.protocol.values import MAX_SAFE_INT
from aperture.worker.document.classes import forget_classes
from aperture.worker.document.loading import new_document
from aperture.worker.document.snapshot import fingerprint, lay_over, pack_patch, replay, snapshot
from aperture.worker.patch.batch import Patch, Reach
from aperture.worker.patch.callbacks import OrderedCallbacks

calls: list[str] = []


def app(document: Document) -> None:
    """A slider with a callback, a plot of columns, a text."""
    slider = Slider(name="slider", start=0, end=10, value=0)
    source = ColumnDataSource({"x": [1, 2], "y": np.array([1.0, 2.0])}, name="source")
    plot = figure(name="plot", width=200, height=200)
    plot.line("x", "y", source=source)
    slider.on_change("value", lambda attr, old, new: calls.append(f"slider {new}"))
    document.on_change(lambda event: calls.append("document"))
    document.add_root(column(slider, plot, Div(name="text", text="before"), name="page"))


def made(recipe: Application | None = None) -> Document:
    """The app's document, as the same session makes it anywhere."""
    ids.install()
    sequence = IdSequence("session")
    with sequence.active():
        document = new_document()
        (recipe or Application(FunctionHandler(app))).initialize_document(document)
    calls.clear()
    return document


def named(document: Document, name: str) -> Any:
    return document.get_model_by_name(name)


def test_a_state_laid_over_a_new_document_makes_it_equal() -> None:
    """Values, columns, models added and removed, roots and title; and the app's callbacks are not called, but there."""
    lived, rebuilt = made(), made()
    assert fingerprint(lived) == fingerprint(rebuilt)
    named(lived, "slider").value = 7
    named(lived, "source").data = {"x": [5], "y": np.array([np.nan]), "z": ["new"]}
    page = named(lived, "page")
    page.children = [*page.children[:2], Div(name="added", text="since")]
    lived.add_root(Slider(name="another", start=0, end=1, value=1))
    lived.title = "changed"
    calls.clear()
    lay_over(rebuilt, snapshot(lived))
    assert state_of(rebuilt) == state_of(lived)
    assert calls == []
    assert named(rebuilt, "text") is None
    named(rebuilt, "slider").value = 8
    assert "slider 8" in calls


def test_what_the_state_does_not_set_is_what_it_is_by_default() -> None:
    """The app's code may set a property that was reset since."""
    lived, rebuilt = made(), made()
    del named(lived, "text")._property_values["text"]
    named(lived, "plot").width = None
    lay_over(rebuilt, snapshot(lived))
    assert named(rebuilt, "plot").width is None
    assert named(rebuilt, "text").text == ""
    assert state_of(rebuilt) == state_of(lived)


def test_roots_that_were_removed_are_removed() -> None:
    """And their models leave the document."""
    lived, rebuilt = made(), made()
    lived.clear()
    lay_over(rebuilt, snapshot(lived))
    assert rebuilt.roots == []
    assert len(list(rebuilt.models)) == 0


@pytest.mark.parametrize("example", ["sliders.py", "dashboard.py", "selection.py", "notes.py", "weather"])
def test_every_example_survives(example: str) -> None:
    """With its sliders moved and its columns cut short."""
    recipe = build_single_handler_application(str(EXAMPLES / "apps" / example))
    lived, rebuilt = made(recipe), made(recipe)
    assert fingerprint(lived) == fingerprint(rebuilt)
    for model in list(lived.models):
        if isinstance(model, Slider):
            model.value = model.end
        if isinstance(model, ColumnDataSource):
            model.data = {name: list(values)[:3] for name, values in model.data.items()}
    lay_over(rebuilt, snapshot(lived))
    assert state_of(rebuilt) == state_of(lived)


class Recorded:
    """A document whose changes are written down as a session writes them."""

    def __init__(self, recipe: Application | None = None) -> None:
        self.document = made(recipe)
        self.journal: list[bytes] = []
        models = self.document.models
        encoder = EventEncoder(lambda m: m not in models._new_models, lambda m: models._new_models.discard(m))
        models.flush_synced()
        callbacks = self.document.callbacks
        assert isinstance(callbacks, OrderedCallbacks)

        def record(event: DocumentPatchedEvent, reach: Reach = Reach.ALL) -> None:
            self.journal.append(pack_patch(Patch([join_events([encoder.encode(event)])])))

        callbacks.recorder = record


CHANGES: dict[str, Any] = {
    "slider": lambda document, n: setattr(named(document, "slider"), "value", n),
    "stream": lambda document, n: named(document, "source").stream({"x": [n], "y": [float(n)]}, rollover=4),
    "patch": lambda document, n: named(document, "source").patch({"x": [(0, n)]}),
    "column": lambda document, n: named(document, "source").data.update({"x": [n] * len(_column(document))}),
    "child": lambda document, n: named(document, "page").children.append(Div(text=f"child {n}")),
    "fewer": lambda document, n: setattr(named(document, "page"), "children", named(document, "page").children[:3]),
    "root": lambda document, n: document.add_root(Div(text=f"root {n}")),
    "title": lambda document, n: setattr(document, "title", f"title {n}"),
}


def _column(document: Document) -> list[Any]:
    column: list[Any] = list(named(document, "source").data["x"])
    return column


@given(st.lists(st.tuples(st.sampled_from(sorted(CHANGES)), st.integers(0, 9)), max_size=12), st.integers(0, 12))
@settings(max_examples=40, deadline=None)
def test_a_snapshot_and_the_patches_after_it_give_the_same_document(changes: list[tuple[str, int]], cut: int) -> None:
    """Wherever the snapshot was taken."""
    lived = Recorded()
    state, before = snapshot(lived.document), 0
    for place, (change, number) in enumerate(changes):
        CHANGES[change](lived.document, number)
        if place == cut:
            state, before = snapshot(lived.document), len(lived.journal)
    rebuilt = made()
    lay_over(rebuilt, state)
    for entry in lived.journal[before:]:
        replay(rebuilt, entry)
    assert state_of(rebuilt) == state_of(lived.document)


def test_an_app_that_makes_another_document_does_not_fit() -> None:
    """By its fingerprint, and by the types of its models."""

    def other(document: Document) -> None:
        document.add_root(column(Div(text="first"), figure(width=100, height=100), Slider(start=0, end=1, value=0)))

    lived, another = made(), made(Application(FunctionHandler(other)))
    assert fingerprint(lived) != fingerprint(another)
    with pytest.raises(StateMismatch):
        lay_over(another, snapshot(lived))


@given(st.binary(max_size=200), st.integers(0, 3000))
@settings(max_examples=60, deadline=None)
def test_a_damaged_state_is_a_mismatch_and_nothing_else(garbage: bytes, cut: int) -> None:
    """Cut short, or not a state at all."""
    state = snapshot(made())
    for damaged in (garbage, state[: cut % len(state)], state[:cut] + garbage):
        try:
            lay_over(made(), damaged)
        except StateMismatch:
            continue
        assert damaged == state


Typed: type[DataModel]


def typed() -> type[DataModel]:
    """A class whose properties take less than JSON makes of what they hold."""

    class Typed(DataModel):
        anything = Any_()
        number = Nullable(Int())
        numbers = List(Int())
        counts = Dict(Int(), Any_())
        some = Set(Int())
        pair = Nullable(Tuple(Int(), String()))
        text = Nullable(String())
        pause = Nullable(TimeDelta())
        data = ColumnData(String(), Seq(Any_()))

    return Typed


@pytest.fixture(scope="module", autouse=True)
def typed_is_of_this_module_alone() -> Iterator[None]:
    """Bokeh's table of classes is the process's: pages of other tests would look for this class's module."""
    global Typed
    Typed = typed()
    yield
    forget_classes(__name__)


any_text = st.text(st.characters(exclude_categories=()))
any_integer = st.integers(-(2**70), 2**70)
anything = st.recursive(
    st.none() | numbers() | any_text | st.binary(max_size=9) | st.datetimes() | st.timedeltas(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(any_text | st.integers(-9, 9), inner, max_size=3)
    ),
    max_leaves=8,
)
VALUES = st.one_of(
    st.tuples(st.just("anything"), anything),
    st.tuples(st.just("data"), columns()),
    st.tuples(st.just("number"), any_integer),
    st.tuples(st.just("numbers"), st.lists(any_integer, max_size=3)),
    st.tuples(st.just("counts"), st.dictionaries(any_integer, any_text, max_size=3)),
    st.tuples(st.just("some"), st.sets(any_integer, max_size=3)),
    st.tuples(st.just("pair"), st.tuples(any_integer, any_text)),
    st.tuples(st.just("text"), any_text),
    st.tuples(st.just("pause"), st.timedeltas(timedelta(days=-1000), timedelta(days=1000))),
    st.tuples(st.just("data"), st.dictionaries(any_text, st.lists(any_integer | any_text, max_size=3), max_size=3)),
    st.tuples(st.just("anything"), st.dictionaries(st.tuples(any_integer, any_text), any_text, max_size=3)),
)


def holder(document: Document) -> None:
    document.add_root(Typed(name="holder"))


@given(VALUES, any_text, st.booleans())
@settings(max_examples=200, deadline=None)
@pytest.mark.filterwarnings("ignore::bokeh.util.warnings.BokehUserWarning")
def test_whatever_a_property_holds_is_no_reason_to_lose_the_session(
    change: tuple[str, Any], title: str, journaled: bool
) -> None:
    """By snapshot and by journal: what is there again is what viewers got, and the next worker keeps the same."""
    recipe = Application(FunctionHandler(holder))
    lived, rebuilt = Recorded(recipe), made(recipe)
    attr, value = change
    before = snapshot(lived.document)
    try:
        setattr(named(lived.document, "holder"), attr, value)
        lived.document.title = title
        after = snapshot(lived.document)
    except (SerializationError, ValueError, OverflowError):
        assume(False)
    if journaled:
        lay_over(rebuilt, before)
        for entry in lived.journal:
            replay(rebuilt, entry)
    else:
        lay_over(rebuilt, after)
    again = made(recipe)
    lay_over(again, snapshot(rebuilt))
    if snapshot(again) != snapshot(rebuilt):  # sets have no order
        one, other = named(again, "holder"), named(rebuilt, "holder")
        assert one.lookup(attr).property.matches(getattr(one, attr), getattr(other, attr))  # `==` of arrays is an array
    assert rebuilt.title == title or len(rebuilt.title) < len(title), "two halves of a pair are one character"
    if attr in {"text", "some", "numbers"} and not _is_inexact(value):
        assert getattr(named(rebuilt, "holder"), attr) == value


def _is_inexact(value: Any) -> bool:
    """Whether it has integers that viewers get rounded, or halves of a pair that may be joined."""
    if isinstance(value, str):
        return presentable(value) != value
    return any(abs(number) > MAX_SAFE_INT for number in value)


def test_a_file_name_that_is_not_utf8_survives() -> None:
    """As Python shows it; as text, as a key, in an array, as a name and in the title."""
    name = os.fsdecode(b"caf\xe9.csv")
    lived, rebuilt = made(), made()
    named(lived, "text").text = name
    named(lived, "source").data = {name: [name], "array": np.array([name])}
    named(lived, "slider").name = name
    lived.title = name
    lay_over(rebuilt, snapshot(lived))
    assert named(rebuilt, "text").text == rebuilt.title == name
    assert named(rebuilt, name) is not None
    assert list(named(rebuilt, "source").data["array"]) == named(rebuilt, "source").data[name] == [name]
