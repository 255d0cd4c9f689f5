"""Frames of clients are read as Tornado reads them, in whatever pieces they arrive."""

from __future__ import annotations

import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support.client_frames import (
    BINARY,
    CLOSE,
    COMPRESSED,
    FIRST_TEXT,
    LAST,
    LIMIT,
    MORE,
    PING,
    TEXT,
    assert_read_as_tornado_reads,
    frame,
    read,
)

from aperture.protocol.closing import MESSAGE_TOO_BIG, PROTOCOL_ERROR
from aperture.worker.ws.client_frames import ClientFrames, Unit

payloads = st.binary(max_size=300) | st.sampled_from([125, 126, 127, 65_535, 65_536, LIMIT - 1, LIMIT, LIMIT + 1])
"""Large ones by their size, so that a failure can be printed."""

firsts = st.sampled_from([TEXT, BINARY, CLOSE, PING, FIRST_TEXT, MORE, LAST]) | st.integers(0, 255)
masks = st.none() | st.binary(min_size=4, max_size=4)


@given(st.lists(st.tuples(firsts, payloads, masks), max_size=8), st.lists(st.integers(1, 400), max_size=30))
@example([(FIRST_TEXT, LIMIT - 1, None), (PING, b"x", None), (LAST, b"a", b"mask")], [3, 1, 1])
@example([(FIRST_TEXT, LIMIT, None), (LAST, b"a", None)], [])
@example([(FIRST_TEXT, LIMIT, None), (CLOSE, b"\0", None)], [])
def test_units_are_what_tornado_reads(sent: list[tuple[int, bytes | int, bytes | None]], cuts: list[int]) -> None:
    """The same units, and the same end, however the bytes are cut into pieces."""
    stream = b"".join(
        frame(first, payload if isinstance(payload, bytes) else bytes(payload), mask) for first, payload, mask in sent
    )
    pieces, at = [], 0
    for cut in cuts:
        pieces.append(stream[at : at + cut])
        at += cut
    pieces.append(stream[at:])
    assert_read_as_tornado_reads([piece for piece in pieces if piece])


def test_a_message_of_many_frames_is_one_unit() -> None:
    """With control frames between them."""
    stream = frame(FIRST_TEXT, b"a") + frame(PING, b"p") + frame(MORE, b"b") + frame(LAST, b"c") + frame(TEXT, b"d")
    units = [Unit(9, b"p", False), Unit(1, b"abc", False), Unit(1, b"d", False)]
    assert read([stream]) == (units, None)
    assert read([bytes([byte]) for byte in stream]) == (units, None)


def test_compression_is_a_message_s() -> None:
    """Its first frame says so, also where control frames come between."""
    stream = frame(FIRST_TEXT | COMPRESSED, b"a") + frame(PING, b"p") + frame(LAST, b"b") + frame(TEXT, b"c")
    units = [Unit(9, b"p", False), Unit(1, b"ab", True), Unit(1, b"c", False)]
    assert read([stream], compresses=True) == (units, None)


@pytest.mark.parametrize("first", [PING | COMPRESSED, LAST | COMPRESSED, TEXT | 0x20, TEXT | 0x10])
def test_what_was_not_agreed_on_is_refused(first: int) -> None:
    """Compressed control frames and continuations, and other extensions."""
    assert read([frame(FIRST_TEXT, b"a"), frame(first, b"")], compresses=True) == ([], PROTOCOL_ERROR)
    assert read([frame(TEXT | COMPRESSED, b"a")]) == ([], PROTOCOL_ERROR)


def test_too_large_a_message_is_refused_by_its_head() -> None:
    """Nothing of it needs to have arrived, and its frames count together."""
    assert read([struct.pack("!BBQ", TEXT, 255, LIMIT + 1)]) == ([], MESSAGE_TOO_BIG)
    assert read([frame(FIRST_TEXT, bytes(LIMIT)), struct.pack("!BB", LAST, 129)]) == ([], MESSAGE_TOO_BIG)


def test_nothing_is_kept_between_whole_frames() -> None:
    """What an idle connection holds is what it costs."""
    frames = ClientFrames(LIMIT, compresses=False)
    whole = frame(TEXT, b"abc")
    assert len(list(frames.feed(whole + whole[:3]))) == 1
    assert frames._unread is not None
    assert len(list(frames.feed(whole[3:]))) == 1
    assert frames._unread is None
