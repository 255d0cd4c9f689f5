"""The request that a session was created with, written down and read again."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tornado.httputil import HTTPHeaders, HTTPServerRequest, RequestStartLine

from aperture.errors import StateMismatch
from aperture.worker.recovery.origin import FORMAT, pack_origin, unpack_origin
from aperture.worker.session.host import Origin
from aperture.worker.session.session_request import SessionRequest

FINGERPRINT = "f" * 64
SEEN = ("uri", "path", "query", "method", "version", "host", "protocol", "remote_ip", "arguments", "cookies", "headers")


def request(uri: str = "/app?points=5&points=%FF&name=%C3%A9", **carried: Any) -> SessionRequest:
    original = HTTPServerRequest(
        start_line=RequestStartLine("GET", uri, "HTTP/1.1"),
        headers=HTTPHeaders({"Host": "example.org:8080", "X-User": "someone"}),
    )
    original.remote_ip = "10.1.2.3"
    original.protocol = "https"
    carried = {
        "arguments": {"points": [b"5", b"\xff"], "name": ["é".encode()]},
        "cookies": {"user": "someone"},
        "headers": {"X-User": "someone", "Cookie": "user=someone"},
        **carried,
    }
    return SessionRequest(original, **carried)


def test_the_app_sees_the_same_request_again() -> None:
    """Its URL and where it came from, and the arguments, cookies and headers that were chosen for it."""
    before = request()
    origin, fingerprint = unpack_origin(pack_origin(Origin(before, {"user": "someone", "rights": [1, 2]}), FINGERPRINT))
    assert fingerprint == FINGERPRINT
    assert origin.payload == {"user": "someone", "rights": [1, 2]}
    after = origin.request
    assert after is not None
    for name in SEEN:
        assert getattr(after, name) == getattr(before, name), name


def test_a_session_without_a_request_has_none_again() -> None:
    """One that another program has pulled, for example."""
    origin, _ = unpack_origin(pack_origin(Origin(None, {}), FINGERPRINT))
    assert origin == Origin(None, {})


any_text = st.text(st.characters(exclude_categories=()))
any_payload = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | any_text | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(any_text | st.integers(-9, 9), inner, max_size=4),
    max_leaves=8,
)


@given(st.dictionaries(any_text, any_payload, max_size=4), st.none() | any_text, any_text)
def test_whatever_a_hook_or_a_request_has_brought_is_there_again(
    payload: dict[str, Any], user: str | None, text: str
) -> None:
    """Lone surrogates, large integers and numbers as keys among it: none of it may cost the session its page."""
    before = request(headers={"X-Text": text}, cookies={text: text})
    origin, _ = unpack_origin(pack_origin(Origin(before, payload, user=user), FINGERPRINT))
    assert origin.payload == payload
    assert origin.user == user
    assert origin.request is not None
    assert origin.request.headers == before.headers
    assert origin.request.cookies == before.cookies


@given(st.integers(0, 2000), st.binary(max_size=60))
def test_what_is_damaged_is_a_mismatch_and_nothing_else(cut: int, garbage: bytes) -> None:
    """Cut short, prolonged, or never an origin."""
    packed = pack_origin(Origin(request(), {}), FINGERPRINT)
    for damaged in (packed[: cut % len(packed)], garbage, garbage + packed, packed[: cut % len(packed)] + garbage):
        try:
            unpack_origin(damaged)
        except StateMismatch:
            continue


def test_what_another_version_has_written_is_not_read() -> None:
    """It may mean something else there."""
    with pytest.raises(StateMismatch, match="format"):
        unpack_origin(msgpack.packb([FORMAT + 1, FINGERPRINT, None, {}, None]))
