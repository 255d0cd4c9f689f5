"""Turns statuses, close codes and failures of a connection into errors that say what is wrong.

Aperture refuses before the handshake, with a status and a reason. Stock Bokeh does so for a wrong path and a wrong
origin only, and otherwise closes the connection that it has just accepted, without a reason.
"""

from __future__ import annotations

from aperture.errors import (
    CannotConnect,
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
from aperture.protocol.closing import (
    ABNORMAL,
    GOING_AWAY,
    INTERNAL_ERROR,
    MESSAGE_TOO_BIG,
    NO_CODE,
    NO_TEXT,
    NORMAL_CLOSURE,
    POLICY_VIOLATION,
    PROTOCOL_ERROR,
    SERVICE_RESTART,
    TRY_AGAIN_LATER,
    UNSUPPORTED_DATA,
)

__all__ = [
    "closed",
    "closed_before_ack",
    "closed_by_us",
    "given_up",
    "is_about_what_was_sent",
    "refused",
    "unreachable",
]

_PROTOCOL_ERRORS = (PROTOCOL_ERROR, UNSUPPORTED_DATA, NO_TEXT)
_ABOUT_WHAT_WAS_SENT = (*_PROTOCOL_ERRORS, MESSAGE_TOO_BIG)
_REDIRECTS = (301, 302, 303, 307, 308)


def refused(status: int, reason: str, location: str | None, url: str) -> CannotConnect:
    """The error for a handshake that was answered with another status than 101."""
    said = f"status {status}, {reason!r}" if reason else f"status {status}"
    lowered = reason.lower()
    if status == 404:
        return NoSuchApp(f"the server has no app at {url}: check the path of the address", status)
    if status in _REDIRECTS:
        text = f"the server redirects {url} to {location}: the address is another one, or a login is needed first"
        return NotLoggedIn(text, status)
    if status == 401 or "not logged in" in lowered:
        return NotLoggedIn(f"the server requires a login, by headers or cookies: {said}", status)
    if status == 403 and "origin" in lowered:
        return OriginRefused(f"the server accepts no websocket from the origin in the headers: {said}", status)
    if status in (400, 403) and ("token" in lowered or "session id" in lowered or "expired" in lowered):
        text = f"{said}. Has the server another secret key (secret_key=, BOKEH_SECRET_KEY), or another clock?"
        return TokenRefused(text, status)
    if status == 403:
        text = f"{said}. With bokeh serve that is the origin in the headers, elsewhere perhaps a proxy"
        return Refused(text, status)
    if status >= 500:
        return ServerUnreachable(f"the server at {url} cannot serve now: {said}", status)
    return NotAServer(f"no websocket at {url}: {said}", status)


def unreachable(problem: BaseException, url: str) -> CannotConnect:
    """The error for a connection that failed, or ended before it became a websocket."""
    detail = str(problem) or type(problem).__name__
    kinds = {kind.__name__ for kind in type(problem).__mro__}  # `ssl` does I/O, and is not imported here
    if "SSLCertVerificationError" in kinds:
        return ServerUnreachable(
            f"the certificate of the server at {url} is not trusted here ({detail}). SSL_CERT_FILE names a file"
            " with the authorities that are; it is read when the program starts"
        )
    if "SSLError" in kinds:
        return NotAServer(f"what answers at {url} does not speak TLS as it should ({detail}); is its address http:?")
    if isinstance(problem, ConnectionResetError):
        return hung_up(detail, url)
    if isinstance(problem, OSError) and "StreamClosedError" not in kinds:
        return ServerUnreachable(f"no answer from {url} ({detail}); is the server running?")
    return NotAServer(f"what answers at {url} is not a websocket server ({detail})")


def hung_up(detail: str, url: str) -> CannotConnect:
    """The error for a connection that was closed instead of an answer to the handshake."""
    return NotAServer(f"what answers at {url} closed the connection ({detail}){_is_it_https(url)}")


def _is_it_https(url: str) -> str:
    return "; is its address https:?" if url.startswith("ws:") else ""


def closed_before_ack(code: int | None, reason: str | None) -> ClientError:
    """The error for a connection that was accepted and closed before the server's first message."""
    text = reason or "without a reason"
    if code == POLICY_VIOLATION:
        return Refused(f"the server closed the connection: {text}")
    if code in (INTERNAL_ERROR, SERVICE_RESTART, TRY_AGAIN_LATER, GOING_AWAY):
        return closed(code, reason)
    return TokenRefused(
        f"the server accepted the connection and closed it at once (code {code}, {text}). bokeh serve does so when the"
        " token is expired or wrongly signed (secret_key=, BOKEH_SECRET_KEY), when no user is logged in, and when the"
        " app fails to make a session"
    )


def closed(code: int | None, reason: str | None) -> ClientError:
    """The error for a connection that the other side closed, or that was lost."""
    text = f": {reason}" if reason else ""
    if code is None or code in (NO_CODE, ABNORMAL):
        return ServerGone(f"the connection to the server was lost{text}", code)
    if code == MESSAGE_TOO_BIG:
        return MessageTooLarge(f"a message was larger than the server accepts{text}", code)
    if code in _PROTOCOL_ERRORS:
        return ServerGone(f"the server could not read a message (code {code}{text})", code)
    if code == NORMAL_CLOSURE:
        return ServerGone(f"the server has closed the session{text}", code)
    return ServerGone(f"the server closed the connection (code {code}{text})", code)


def is_about_what_was_sent(problem: ClientError) -> bool:
    """Whether the server closed the connection because of a message of ours, which must then not be sent again."""
    return isinstance(problem, MessageTooLarge | ServerGone) and problem.close_code in (
        *_PROTOCOL_ERRORS,
        MESSAGE_TOO_BIG,
    )


def given_up(problem: ClientError) -> ServerGone:
    """The error for a session after all attempts to reconnect have failed.

    Args:
        problem: of the last attempt.
    """
    if isinstance(problem, ServerGone):
        return problem
    gone = ServerGone(f"the connection to the server was lost, and no attempt to reconnect succeeded: {problem}")
    gone.__cause__ = problem
    return gone


def closed_by_us(code: int | None, reason: str | None, max_message_size: int) -> ClientError:
    """The error for a connection that this side's websocket closed because of a received frame."""
    if code == MESSAGE_TOO_BIG:
        return MessageTooLarge(f"the server sent a message larger than {max_message_size} bytes (max_message_size)")
    if reason is not None and "ping" in reason:
        return ServerGone("the server no longer answers pings")
    return ServerGarbled(f"the server broke the websocket protocol ({reason or code})")
