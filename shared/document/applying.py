"""One decoded event, applied to a document, and the models that it may name."""

from __future__ import annotations

from functools import cached_property
from typing import Any, cast

import numpy as np
from bokeh.core.types import ID
from bokeh.document import Document
from bokeh.document.events import DocumentPatchedEvent, ModelChangedEvent, RootAddedEvent
from bokeh.model import Model

__all__ = ["NamedModels", "apply_event", "bytes_copied", "configures", "replace_document"]


_CHANGED = ModelChangedEvent.kind


class NamedModels:
    """The models that one message may name: those of the document, and its configuration with what belongs to it.

    Bokeh has the configuration in no table. BokehJS has it among the models, and from 3.10 on lets its users change it.
    """

    def __init__(self, document: Document) -> None:
        self._document = document

    def find(self, name: ID) -> Model | None:
        """The model of that id, if there is one."""
        found = self._document.models.get_by_id(name)
        return self._of_configuration.get(name) if found is None else found

    @cached_property
    def _of_configuration(self) -> dict[ID, Model]:
        return {model.id: model for model in self._document.config.references()}


def configures(document: Document, model: Model) -> bool:
    """Whether the model is a part of the document's configuration, and so of no use to Bokeh's change notifications."""
    return model.document is None and model in document.config.references()


def apply_event(document: Document, event: dict[str, Any], setter: object | None) -> None:
    """Do what the event says.

    Args:
        document: under its lock.
        event: as `aperture.protocol.codec.decode_patch` gives it; used up.
        setter: who changed the document, so that it is not sent its own change.
    """
    if event["kind"] == _CHANGED and DocumentPatchedEvent._handlers[_CHANGED] is ModelChangedEvent:
        # What Bokeh's handler does, without the event that it makes for it. Most that browsers send is this.
        event["model"].set_from_json(event["attr"], event["new"], setter=setter)
        return
    if event["kind"] == "ColumnDataChanged" and event.get("cols") is not None:
        # It brings only the columns that were changed. BokehJS keeps the others; Bokeh's own handler drops them.
        event["data"] = {**getattr(event["model"], event["attr"]), **event["data"]}
    DocumentPatchedEvent.handle_event(document, cast("Any", event), cast("Any", setter))


def bytes_copied(event: dict[str, Any]) -> int:
    """Bytes of columns that the event has Bokeh copy: a stream makes each array of its source anew, lists it extends.

    Args:
        event: as `apply_event` takes it.
    """
    if event["kind"] != "ColumnsStreamed":
        return 0
    columns = getattr(event["model"], event["attr"]).values()
    return sum(column.nbytes for column in columns if isinstance(column, np.ndarray))


def replace_document(document: Document, pushed: dict[str, Any]) -> None:
    """Do what `Document.replace_with_json` does, and walk through the models twice instead of twice for each root: with
    180 plots that is a second and not minutes.

    Args:
        document: under its lock.
        pushed: as `aperture.protocol.codec.decode_document` gives it; its models belong to no document yet.
    """
    document.clear()
    document._config = pushed["config"]
    # A document may name one root twice, and has it once.
    roots = list(dict.fromkeys(pushed["roots"]))
    with document.models.freeze():
        document._roots.extend(roots)
    for root in roots:
        document.callbacks.trigger_on_change(RootAddedEvent(document, root, cast("Any", None)))
    document.title = pushed["title"]
