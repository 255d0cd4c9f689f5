"""From what servers do to the exceptions that say so."""

from __future__ import annotations

import pytest
from tornado.iostream import StreamClosedError

from aperture.client.refusals import closed, closed_before_ack, closed_by_us, refused, unreachable
from aperture.errors import (
    ClientError,
    MessageTooLarge,
    NoSuchApp,
    NotAServer,
    NotLoggedIn,
    OriginRefused,
    Refused,
    ServerGarbled,
    ServerGone,
    ServerUnreachable,
    TokenRefused,
)

URL = "ws://localhost:5006/app/ws"


@pytest.mark.parametrize(
    ("status", "reason", "kind"),
    [
        (404, "Not Found", NoSuchApp),
        (403, "Origin not allowed", OriginRefused),
        (403, "Not logged in", NotLoggedIn),
        (401, "Unauthorized", NotLoggedIn),
        (302, "Found", NotLoggedIn),
        (403, "Token is expired", TokenRefused),
        (403, "Invalid token or session ID", TokenRefused),
        (403, "Forbidden", Refused),
        (503, "Service Unavailable", ServerUnreachable),
        (200, "OK", NotAServer),
        (418, "", NotAServer),
    ],
)
def test_a_refused_handshake_is_named(status: int, reason: str, kind: type[ClientError]) -> None:
    """By its status and its reason; the status stays with it."""
    problem = refused(status, reason, "/login", URL)
    assert type(problem) is kind
    assert problem.status == status
    assert isinstance(problem, OSError)


@pytest.mark.parametrize(
    ("code", "kind"),
    [(None, TokenRefused), (1005, TokenRefused), (1006, TokenRefused), (1008, Refused), (1011, ServerGone)],
)
def test_a_connection_closed_at_once_is_a_refusal(code: int | None, kind: type[ClientError]) -> None:
    """Stock Bokeh says no more than that; the text says what it may mean."""
    assert type(closed_before_ack(code, None)) is kind


def test_the_text_for_stock_bokeh_names_the_three_causes() -> None:
    """A key, a login, and the app."""
    text = str(closed_before_ack(1005, None))
    assert all(word in text for word in ("expired", "BOKEH_SECRET_KEY", "logged in", "app"))


@pytest.mark.parametrize(
    ("code", "kind"), [(None, ServerGone), (1000, ServerGone), (1012, ServerGone), (1009, MessageTooLarge)]
)
def test_an_ended_connection_is_named(code: int | None, kind: type[ClientError]) -> None:
    """By its close code, if there was one."""
    assert type(closed(code, "why")) is kind


def test_what_this_side_closes_for_is_the_servers_fault() -> None:
    """A frame too large, a dead peer, and what is no websocket at all."""
    assert type(closed_by_us(1009, "message too big", 5)) is MessageTooLarge
    assert type(closed_by_us(None, "ping timed out", 5)) is ServerGone
    assert type(closed_by_us(None, "a frame that is none", 5)) is ServerGarbled


def test_no_connection_is_not_the_same_as_a_wrong_answer() -> None:
    """A closed port, and something that speaks otherwise."""
    assert type(unreachable(ConnectionRefusedError(111, "refused"), URL)) is ServerUnreachable
    assert type(unreachable(StreamClosedError(), URL)) is NotAServer
    assert type(unreachable(ValueError("malformed"), URL)) is NotAServer
