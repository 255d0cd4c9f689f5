"""The session key: the name of a session in Redis and on the bus, made of its app and its id.

The id alone is not enough, because two apps may use one id.
"""

from __future__ import annotations

__all__ = ["session_key_of", "session_key_parts"]

_BETWEEN = "\t"
"""In no route: it would have to be escaped in a URL."""


def session_key_of(app: str, session_id: str) -> str:
    """The key of the session `session_id` of the app at the route `app`."""
    return f"{app}{_BETWEEN}{session_id}"


def session_key_parts(session_key: str) -> tuple[str, str]:
    """The app's route and the session id in a session key."""
    app, _, session_id = session_key.partition(_BETWEEN)
    return app, session_id
