"""The options of a client's session, with the default timeouts and limits."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from aperture.client.urls import with_query
from aperture.protocol.tokens import Tokens

__all__ = [
    "CONNECT_TIMEOUT",
    "DELAYS",
    "MAX_MESSAGE_SIZE",
    "TIMEOUT",
    "ClientOptions",
    "delays_of",
    "key_bytes",
    "session_id_or_new",
]

MAX_MESSAGE_SIZE = 20 * 1024 * 1024
"""Bytes of one message; the default of Bokeh's client and of its server."""

CONNECT_TIMEOUT = 10.0
"""Seconds for the connection and its handshake, which no app's code delays."""

TIMEOUT = 30.0
"""Seconds for an answer. The first one waits for the app's code, which makes the session."""

DELAYS = (0.0, 2.0, 4.0, 8.0, 16.0)
"""Seconds before each attempt to reconnect: those of BokehJS, so that the load on a draining server is alike."""

TOKEN_SECONDS = 300
"""Seconds for which a token is valid. Each attempt has a fresh one, so this only has to cover wrong clocks."""


@dataclass(frozen=True, slots=True)
class ClientOptions:
    """The options of one session.

    Args:
        websocket_url: of the app's websocket, without arguments of ours.
        session_id: of the session to open or to make.
        arguments: for the app's code, if the session is new.
        headers: sent with the handshake.
        cookies: sent with the handshake, by name.
        secret_key: signs the tokens; None reads the environment for each token.
        max_message_size: bytes of one message, in either direction.
        connect_timeout: seconds until the websocket is open.
        timeout: seconds for any other answer.
        delays: seconds before each attempt to reconnect; if empty, a lost connection ends the session.
    """

    websocket_url: str
    session_id: str
    arguments: Mapping[str, str | Iterable[str]] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    cookies: Mapping[str, str] = field(default_factory=dict)
    secret_key: bytes | None = None
    max_message_size: int = MAX_MESSAGE_SIZE
    connect_timeout: float = CONNECT_TIMEOUT
    timeout: float = TIMEOUT
    delays: tuple[float, ...] = ()

    @property
    def request_url(self) -> str:
        return with_query(self.websocket_url, self.arguments)

    def request_headers(self) -> dict[str, str]:
        """The headers, with the cookies among them."""
        headers = dict(self.headers)
        if self.cookies:
            given = [f"{name}={value}" for name, value in self.cookies.items()]
            names = [name for name in headers if name.lower() == "cookie"]
            headers["Cookie"] = "; ".join([*(headers.pop(name) for name in names), *given])
        return headers

    def token(self) -> str:
        """A fresh token for this session."""
        return _tokens(self.secret_key).issue(self.session_id)


def delays_of(reconnect: bool | Iterable[float]) -> tuple[float, ...]:
    """The attempts that `reconnect=` asks for: those of BokehJS, none, or these."""
    if isinstance(reconnect, bool):
        return DELAYS if reconnect else ()
    return tuple(float(delay) for delay in reconnect)


def session_id_or_new(session_id: str | None, secret_key: bytes | None) -> str:
    """The id, or a new one that cannot be guessed, signed if there is a key."""
    return session_id if session_id is not None else _tokens(secret_key).new_session_id()


def _tokens(secret_key: bytes | None) -> Tokens:
    if secret_key is None:
        from_environment = os.environ.get("BOKEH_SECRET_KEY")
        secret_key = from_environment.encode() if from_environment else None
    return Tokens(secret_key, secret_key is not None, TOKEN_SECONDS)


def key_bytes(secret_key: str | bytes | None) -> bytes | None:
    """The key as bytes."""
    return secret_key.encode() if isinstance(secret_key, str) else secret_key
