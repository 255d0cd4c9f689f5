"""Session tokens: read by ours and by `bokeh.util.token`, signed and not."""

from __future__ import annotations

import zlib
from base64 import urlsafe_b64encode

from bokeh.core.types import ID
from bokeh.util import token as stock
from fuzz.target import Target

from aperture.errors import TokenError
from aperture.protocol.tokens import Token, Tokens, read_expiry, read_session_id

KEY = b"a key of the fuzzer's own"

OPEN, SIGNED = Tokens(None, False, 300), Tokens(KEY, True, 300)

SIGNED_ID = SIGNED.new_session_id()

PAYLOAD = {"headers": {"Host": "h"}, "cookies": {"a": "b"}, "arguments": {"x": [b"1"]}}


def _wrapped(text: bytes) -> bytes:
    return urlsafe_b64encode(text).rstrip(b"=")


SEEDS = [
    OPEN.issue("plain", now=2_000_000_000).encode(),
    SIGNED.issue(SIGNED_ID, now=2_000_000_000).encode(),
    stock.generate_jwt_token(ID("plain"), signed=False, extra_payload=PAYLOAD, expiration=10**9).encode(),
    stock.generate_jwt_token(
        ID(SIGNED_ID), secret_key=KEY, signed=True, extra_payload=PAYLOAD, expiration=10**9
    ).encode(),
    _wrapped(b'{"session_id":"a","session_expiry":1e999}'),
    _wrapped(b'{"session_id":"a","__bk__zlib_":"' + urlsafe_b64encode(zlib.compress(b"{}")) + b'"}'),
]

WORDS = [b".", b"..", b"=", b"==", b"-", b"_", b"+", b"/", b"e30", _wrapped(b'{"session_id":1}'), SIGNED_ID.encode()]


def check(drawn: bytes) -> bool:
    """Ours accepts: then stock names the same session; and what stock finds signed wrongly, ours does not accept."""
    text = drawn.decode("latin-1")
    read_expiry(text)
    open_token, signed_token = _verified(OPEN, text), _verified(SIGNED, text)
    for accepted in (open_token, signed_token):
        if accepted is not None:
            assert accepted.session_id == read_session_id(text) == _named_by_stock(text)
    if signed_token is not None:
        assert stock.check_token_signature(text, secret_key=KEY, signed=True)
    return open_token is not None


def _verified(tokens: Tokens, text: str) -> Token | None:
    try:
        return tokens.verify(text)
    except TokenError:
        return None


def _named_by_stock(text: str) -> str:
    return stock.get_session_id(text)


TOKENS = Target("tokens", SEEDS, check, WORDS)
