"""The head of a request, read from bytes that come in any pieces."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aperture.gateway.front.head import Head, HeadParser, Rejected, parse_head
from aperture.protocol.naming import session_named

LIMIT = 2000

PLAIN = b"GET /sliders?bokeh-session-id=abc&x HTTP/1.1\r\nHost: h\r\nCookie: a=1\r\ncookie: b=2\r\n\r\nbody"

MESSAGES = [
    PLAIN,
    b"\r\nGET / HTTP/1.0\nHost:h\n\nrest",
    b"GET / HTTP/1.1\r\n\r\n",
    b"GET / HTTP/2.0\r\n\r\n",
    b"GET / HTTP/1.1\r\nA: b\r\n folded\r\n\r\n",
    b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
    b"GET  / HTTP/1.1\r\n\r\n",
    b"GET /" + b"x" * 3000,
    b"GET / HTTP/1.1\r\nCookie: " + b"y" * 3000 + b"\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 random bytes",
    b"\r\n\r\n\r\n\r\nGET / HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\nA: \x00\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
]


def outcome(pieces: list[bytes]) -> tuple[Head | None, int, bytes]:
    """The head without what follows it, the status of a rejection (or 0), and every byte that was kept."""
    parser = HeadParser(LIMIT)
    for position, piece in enumerate(pieces):
        try:
            head = parser.feed(piece)
        except Rejected as problem:
            return None, problem.status, b""
        if head is not None:
            rest = b"".join(pieces[position + 1 :])
            bare = Head(head.method, head.target, head.path, head.query, head.version, head.headers, b"")
            return bare, 0, head.raw + rest
    return None, 0, b""


def cut(message: bytes, places: list[int]) -> list[bytes]:
    """The message cut into pieces at these places."""
    bounds = [0, *sorted(place % (len(message) + 1) for place in places), len(message)]
    return [message[start:end] for start, end in itertools.pairwise(bounds)]


def test_a_head_is_read_with_its_parts() -> None:
    """Method, path, query and headers are separated, and every byte is kept for the worker."""
    head = HeadParser(LIMIT).feed(PLAIN)
    assert head is not None
    assert (head.method, head.path, head.query, head.version) == (
        "GET",
        "/sliders",
        "bokeh-session-id=abc&x",
        "HTTP/1.1",
    )
    assert head.headers.get("COOKIE") == "a=1,b=2"
    assert head.headers.get("absent") is None
    assert head.raw == PLAIN


@given(st.sampled_from(MESSAGES), st.lists(st.integers(0, 5000), max_size=8))
def test_however_the_bytes_are_cut_the_outcome_is_the_same(message: bytes, places: list[int]) -> None:
    """Network pieces carry no meaning."""
    assert outcome(cut(message, places)) == outcome([message])


@pytest.mark.parametrize("message", MESSAGES)
def test_byte_by_byte_gives_the_same_outcome(message: bytes) -> None:
    """The slowest sender is understood like the fastest."""
    assert outcome([message[i : i + 1] for i in range(len(message))]) == outcome([message])


@given(st.binary(max_size=4000), st.lists(st.integers(0, 5000), max_size=4))
def test_garbage_never_raises_anything_but_rejected(message: bytes, places: list[int]) -> None:
    """Whatever arrives, it is a head, a rejection, or the beginning of either."""
    assert outcome(cut(message, places)) == outcome([message])


@pytest.mark.parametrize(
    ("message", "status"),
    [
        (b"\x16\x03\x01", 400),
        (b"\x00" * 10, 400),
        (b"hello\r\n", 400),
        (b"GET / HTTP/1.1 extra\r\n\r\n", 400),
        (b"GET / FTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nA : b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nA: b\r\n\tfolded\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nA: b\rc\r\n\r\n", 400),
        (b"GET / HTTP/3.0\r\n\r\n", 505),
        (b"GET /" + b"a" * LIMIT, 414),
        (b"GET / HTTP/1.1\r\nA: " + b"a" * LIMIT, 431),
    ],
)
def test_what_is_no_acceptable_request_is_rejected_with_its_status(message: bytes, status: int) -> None:
    """Each kind of bad input has its own answer."""
    with pytest.raises(Rejected) as caught:
        HeadParser(LIMIT).feed(message)
    assert caught.value.status == status


def test_a_head_as_large_as_the_limit_passes_and_a_larger_one_does_not() -> None:
    """The limit counts the head up to its empty line, not what follows."""
    head = b"GET / HTTP/1.1\r\nA: " + b"a" * 100 + b"\r\n\r\n"
    assert HeadParser(len(head)).feed(head + b"b" * 10_000) is not None
    with pytest.raises(Rejected):
        HeadParser(len(head) - 1).feed(head)


def test_each_byte_is_searched_once_when_they_trickle() -> None:
    """A head of 64 KB sent in single bytes costs no more than a few passes over it."""
    parser = HeadParser(128 * 1024)
    looked_at = 0
    for byte in b"GET / HTTP/1.1\r\nCookie: " + b"c" * 65_536:
        before = parser._searched
        assert parser.feed(bytes([byte])) is None
        looked_at += parser._searched - max(0, before - 3)
    assert looked_at < 5 * 66_000


def test_the_absolute_form_of_a_target_loses_its_authority() -> None:
    """A proxy's form of the request names the same path."""
    head = parse_head(b"GET http://a.b:1/c/d?e=f HTTP/1.1\r\n\r\n", LIMIT)
    assert (head.path, head.query) == ("/c/d", "e=f")


def test_a_fragment_stays_where_it_is() -> None:
    """As in the worker's parser: what is routed as one session must not be answered as another."""
    head = parse_head(b"GET /a?bokeh-session-id=#b HTTP/1.1\r\n\r\n", LIMIT)
    assert session_named(head.query, head.headers) == "#b"


def test_an_incomplete_head_that_was_handed_back_is_rejected() -> None:
    """What a worker hands back has to be whole, as no more of it is read."""
    with pytest.raises(Rejected):
        parse_head(b"GET / HTTP/1.1\r\n", LIMIT)


def test_a_parser_knows_whether_anything_was_sent() -> None:
    """A silent peer is closed without an answer, a slow one gets one."""
    parser = HeadParser(LIMIT)
    assert not parser.started
    parser.feed(b"\r\n")
    assert parser.started
