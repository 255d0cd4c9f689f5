"""Changes of a document: which of them overwrite each other, and what replaces them all in the end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from bokeh.document import Document
from bokeh.document.events import (
    ColumnDataChangedEvent,
    ColumnsPatchedEvent,
    ColumnsStreamedEvent,
    DocumentPatchedEvent,
    ModelChangedEvent,
    TitleChangedEvent,
)
from bokeh.model import Model

from aperture.worker.patch.contention import Key

__all__ = ["BUILDING", "OF_MODELS", "REPLACING", "final_change", "key_of", "left_before", "whole_change"]

_TITLE = "title"

REPLACING = (ModelChangedEvent, TitleChangedEvent)
"""Changes that leave nothing of the value that was there; streams and patches of columns build on it."""

OF_MODELS = (ModelChangedEvent, ColumnsStreamedEvent, ColumnsPatchedEvent, ColumnDataChangedEvent)

BUILDING = (ColumnsStreamedEvent, ColumnsPatchedEvent)
"""Changes that must be made once, and on the value that was there."""


def key_of(event: DocumentPatchedEvent) -> Key | None:
    """What two changes must have in common to overwrite each other."""
    match event:
        case ModelChangedEvent() | ColumnsStreamedEvent() | ColumnsPatchedEvent() | ColumnDataChangedEvent():
            return (event.model.id, event.attr)
        case TitleChangedEvent():
            return (None, _TITLE)
        case _:
            return None


def final_change(document: Document, key: Key) -> DocumentPatchedEvent | None:
    """A change to what the document holds there now; None if the model has left it."""
    model_id, attr = key
    if model_id is None:
        return TitleChangedEvent(document, document.title)
    model = document.models.get_by_id(model_id)  # type: ignore[arg-type]
    if model is None:
        return None
    return whole_change(document, model, attr)


def whole_change(document: Document, model: Model, attr: str, setter: Any = None) -> ModelChangedEvent:
    return ModelChangedEvent(document, model, attr, model.lookup(attr).get_value(model), setter)


def left_before(document: Document) -> Callable[[str], bool]:
    """Tells of a model's id whether that model has left the document once, whether or not it is back."""
    return cast("Callable[[str], bool]", document.models.seen)
