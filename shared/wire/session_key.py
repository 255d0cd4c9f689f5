"""How a session is named on the bus: by its app and its id, because two apps may use one id."""

from __future__ import annotations

__all__ = ["place_of", "place_parts"]

_BETWEEN = "\t"
"""In no route: it would have to be escaped in a URL."""


def place_of(app: str, session_id: str) -> str:
    """The name under which the registry and the channels know a session."""
    return f"{app}{_BETWEEN}{session_id}"


def place_parts(place: str) -> tuple[str, str]:
    """The app's route and the session id in a place."""
    app, _, session_id = place.partition(_BETWEEN)
    return app, session_id
