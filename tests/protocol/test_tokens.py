"""Session ids and tokens: ours and Bokeh's read each other's, and bad ones are refused cheaply."""

from __future__ import annotations

import base64
import json
import string
import tracemalloc
import zlib
from typing import Any

import pytest
from bokeh.util.token import (
    check_session_id_signature,
    check_token_signature,
    generate_jwt_token,
    generate_session_id,
    get_session_id,
    get_token_payload,
)
from hypothesis import given
from hypothesis import strategies as st

from aperture.errors import ConfigurationError, TokenError
from aperture.protocol.tokens import MAX_INFLATED, MAX_TOKEN, Tokens, read_session_id

KEY = b"a key for tests"
NOW = 1_700_000_000.0

SIGNED = Tokens(KEY, True, 300)
UNSIGNED = Tokens(None, False, 300)
BOTH = pytest.mark.parametrize("tokens", [SIGNED, UNSIGNED], ids=["signed", "unsigned"])


def is_signed(tokens: Tokens) -> bool:
    return tokens is SIGNED


def base64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def token_of(fields: Any, tokens: Tokens = UNSIGNED) -> str:
    """A token with any content, rightly signed where tokens are."""
    base = base64url(fields if isinstance(fields, bytes) else json.dumps(fields).encode())
    return f"{base}.{tokens._signature(base)}" if is_signed(tokens) else base


def compressed(payload: bytes) -> dict[str, str]:
    return {"__bk__zlib_": base64url(zlib.compress(payload))}


@BOTH
def test_bokeh_accepts_what_we_issue(tokens: Tokens) -> None:
    """Bokeh's own functions find id, signature and expiry in our token."""
    session_id = tokens.new_session_id()
    token = tokens.issue(session_id, NOW)
    assert check_session_id_signature(session_id, KEY, is_signed(tokens))
    assert check_token_signature(token, KEY, is_signed(tokens))
    assert get_session_id(token) == session_id
    assert get_token_payload(token) == {"session_expiry": int(NOW) + 300}


@BOTH
def test_we_accept_what_bokeh_issues(tokens: Tokens) -> None:
    """A token made by Bokeh, with a compressed payload that holds bytes, verifies and gives the payload back."""
    payload = {"headers": {"Host": "x"}, "cookies": {}, "arguments": {"a": [b"\xff1", b""]}, "bytes": "kept"}
    session_id = generate_session_id(KEY, is_signed(tokens))
    token = generate_jwt_token(session_id, KEY, is_signed(tokens), payload, expiration=300)
    read = tokens.verify(token)
    assert read.session_id == session_id
    assert read.payload == payload
    assert read.expiry == get_token_payload(token)["session_expiry"]


@BOTH
def test_ids_are_long_random_and_alphanumeric(tokens: Tokens) -> None:
    """Ids have 44 symbols, more than can be guessed."""
    ids = {tokens.new_session_id() for _ in range(50)}
    assert len(ids) == 50
    assert all(len(found.split(".")[0]) == 44 and found.split(".")[0].isalnum() for found in ids)


def test_all_symbols_of_an_id_have_the_same_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the 64 numbers that six bits are, 62 stand for one symbol each and two for none."""
    draws = [bytes(range(start, start + 64)) for start in (192, 128, 62, 0)]
    monkeypatch.setattr("secrets.token_bytes", lambda size: draws.pop()[:size])
    bare = UNSIGNED.new_session_id()
    assert bare == (string.ascii_letters + string.digits)[:44]
    monkeypatch.setattr("secrets.token_bytes", lambda size: bytes([62, 63, 126, 255] * 15 + [0, 61, 64, 189]))
    assert UNSIGNED.new_session_id() == "a9a9" * 11


@BOTH
def test_any_id_that_bokeh_clients_choose_can_be_issued(tokens: Tokens) -> None:
    """Ids need not be ours: bokeh.client calls its session "default", and names may be in any script."""
    for name in ("default", "a.b.c", "størrelse 🎉", '"quoted"'):
        assert read_session_id(tokens.issue(name, NOW)) == name
        assert get_session_id(tokens.issue(name, NOW)) == name


def test_a_token_is_small() -> None:
    """A signed token stays far under the kilobyte that proxies let through."""
    assert len(SIGNED.issue(SIGNED.new_session_id())) < 400


def test_expiry_is_for_the_caller_to_decide() -> None:
    """An expired token still verifies, because its session may be alive; it only says that it expired."""
    token = SIGNED.verify(SIGNED.issue(SIGNED.new_session_id(), NOW))
    assert not token.expired(NOW + 299)
    assert token.expired(NOW + 300)


def test_a_token_without_expiry_is_expired() -> None:
    """What names no end was never good."""
    assert UNSIGNED.verify(token_of({"session_id": "x"})).expired(0.0)


def test_a_wrong_signature_of_the_token_is_refused() -> None:
    """One changed symbol, a missing signature or another key's signature is enough."""
    token = SIGNED.issue(SIGNED.new_session_id())
    base, signature = token.split(".")
    for bad in (base, f"{base}.", f"{base}.{signature[:-1]}", f"{base}x.{signature}", f"{base}.é", f"{token}.x"):
        with pytest.raises(TokenError):
            SIGNED.verify(bad)
    with pytest.raises(TokenError):
        Tokens(b"another key", True, 300).verify(token)


def test_a_wrong_signature_of_the_id_inside_is_refused() -> None:
    """A rightly signed token must not carry an id that was not signed."""
    for inner in ("unsigned", f"{'x' * 44}.{SIGNED._signature('y' * 44)}"):
        with pytest.raises(TokenError):
            SIGNED.verify(SIGNED.issue(inner))


def test_bare_ids_are_checked_by_their_own_signature() -> None:
    """An id from a query argument is believed for its signature, or always where nothing is signed."""
    assert SIGNED.check_session_id(SIGNED.new_session_id())
    assert not SIGNED.check_session_id("default")
    assert not SIGNED.check_session_id(SIGNED.new_session_id() + "x")
    assert not SIGNED.check_session_id("\ud800.\ud800")
    assert UNSIGNED.check_session_id("default")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff",
        b"[]",
        b"null",
        b"{}",
        b"[" * 100_000,
        {"session_id": ""},
        {"session_id": 5},
        {"session_id": "x", "session_expiry": "soon"},
        {"session_id": "x", "session_expiry": True},
        {"session_id": "x", "__bk__zlib_": 5},
        {"session_id": "x", "__bk__zlib_": "!!"},
        {"session_id": "x", "__bk__zlib_": base64url(b"not zlib")},
        {"session_id": "x", "__bk__zlib_": base64url(zlib.compress(b'{"a": 1}')[:-5])},
        {"session_id": "x", **compressed(b"[1]")},
        {"session_id": "x", **compressed(b"\xff")},
        {"session_id": "x", **compressed(b'{"a": {"bytes": 5}}')},
        {"session_id": "x", **compressed(b'{"a": {"bytes": "\xc3\xa9"}}')},
        {"session_id": "x", **compressed(b'{"bytes": "eA"}')},
        {"session_id": "x", **compressed(b'{"headers": {"a": "\\ud800"}, "b": NaN}')},
        {"session_id": "x", **compressed(b'{"a":' * 100_000)},
        {"session_id": "x", **compressed(b'{"a": ' + b"9" * 5000 + b"}")},
        {"session_id": "x", "headers": 5},
        {"session_id": "x", "headers": ["a"]},
        {"session_id": "x", "headers": {"a": 5}},
        {"session_id": "x", "headers": {"a": None}},
        {"session_id": "x", "cookies": "abc"},
        {"session_id": "x", "cookies": {"a": ["b"]}},
        {"session_id": "x", "arguments": [1]},
        {"session_id": "x", "arguments": {"a": 5}},
        {"session_id": "x", "arguments": {"a": "b"}},
        {"session_id": "x", "arguments": {"a": ["b"]}},
        {"session_id": "x", **compressed(b'{"headers": 5}')},
        {"session_id": "x", **compressed(b'{"headers": {"a": {"bytes": "eA"}}}')},
        {"session_id": "x", **compressed(b'{"arguments": {"a": {"bytes": "eA"}}}')},
        {"session_id": "x", **compressed(b'{"arguments": {"bytes": "eA"}}')},
        {"session_id": "x", **compressed(b'{"arguments": {"a": [{"bytes": "eA"}, 5]}}')},
    ],
    ids=str,
)
@BOTH
def test_malformed_content_is_refused(content: Any, tokens: Tokens) -> None:
    """Nothing but TokenError comes of a token that holds the wrong things, rightly signed or not."""
    with pytest.raises(TokenError):
        tokens.verify(token_of(content, tokens))


@BOTH
def test_a_request_inside_has_the_shape_of_one(tokens: Tokens) -> None:
    """Text for headers and cookies, lists of bytes for arguments; null is nothing."""
    carried = (
        b'{"headers": {"a": "b"}, "cookies": {}, "arguments": {"a": [{"bytes": "eA"}], "b": []}, "more": [1, {}], '
    )
    carried += b'"name": "caf\\udce9"}'
    read = tokens.verify(token_of({"session_id": tokens.new_session_id(), **compressed(carried)}, tokens))
    assert read.payload == {
        "headers": {"a": "b"},
        "cookies": {},
        "arguments": {"a": [b"x"], "b": []},
        "more": [1, {}],
        "name": "caf\udce9",
    }
    nothing = {"session_id": tokens.new_session_id(), "headers": None, "cookies": None, "arguments": None}
    assert tokens.verify(token_of(nothing, tokens)).payload == {}


def test_the_compressed_part_cannot_replace_the_session() -> None:
    """The session is the one outside, whose signature was checked."""
    read = UNSIGNED.verify(token_of({"session_id": "x", "session_expiry": 5, **compressed(b'{"session_id": "y"}')}))
    assert read.session_id == "x"
    assert read.payload == {}


def test_a_token_over_the_limit_is_refused_unread() -> None:
    """Neither reader looks into more than the limit."""
    token = token_of({"session_id": "x" * MAX_TOKEN})
    assert read_session_id(token) is None
    with pytest.raises(TokenError, match="too large"):
        UNSIGNED.verify(token)


def bomb(size: int) -> str:
    """A token whose compressed part inflates to this many bytes; deflate shrinks zeros a thousandfold."""
    return token_of({"session_id": "x", **compressed(b'{"a": "' + b"0" * size + b'"}')})


def test_a_token_that_inflates_beyond_the_limit_is_refused_cheaply() -> None:
    """Memory stays near the limit, however much the token would inflate to."""
    token = bomb(60_000_000)
    assert len(token) < MAX_TOKEN
    tracemalloc.start()
    try:
        with pytest.raises(TokenError, match="too large"):
            UNSIGNED.verify(token)
        assert tracemalloc.get_traced_memory()[1] < 4 * MAX_INFLATED
    finally:
        tracemalloc.stop()


def test_a_payload_of_ordinary_cookies_is_not_a_bomb() -> None:
    """Half the limit passes."""
    assert len(UNSIGNED.verify(bomb(MAX_INFLATED // 2)).payload["a"]) == MAX_INFLATED // 2


def test_a_wrong_signature_is_noticed_before_anything_is_inflated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Work for a stranger ends with one HMAC."""
    token = bomb(1000)
    monkeypatch.setattr(zlib, "decompressobj", None)
    with pytest.raises(TokenError, match="signature"):
        SIGNED.verify(f"{token}.{base64url(b'0' * 32)}")


def test_the_unchecked_reader_inflates_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Routing reads the id and no more."""
    monkeypatch.setattr(zlib, "decompressobj", None)
    assert read_session_id(bomb(1000)) == "x"


def test_signing_needs_a_key() -> None:
    """A deployment without a key learns it at its start."""
    with pytest.raises(ConfigurationError):
        Tokens(None, True, 300)


@given(st.text() | st.text(alphabet="abcXYZ019-_=.{}\"'", max_size=40))
def test_arbitrary_text_never_escapes(text: str) -> None:
    """Whatever is sent as a token, it is read, refused, or not understood."""
    assert isinstance(read_session_id(text), str | None)
    for tokens in (SIGNED, UNSIGNED):
        tokens.check_session_id(text)
        with pytest.raises(TokenError):
            tokens.verify(text)


@given(st.recursive(st.none() | st.integers() | st.text(), lambda inner: st.dictionaries(st.text(), inner)))
def test_arbitrary_json_never_escapes(content: Any) -> None:
    """Any JSON inside a token, and any as its compressed part, is read or refused."""
    for fields in (content, {"session_id": "x", **compressed(json.dumps(content).encode())}):
        for tokens in (SIGNED, UNSIGNED):
            try:
                assert tokens.verify(token_of(fields, tokens)).session_id
            except TokenError:
                pass


@given(st.text(min_size=1), st.floats(0, 4e9))
def test_what_is_issued_verifies(session_id: str, now: float) -> None:
    """Every id comes back out of its token."""
    try:
        session_id.encode()
    except UnicodeEncodeError:
        return
    read = UNSIGNED.verify(UNSIGNED.issue(session_id, now))
    assert (read.session_id, read.expiry, read.payload) == (session_id, int(now) + 300, {})
