"""Frames of clients, compressed ones too: ours beside Tornado's reader."""

from __future__ import annotations

import zlib

from fuzz.target import Target
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


def _deflated(text: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-15)
    return (compressor.compress(text) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]


SEEDS = [
    frame(TEXT, b'{"msgid":"1"}') + frame(TEXT, b"{}") + frame(TEXT, b"{}"),
    frame(FIRST_TEXT, b"a") + frame(PING, b"p") + frame(MORE, b"b") + frame(LAST, b"c"),
    frame(BINARY, bytes(300)) + frame(CLOSE, b"\x03\xe8bye"),
    frame(TEXT | COMPRESSED, _deflated(b"{}" * 40)) + frame(PING, b""),
    frame(TEXT, b"unmasked", None),
    frame(BINARY, bytes(126)),
]

WORDS = [bytes([first]) for first in (TEXT, BINARY, CLOSE, PING, FIRST_TEXT, MORE, LAST, TEXT | COMPRESSED, 0x8A)]
WORDS += [b"\x80", b"\xfe", b"\xff", b"\xfe\x00\x7e", b"\xff" + b"\xff" * 8, b"\xff" + b"\0" * 7 + b"\x01", b"\x00mask"]


def check(stream: bytes) -> bool:
    """The same units as Tornado's, whole or in pieces; and no more than the protocol allows where it compresses."""
    units = assert_read_as_tornado_reads([stream])
    pieces = [stream[at : at + 7] for at in range(0, len(stream), 7)]
    assert read(pieces) == read([stream])
    assert read(pieces, compresses=True) == read([stream], compresses=True)
    assert all(len(unit.payload) <= LIMIT for unit in units)
    return bool(units)


FRAMES = Target("frames", SEEDS, check, WORDS)
