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
from aperture.worker.session.context import SessionRequest
from aperture.worker.session.host import Origin

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
