"""One decoded event, applied to a document."""

from __future__ import annotations

from typing import Any, cast

from bokeh.document import Document
from bokeh.document.events import DocumentPatchedEvent

__all__ = ["apply_event"]


def apply_event(document: Document, event: dict[str, Any], setter: object | None) -> None:
    """Do what the event says.

    Args:
        document: under its lock.
        event: as `aperture.protocol.codec.decode_patch` gives it; used up.
        setter: who changed the document, so that it is not sent its own change.
    """
    if event["kind"] == "ColumnDataChanged" and event.get("cols") is not None:
        # It brings only the columns that were changed. BokehJS keeps the others; Bokeh's own handler drops them.
        event["data"] = {**getattr(event["model"], event["attr"]), **event["data"]}
    DocumentPatchedEvent.handle_event(document, cast("Any", event), cast("Any", setter))
