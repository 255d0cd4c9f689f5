"""Which session a request names, whatever it looks like."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aperture.gateway.front.head import Head, Headers
from aperture.protocol.naming import session_named


def head(query: str = "", **headers: str) -> Head:
    """A request with this query and these headers (underscores stand for dashes)."""
    fields = tuple((name.replace("_", "-"), value) for name, value in headers.items())
    return Head("GET", "/app", "/app", query, "HTTP/1.1", Headers(fields), b"")


def token(session_id: object) -> str:
    """A token as Bokeh writes it, unsigned."""
    return base64.urlsafe_b64encode(json.dumps({"session_id": session_id}).encode()).decode().rstrip("=")


def named(request_head: Head) -> str | None:
    return session_named(request_head.query, request_head.headers)


@pytest.mark.parametrize(
    "request_head",
    [
        head(Sec_WebSocket_Protocol=f"bokeh, {token('s1')}.signature"),
        head(f"a=1&bokeh-token={token('s1')}"),
        head("bokeh-session-id=s1&b=2"),
        head("bokeh%2Dsession%2Did=s%31"),
        head("bokeh-session-id=other&bokeh-session-id=s1"),
        head(bokeh_session_id="s1"),
        head("bokeh-session-id=other", sec_websocket_protocol=f"bokeh,{token('s1')}"),
    ],
)
def test_the_session_id_is_found_where_clients_put_it(request_head: Head) -> None:
    """Subprotocol, token argument, id argument and header all name the session."""
    assert named(request_head) == "s1"


@pytest.mark.parametrize(
    "request_head",
    [
        head(),
        head("bokeh-session-id="),
        head("bokeh-session-id=%ff"),
        head("bokeh-token=rubbish"),
        head(f"bokeh-token={token(5)}"),
        head("bokeh-session-id=" + "x" * 1025),
        head("bokeh-session-id=" + "%F0%9F%90%A2" * 257),
        head(f"bokeh-token={token(chr(0xD800))}"),
        head(Sec_WebSocket_Protocol="bokeh"),
        head(Sec_WebSocket_Protocol=f"chat, {token('s1')}"),
    ],
)
def test_a_missing_or_malformed_id_is_none(request_head: Head) -> None:
    """The worker answers these, so they only must not be routed by."""
    assert named(request_head) is None


def test_the_longest_id_is_counted_in_bytes() -> None:
    """As it travels between processes; of four-byte characters there are a quarter as many."""
    assert named(head("bokeh-session-id=" + "%F0%9F%90%A2" * 256)) == "\N{TURTLE}" * 256
    assert named(head("bokeh-session-id=" + "x" * 1024)) == "x" * 1024


@given(st.text(alphabet=st.characters(max_codepoint=255)), st.text(alphabet=st.characters(max_codepoint=255)))
def test_reading_the_id_never_raises(query: str, subprotocol: str) -> None:
    """Anybody can send anything."""
    named(head(query, Sec_WebSocket_Protocol=subprotocol))
    named(head("bokeh-token=" + query, Sec_WebSocket_Protocol="bokeh, " + subprotocol))
