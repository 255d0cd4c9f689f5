"""Where a request says which session it is about.

The gateway routes by it and the worker answers by it; both ask here, so that they cannot come to different answers.
"""

from __future__ import annotations

from typing import Protocol
from urllib.parse import unquote_to_bytes

from aperture.protocol.tokens import read_session_id

__all__ = [
    "MAX_SESSION_ID_BYTES",
    "SESSION_ID_ARGUMENT",
    "SESSION_ID_HEADER",
    "SUBPROTOCOL",
    "TOKEN_ARGUMENT",
    "HeaderLookup",
    "is_session_id",
    "session_named",
]

SESSION_ID_ARGUMENT = "bokeh-session-id"
TOKEN_ARGUMENT = "bokeh-token"
SESSION_ID_HEADER = "Bokeh-Session-Id"
SUBPROTOCOL = "bokeh"

MAX_SESSION_ID_BYTES = 1024
"""Of UTF-8, as ids travel; longer ones are not served. Generated ones have 44, signed ones 88; a hand-over must hold
head and id."""


class HeaderLookup(Protocol):
    """A request's headers, by name without regard to case; repeated ones joined with commas."""

    def get(self, name: str, /) -> str | None: ...


def session_named(query: str, headers: HeaderLookup) -> str | None:
    """The id of the session that a request is about, or None when it names none that can be read.

    Looks where Bokeh's clients put it: the websocket's subprotocol token, the query arguments `bokeh-token` and
    `bokeh-session-id`, and the header `Bokeh-Session-Id`. Nothing is verified here; the worker does that, and also
    answers what is malformed. Never raises.
    """
    session_id = _from_subprotocol(headers) or _from_query(query) or headers.get(SESSION_ID_HEADER) or None
    return session_id if session_id is not None and is_session_id(session_id) else None


def is_session_id(text: str) -> bool:
    """Whether this can be the id of a session: not empty, not too long, and writable as UTF-8."""
    if not 0 < len(text) <= MAX_SESSION_ID_BYTES:  # a character is one byte at least
        return False
    try:
        return len(text.encode()) <= MAX_SESSION_ID_BYTES
    except UnicodeEncodeError:  # a lone surrogate, which JSON in a token can hold
        return False


def _from_subprotocol(headers: HeaderLookup) -> str | None:
    offered = headers.get("Sec-WebSocket-Protocol")
    if offered is None:
        return None
    names = [name.strip() for name in offered.split(",")]
    if len(names) != 2 or names[0] != SUBPROTOCOL:
        return None
    return read_session_id(names[1])


def _from_query(query: str) -> str | None:
    if "bokeh" not in query and "%" not in query:  # nearly every asset request; saves decoding it
        return None
    found: dict[str, str] = {}
    for argument in query.split("&"):
        name, _, value = argument.partition("=")
        key = _decoded(name)
        if key in (TOKEN_ARGUMENT, SESSION_ID_ARGUMENT) and (text := _decoded(value)):
            found[key] = text.strip()  # the last one counts, as in Tornado's get_argument
    if TOKEN_ARGUMENT in found:
        return read_session_id(found[TOKEN_ARGUMENT])
    return found.get(SESSION_ID_ARGUMENT) or None


def _decoded(part: str) -> str | None:
    try:
        return unquote_to_bytes(part.replace("+", " ").encode("latin-1")).decode()
    except UnicodeError:
        return None
