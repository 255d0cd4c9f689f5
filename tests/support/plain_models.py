"""Models as the JSON in which they travel, for clients that make no models of Bokeh's of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

__all__ = ["models_in", "plain"]


def models_in(value: Any) -> Iterator[dict[str, Any]]:
    """Every model in a value, wherever it was first written in full."""
    waiting = [value]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            if part.get("type") == "object" and "id" in part:
                yield part
            waiting.extend(part.values())
        elif isinstance(part, list):
            waiting.extend(part)


def plain(value: Any) -> Any:
    """A mapping, out of the form in which it travels."""
    if isinstance(value, dict) and value.get("type") == "map":
        return {key: plain(entry) for key, entry in value.get("entries", [])}
    return value
