"""Values that are set the short way: what Bokeh stores, and the event that Bokeh makes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from bokeh.core.properties import (
    Bool,
    Color,
    Complex,
    Either,
    Enum,
    Float,
    Int,
    Interval,
    NonNegative,
    Nullable,
    Percent,
    Positive,
    Regex,
    Required,
    Size,
    String,
)
from bokeh.document import Document
from bokeh.document.events import DocumentChangedEvent, ModelChangedEvent
from bokeh.model import Model
from bokeh.models import LinearAxis, Range1d
from bokeh.models.widgets import Slider, TextInput
from hypothesis import given
from hypothesis import strategies as st

from aperture.worker.document.lean import setting

PLAIN = [Bool(), Float(), Int(), String()]
CHOOSY = [Percent(), Size(), Color(), Complex(), Enum("a", "b"), Regex("^a"), Interval(Float, 0, 1)]
PROPERTIES = [
    *PLAIN,
    *CHOOSY,
    Either(Int, String),
    *(wrap(prop) for wrap in (Required, Nullable, NonNegative, Positive) for prop in (Float(), Int())),
    *(wrap(prop) for wrap in (Required, Nullable) for prop in (Bool(), String(), Percent(), Enum("a", "b"))),
    Nullable(Required(Float)),
    Float().accepts(String, float),
    Float().asserts(lambda _, value: value < 1, "too large"),
]
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=3),
    st.sampled_from([np.float64(0.5), np.int64(2), np.bool_(True), "a", "1", b"a", 1j, [1], -0.0, math.inf]),
)


@given(st.sampled_from(PROPERTIES), VALUES)
def test_what_is_taken_at_once_is_what_bokeh_stores(prop: Any, value: object) -> None:
    """Bokeh takes it, too, and stores that very object; what it refuses or converts goes Bokeh's way."""
    if setting._takes(prop, value) and not prop.assertions:
        assert setting._bokehs_prepare(prop, Slider, "value", value) is value


@pytest.mark.parametrize(
    ("prop", "value"),
    [(Float(), 1), (Required(Float), 0.5), (Nullable(Int), None), (Nullable(String), "a"), (Bool(), True)],
    ids=str,
)
def test_most_values_are_taken_at_once(prop: Any, value: object) -> None:
    """Numbers, words and nothing, where the property takes nothing."""
    assert setting._takes(prop, value)


@pytest.mark.parametrize(("attr", "new"), [("value", 2), ("title", "new"), ("name", "new"), ("tags", ["new"])])
def test_a_change_is_the_event_that_bokeh_makes(attr: str, new: object) -> None:
    """With the same model, attribute, value and setter, once; and a name finds the model in its document."""
    made = []
    for trigger in (setting.trigger, setting._bokehs_trigger):
        slider = Slider(start=0, end=9, value=1, title="old", name="old")
        document = Document()
        document.add_root(slider)
        events: list[DocumentChangedEvent] = []
        document.on_change(events.append)
        old = getattr(slider, attr)
        slider._property_values[attr] = new
        trigger(slider, attr, old, new, None, "setter")  # type: ignore[arg-type]
        [event] = events
        assert isinstance(event, ModelChangedEvent)
        found = document.get_model_by_name("new") is slider
        made.append((event.document is document, event.model is slider, event.attr, event.new, event.setter, found))
    assert made[0] == made[1]


NUMBERS_AND_WORDS = [0, 1, 1.0, True, 0.5, math.nan, "", "a", None]


@pytest.mark.parametrize("cls", [Slider, TextInput, Range1d, LinearAxis])
def test_a_value_from_a_browser_replaces_another_as_in_bokeh(cls: type[Model]) -> None:
    """Each plain value in place of each other, in each property: what is stored, what is raised, and the event."""
    ours, bokehs = Changed(cls, setting.set_from_json), Changed(cls, setting._bokehs_set_from_json)
    for name in sorted(cls.properties() - {"name", "subscribed_events"}):
        for old, new in itertools.product(NUMBERS_AND_WORDS, repeat=2):
            assert ours.change(name, old, new) == bokehs.change(name, old, new), (name, old, new)


class Changed:
    """A model in a document, whose properties are set in one way."""

    def __init__(self, cls: type[Model], way: Callable[..., None]) -> None:
        self.model = cls()
        self._way = way
        self._events: list[Any] = []
        document = Document()
        document.add_root(self.model)
        document.on_change(self._events.append)

    def change(self, name: str, old: object, new: object) -> object:
        """What becomes of a new value in the place of an old one."""
        model, descriptor = self.model, type(self.model).lookup(name)
        try:
            setting._bokehs_set_from_json(descriptor, model, old)
        except ValueError:
            return "the old value is none of the property's"
        self._events.clear()
        raised = ""
        try:
            self._way(descriptor, model, new, setter="setter")
        except ValueError as problem:
            raised = str(problem).replace(model.id, "")
        said = [(event.attr, repr(event.new), event.setter, event.model is model) for event in self._events]
        return raised, repr(model._property_values.get(name)), said
