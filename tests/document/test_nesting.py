"""The depth of a document: bounded over all messages that have made it, so that every encoder takes it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from bokeh.document import Document
from bokeh.model import Model
from bokeh.models import Column, ColumnDataSource, Plot
from bokeh.models.widgets import Div, Slider

from aperture.document import nesting
from aperture.document.nesting import MAX_DOCUMENT_DEPTH, check_nesting, restructures
from aperture.errors import NestedTooDeeply
from aperture.protocol.codec import encode_document


def changed(model: Model, attr: str, new: Any) -> dict[str, Any]:
    return {"kind": "ModelChanged", "model": model, "attr": attr, "new": new}


def in_lists(value: Any, levels: int) -> Any:
    for _ in range(levels):
        value = [value]
    return value


def in_maps(value: Any, levels: int) -> Any:
    for _ in range(levels):
        value = {"a": value}
    return value


def grown(document: Document, around: Any) -> int:
    """How many times a new model with the last one in it may take its place, each by a change of its own."""
    holder, inner = document.roots[0], Div()
    for count in range(MAX_DOCUMENT_DEPTH):
        event = changed(holder, "tags", [around(inner)])
        try:
            check_nesting(document, [event])
        except NestedTooDeeply:
            return count
        holder.tags = event["new"]
        inner = Div(tags=event["new"])
    raise AssertionError("there is no bound")


@pytest.mark.parametrize(
    "around",
    [
        lambda inner: inner,
        lambda inner: in_lists(inner, 20),
        lambda inner: in_maps(inner, 20),
        lambda inner: Column(children=[inner]),
    ],
    ids=["models", "lists", "maps", "layouts"],
)
@pytest.mark.parametrize("inline", [True, False])
def test_a_chain_over_many_messages_ends_where_it_can_still_be_encoded(around: Any, inline: bool) -> None:
    """Each message nests what the one before it has made, and is flat itself."""
    document = Document()
    document.add_root(Div())
    assert grown(document, around) > 1
    text, _ = encode_document(document, inline=inline)
    assert json.loads(text)["doc"]["roots"]


def test_what_is_taken_away_may_show_a_chain_that_was_in_its_shade() -> None:
    """A model is written where it comes first. Without that place it is written at the next, which may be deep."""
    document = Document()
    deep: Model = Div()
    for _ in range(MAX_DOCUMENT_DEPTH // 4):
        deep = Div(tags=[deep])
    first = Div(tags=[deep])
    chain: Model = Div(tags=[deep])
    for _ in range(MAX_DOCUMENT_DEPTH // 4):
        chain = Div(tags=[chain])
    document.add_root(first)
    document.add_root(chain)
    check_nesting(document, [changed(first, "title", "x")])
    for event in (changed(first, "tags", []), {"kind": "RootRemoved", "model": first}):
        with pytest.raises(NestedTooDeeply):
            check_nesting(document, [event])


def test_a_new_root_counts() -> None:
    """As what a change puts into a model does."""
    deep: Model = Div()
    for _ in range(MAX_DOCUMENT_DEPTH):
        deep = Div(tags=[deep])
    with pytest.raises(NestedTooDeeply):
        check_nesting(Document(), [{"kind": "RootAdded", "model": deep}])


def test_a_circle_of_models_ends() -> None:
    """Bokeh allows it, and encoders write a reference where a model comes again."""
    one, other = Div(), Div()
    one.tags, other.tags = [other], [one]
    document = Document()
    document.add_root(one)
    check_nesting(document, [changed(one, "tags", [other, one])])


def test_only_what_adds_or_takes_models_restructures() -> None:
    """The rest, such as all that sliders and data do, costs no walk."""
    slider = Slider(start=0, end=1, value=0, step=1)
    holder = Column(children=[slider])
    assert not restructures(changed(slider, "value", 1))
    assert not restructures(changed(slider, "tags", [1, [2]]))
    assert not restructures({"kind": "ColumnDataChanged", "model": ColumnDataSource(), "attr": "data", "data": {}})
    assert restructures(changed(slider, "tags", [Div()]))
    assert restructures(changed(holder, "children", []))
    assert restructures({"kind": "RootRemoved", "model": holder})


def test_a_property_without_a_value_restructures_nothing() -> None:
    """A browser is the first to set the inner size of a plot; reading it before that raises."""
    event = {"kind": "ModelChanged", "model": Plot(), "attr": "inner_width", "new": 300}
    assert not restructures(event)


@pytest.mark.parametrize("cls", [Slider, Div, Column, Plot, ColumnDataSource])
def test_whether_a_change_restructures_is_seen_in_what_the_model_has(cls: type[Model]) -> None:
    """The same whether it stores the value or has a default, for each of its properties."""
    model = cls()
    for name in cls.properties():
        for new in (1, "word", None, Div(), [Div()]):
            expected = nesting._holds_models(new) or nesting._holds_models(nesting._value_of(model, name))
            assert restructures(changed(model, name, new)) == expected
