"""The comparison by which the fuzzer of patches judges: one that overlooks something would find nothing."""

from __future__ import annotations

from typing import Any, TypeVar

import pytest
from bokeh.document import Document
from bokeh.model import Model
from bokeh.models import ColumnDataSource
from bokeh.models.widgets import Slider
from fuzz.patches import assert_same, document

M = TypeVar("M", bound=Model)


def _only(changed: Document, cls: type[M]) -> M:
    (found,) = (model for model in changed.models if type(model) is cls)
    assert isinstance(found, cls)
    return found


def _retitle(changed: Document) -> None:
    changed.title = "other"


def _turn(changed: Document) -> None:
    first = changed.roots[0]
    changed.remove_root(first)
    changed.add_root(first)


def _change(changed: Document) -> None:
    _only(changed, Slider).value = 2


def _empty(changed: Document) -> None:
    columns: dict[str, Any] = _only(changed, ColumnDataSource).data
    columns["x"].pop()


def _add(changed: Document) -> None:
    changed.add_root(Slider(start=0, end=1, value=0))


@pytest.mark.parametrize("change", [_retitle, _turn, _change, _empty, _add])
def test_a_difference_is_seen(change: object) -> None:
    """Of the document, of its roots, of a value, of what is in one, of models that are new."""
    assert callable(change)
    one, other = document(), document()
    assert_same(one, other)
    change(one)
    with pytest.raises(AssertionError):
        assert_same(one, other)
    change(other)
    assert_same(one, other)
