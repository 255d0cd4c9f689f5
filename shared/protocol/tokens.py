"""Session ids and session tokens, as `bokeh.util.token` makes and reads them, kept small and read with care.

A token is `base64url(json)`, followed by `.` and a signature when sessions are signed. Bokeh puts the request's
headers, cookies and arguments into it, compressed; a websocket carries the token in a header, so with large cookies it
no longer fits through a proxy. The tokens made here hold the session id and its expiry and nothing else. Those that
Bokeh made are read as well, and nothing in a token is inflated or believed before its signature is found right.
"""

from __future__ import annotations

import binascii
import hashlib
import hmac
import json
import math
import secrets
import string
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import orjson

from aperture.errors import ConfigurationError, TokenError
from aperture.protocol.json_text import read_json

__all__ = ["MAX_INFLATED", "MAX_TOKEN", "Token", "Tokens", "read_expiry", "read_session_id"]

MAX_TOKEN = 128 * 1024
"""Characters. Bokeh's own tokens with 64 KB of cookies stay below it; a request head is bounded the same way."""

MAX_INFLATED = 1024 * 1024
"""Bytes that the compressed part of a token may inflate to; a head of 128 KB cannot honestly hold more."""

_COMPRESSED = "__bk__zlib_"
"""The key of the compressed part in Bokeh's tokens."""

_ID_LENGTH = 44
_ID_ALPHABET = string.ascii_letters + string.digits
"""44 of 62 symbols are 261 bits: more than can be guessed."""

_DRAWN_AT_ONCE = 64
"""Bytes; of these, 62 are of use on average, and the 44 that are needed nearly always."""

_URL_SAFE = bytes.maketrans(b"-_", b"+/")


@dataclass(frozen=True, slots=True)
class Token:
    """A token whose signatures were found right.

    Args:
        session_id: the session it opens.
        expiry: seconds since the epoch, or None when it names none.
        payload: what Bokeh, or an app that makes its own tokens, put beside those.
    """

    session_id: str
    expiry: float | None
    payload: dict[str, Any] = field(default_factory=dict)

    def expired(self, now: float) -> bool:
        """Whether the time is up; a token without expiry never was good."""
        return self.expiry is None or now >= self.expiry


class Tokens:
    """Makes and checks the ids and tokens of one deployment. Stateless; serves every process and thread.

    Args:
        secret_key: shared by everyone who makes or checks them; needed when `signed`.
        signed: whether ids and tokens carry signatures.
        expiration: seconds for which a new token opens a websocket.

    Raises:
        ConfigurationError: signed without a key.
    """

    def __init__(self, secret_key: bytes | None, signed: bool, expiration: int) -> None:
        if signed and secret_key is None:
            raise ConfigurationError("signed session ids need a secret key (BOKEH_SECRET_KEY)")
        self._key = secret_key or b""
        self._signed = signed
        self._expiration = expiration

    def new_session_id(self) -> str:
        """An id that cannot be guessed, with its signature when ids are signed."""
        bare = _random_id()
        return f"{bare}.{self._signature(bare)}" if self._signed else bare

    def issue(self, session_id: str, now: float | None = None) -> str:
        """A token that opens this session until `now` (seconds since the epoch) plus the expiration."""
        expiry = int(time.time() if now is None else now) + self._expiration
        base = _encode(json.dumps({"session_id": session_id, "session_expiry": expiry}).encode())
        return f"{base}.{self._signature(base)}" if self._signed else base

    def check_session_id(self, session_id: str) -> bool:
        """Whether the id's own signature is right; any id will do where ids are not signed."""
        if not self._signed:
            return True
        bare, dot, signature = session_id.partition(".")
        return bool(dot) and self._matches(bare, signature)

    def verify(self, token: str) -> Token:
        """The content of a token, once its signature and that of the id inside are found right.

        Expiry is not checked here: a page may come back to a session that is still alive.

        Raises:
            TokenError: malformed, too large, or wrongly signed.
        """
        if len(token) > MAX_TOKEN:
            raise TokenError("the token is too large")
        base, dot, signature = token.partition(".")
        if self._signed and not (dot and self._matches(base, signature)):
            raise TokenError("the token's signature is wrong")
        fields = _read_fields(base)
        session_id = _session_id(fields)
        if session_id is None:
            raise TokenError("the token names no session")
        if not self.check_session_id(session_id):
            raise TokenError("the signature of the token's session id is wrong")
        return _token(session_id, fields)

    def _matches(self, signed: str, signature: str) -> bool:
        expected = self._signature(signed).encode()
        return hmac.compare_digest(expected, signature.encode("utf-8", "surrogatepass"))

    def _signature(self, text: str) -> str:
        return _encode(hmac.digest(self._key, text.encode("utf-8", "surrogatepass"), hashlib.sha256))


def read_session_id(token: str) -> str | None:
    """The session id a token claims, without a key: enough to route by, not to be believed. Never raises."""
    if len(token) > MAX_TOKEN:
        return None
    try:
        return _session_id(_read_fields(token.partition(".")[0]))
    except TokenError:
        return None


def read_expiry(token: str) -> float | None:
    """When a token says that it expires, in seconds since the epoch, without a key. Never raises."""
    try:
        expiry = _read_fields(token.partition(".")[0]).get("session_expiry") if len(token) <= MAX_TOKEN else None
    except TokenError:
        return None
    return float(expiry) if isinstance(expiry, int | float) and math.isfinite(expiry) else None


def _session_id(fields: dict[str, Any]) -> str | None:
    found = fields.get("session_id")
    return found if isinstance(found, str) and found else None


def _token(session_id: str, fields: dict[str, Any]) -> Token:
    compressed = fields.pop(_COMPRESSED, None)
    if compressed is not None:
        fields.update(_inflate(compressed))
    fields.pop("session_id", None)
    expiry = fields.pop("session_expiry", None)
    if expiry is not None and (type(expiry) not in (int, float) or not math.isfinite(expiry)):
        raise TokenError("the token's expiry is not a time")
    _check_request(fields)
    return Token(session_id, expiry, fields)


def _check_request(fields: dict[str, Any]) -> None:
    """What apps are shown as their request must have a request's shape; None is how Bokeh says that there is none."""
    for name, is_shape in _SHAPES.items():
        carried = fields.get(name)
        if carried is None:
            fields.pop(name, None)
        elif not (isinstance(carried, dict) and all(map(is_shape, carried.values()))):
            raise TokenError(f"the token's {name} are malformed")


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_values(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, bytes) for item in value)


_SHAPES: dict[str, Callable[[object], bool]] = {"headers": _is_text, "cookies": _is_text, "arguments": _is_values}
"""What each value must be; names are text, as in all JSON."""


def _read_fields(base: str) -> dict[str, Any]:
    try:
        fields = orjson.loads(_decode(base))
    except ValueError:
        raise TokenError("the token is malformed") from None
    if not isinstance(fields, dict):
        raise TokenError("the token is malformed")
    return fields


def _inflate(compressed: Any) -> dict[str, Any]:
    if not isinstance(compressed, str):
        raise TokenError("the token's payload is malformed")
    try:
        inflater = zlib.decompressobj()
        # One byte more than allowed is asked for: enough to know, and all that a bomb can cost.
        text = inflater.decompress(_decode(compressed), MAX_INFLATED + 1)
        if len(text) > MAX_INFLATED:
            raise TokenError("the token's payload is too large")
        read_json(text)  # stricter than the standard library, which alone reads bytes out of it
        payload = json.loads(text, object_hook=_read_bytes) if inflater.eof else None
    except (ValueError, zlib.error, RecursionError):
        raise TokenError("the token's payload is malformed") from None
    if not isinstance(payload, dict):
        raise TokenError("the token's payload is malformed")
    return payload


def _read_bytes(found: dict[str, Any]) -> Any:
    if found.keys() != {"bytes"}:
        return found
    encoded = found["bytes"]
    if not isinstance(encoded, str):
        raise ValueError("bytes are not base64")
    return _decode(encoded)


def _random_id() -> str:
    """As `secrets.choice` would choose each symbol, which asks the kernel for each one."""
    chosen = ""
    while len(chosen) < _ID_LENGTH:
        # Six bits are 64 numbers, and there are 62 symbols: the last two are passed over, so each has the same chance.
        drawn = (byte & 63 for byte in secrets.token_bytes(_DRAWN_AT_ONCE))
        chosen += "".join([_ID_ALPHABET[number] for number in drawn if number < len(_ID_ALPHABET)])
    return chosen[:_ID_LENGTH]


def _encode(raw: bytes) -> str:
    return binascii.b2a_base64(raw, newline=False).translate(bytes.maketrans(b"+/", b"-_"), b"=").decode()


def _decode(text: str) -> bytes:
    """Strict base64 of the URL alphabet, with or without padding; a ValueError for anything else."""
    packed = text.encode("ascii").rstrip(b"=").translate(_URL_SAFE)
    return binascii.a2b_base64(packed + b"=" * (-len(packed) % 4), strict_mode=True)
