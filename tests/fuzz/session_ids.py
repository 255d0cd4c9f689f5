"""Session ids in the query of a request: what ours reads there, beside Tornado's arguments, which Bokeh asks."""

from __future__ import annotations

from fuzz.target import Target
from tornado.escape import parse_qs_bytes
from tornado.httputil import HTTPHeaders
from tornado.web import RequestHandler

from aperture.protocol.naming import MAX_SESSION_ID_BYTES, SESSION_ID_ARGUMENT, TOKEN_ARGUMENT, session_named
from aperture.protocol.tokens import Tokens, read_session_id

TOKEN = Tokens(None, False, 300).issue("of-the-token", now=2_000_000_000).encode()

SEEDS = [
    b"bokeh-session-id=one",
    b"a=1&bokeh-session-id=one&b=2",
    b"bokeh-session-id=one&bokeh-session-id=two",
    b"bokeh-token=" + TOKEN,
    b"bokeh-session-id=one&bokeh-token=" + TOKEN,
    b"bokeh%2dsession%2Did=%C3%BC+%20x",
    b"bokeh-session-id=" + b"x" * MAX_SESSION_ID_BYTES,
    b"bokeh-session-id=%ff",
    b"bokeh-session-id=&bokeh-session-id=one",
]

WORDS = [b"&", b"=", b"%", b"%26", b"%3D", b"+", b"%2B", b";", b"bokeh-session-id=", b"bokeh-token=", TOKEN, b"%00"]
WORDS += [b"%0a", b"%c3", b"%ed%a0%80", b"&&", b"%e2%80%a8", b"\xc3\xbc", b"#", b"?"]


def check(drawn: bytes) -> bool:
    """The same session, or none, and an id is one that can travel.

    Ours takes an argument without a value for none, and keeps control characters, which Tornado blanks.
    """
    query = drawn.decode("latin-1")
    named = session_named(query, HTTPHeaders())
    if named is not None:
        assert 0 < len(named.encode()) <= MAX_SESSION_ID_BYTES
    theirs = _named_by_tornado(query)
    if theirs is None or len(theirs.encode(errors="replace")) > MAX_SESSION_ID_BYTES:
        return named is not None
    assert _blanked(named or "") == _blanked(theirs)
    return named is not None


def _named_by_tornado(query: str) -> str | None:
    """None where it refuses the request, or what it has is no token."""
    arguments = parse_qs_bytes(query)
    try:
        token, session_id = (_last(arguments.get(name, [])) for name in (TOKEN_ARGUMENT, SESSION_ID_ARGUMENT))
    except UnicodeDecodeError:
        return None
    return read_session_id(token) if token else session_id


def _last(values: list[bytes]) -> str:
    """As `RequestHandler.get_argument` has it, without the handler, which takes ten times as long to make."""
    return [value.decode().strip() for value in [b"", *values]][-1]


def _blanked(text: str) -> str:
    return RequestHandler._remove_control_chars_regex.sub(" ", text).strip()


SESSION_IDS = Target("session-ids", SEEDS, check, WORDS)
