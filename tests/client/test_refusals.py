"""From what servers do to the exceptions that say so."""

from __future__ import annotations

import ssl

import pytest
from tornado.iostream import StreamClosedError

from aperture.client.refusals import (
    closed,
    closed_before_ack,
    closed_by_us,
    given_up,
    hung_up,
    is_about_what_was_sent,
    refused,
    unreachable,
)
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


def test_trouble_with_tls_is_named() -> None:
    """The server runs; what is wrong is the certificate, or the scheme of the address."""
    untrusted = unreachable(ssl.SSLCertVerificationError(1, "self-signed certificate"), "wss://host/app/ws")
    assert type(untrusted) is ServerUnreachable
    assert "SSL_CERT_FILE" in str(untrusted)
    assert "http:" in str(unreachable(ssl.SSLError(1, "wrong version number"), "wss://host/app/ws"))
    for problem in (unreachable(ConnectionResetError(104, "reset"), URL), hung_up("closed", URL)):
        assert type(problem) is NotAServer
        assert "https:" in str(problem)
    assert "https:" not in str(hung_up("closed", "wss://host/app/ws"))


@pytest.mark.parametrize(("code", "about"), [(None, False), (1000, False), (1012, False), (1002, True), (1009, True)])
def test_what_a_connection_is_closed_for(code: int | None, about: bool) -> None:
    """For what was sent, or for reasons of the server's own."""
    assert is_about_what_was_sent(closed(code, "why")) is about
    assert not is_about_what_was_sent(closed_by_us(1009, "too big", 5))


def test_attempts_that_failed_end_in_a_server_that_is_gone() -> None:
    """With the last refusal as its cause; a lost connection says so itself."""
    refusal, lost = refused(503, "", None, URL), closed(1012, "why")
    assert given_up(refusal).__cause__ is refusal
    assert given_up(lost) is lost
