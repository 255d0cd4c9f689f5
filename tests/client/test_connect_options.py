"""What a session is opened with."""

from __future__ import annotations

import pytest

from aperture.client.connect_options import DELAYS, ClientOptions, delays_of, session_id_or_new
from aperture.errors import TokenError
from aperture.protocol.tokens import Tokens

KEY = b"a key of the test"


def options(**more: object) -> ClientOptions:
    return ClientOptions(websocket_url="ws://h/app/ws", session_id="an id", **more)  # type: ignore[arg-type]


def test_a_key_signs_tokens_and_new_ids() -> None:
    """A server with the same key accepts both; another key does not."""
    session_id = session_id_or_new(None, KEY)
    token = ClientOptions("ws://h/ws", session_id, secret_key=KEY).token()
    assert Tokens(KEY, True, 60).verify(token).session_id == session_id
    with pytest.raises(TokenError):
        Tokens(b"another", True, 60).verify(token)


def test_the_environments_key_counts_at_the_time_of_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bokeh's client reads it when it is imported."""
    chosen = options()
    assert "." not in chosen.token()
    monkeypatch.setenv("BOKEH_SECRET_KEY", KEY.decode())
    assert "." in chosen.token()


def test_cookies_join_those_of_the_headers() -> None:
    """In one header, whatever its case."""
    chosen = options(headers={"cookie": "a=1", "X-Else": "2"}, cookies={"b": "3"})
    assert chosen.request_headers() == {"X-Else": "2", "Cookie": "a=1; b=3"}


def test_reconnecting_is_off_as_bokehjs_or_as_told() -> None:
    """Seconds before each attempt."""
    assert delays_of(False) == ()
    assert delays_of(True) == DELAYS == (0, 2, 4, 8, 16)
    assert delays_of([0.5, 1]) == (0.5, 1)


def test_an_id_that_is_given_is_left_alone() -> None:
    """It is the caller's."""
    assert session_id_or_new("default", KEY) == "default"
