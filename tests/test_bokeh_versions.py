"""What Aperture does where a version of Bokeh has something, and where it has not, on whichever one runs the tests."""

from __future__ import annotations

import re
from contextvars import ContextVar
from pathlib import Path
from typing import Any, cast

import pytest
from bokeh.core.types import ID
from bokeh.document import Document
from bokeh.io import doc
from bokeh.model import Model
from bokeh.models.widgets import Slider

from aperture.bokeh_versions import current_documents, new_model, offer_locked_callback

ROOT = Path(__file__).parents[1]
ASKS = re.compile(r"\bhasattr\((?:Document|Model|bokeh)\b|bokeh_?_?version\w* *[<>=]=|isinstance\(\w+, ContextVar\)")


def test_the_variable_of_bokeh_is_taken_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bokeh's main branch has it: two of them would disagree."""
    ours: ContextVar[Any] = ContextVar("ours")
    assert current_documents(ours) is ours
    bokehs: ContextVar[Any] = ContextVar("bokehs")
    monkeypatch.setattr(doc, "_PATCHED_CURDOCS", bokehs)
    assert current_documents(ours) is bokehs


@pytest.mark.parametrize("version", ["3.9", "3.10"])
def test_a_model_is_begun_as_bokehs_deserializer_begins_it(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With its id, and before its constructor has run; from 3.10 on by a method that a class may override."""
    asked: list[ID] = []

    def begin(cls: type[Model], model_id: ID) -> Model:
        asked.append(model_id)
        return cls.__new__(cls, id=model_id)

    if version == "3.9":
        monkeypatch.delattr(Model, "_new", raising=False)
    else:
        monkeypatch.setattr(Model, "_new", classmethod(begin), raising=False)
    slider = new_model(Slider, ID("one"))
    assert type(slider) is Slider
    assert slider.id == "one"
    assert not slider._initialized
    assert asked == ([] if version == "3.9" else ["one"])


def test_bokehs_own_locked_callback_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """And ours is put where there is none."""
    monkeypatch.setattr(Document, "locked_callback", None, raising=False)  # what it was is put back afterwards
    del cast("Any", Document).locked_callback
    for method in (print, repr):
        offer_locked_callback(method)
    assert cast("Any", Document).locked_callback is print


def test_no_other_module_asks_which_bokeh_it_runs_with() -> None:
    """All that the versions do differently is in one place."""
    modules = [module for part in ("shared", "gateway", "worker") for module in (ROOT / part).rglob("*.py")]
    assert [module.name for module in modules if ASKS.search(module.read_text())] == ["bokeh_versions.py"]
