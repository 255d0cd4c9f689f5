"""Compressed messages (RFC 7692): what ours inflates, beside zlib itself; no more of it than a message may have."""

from __future__ import annotations

import zlib
from types import SimpleNamespace
from typing import Any, cast

from fuzz.target import Target
from support.client_frames import BINARY, COMPRESSED, FIRST_TEXT, LAST, MORE, PING, TEXT, frame
from tornado.websocket import _PerMessageDeflateDecompressor, _WebSocketParams

from aperture.errors import ProtocolError
from aperture.protocol.closing import MESSAGE_TOO_BIG, PROTOCOL_ERROR
from aperture.worker.ws.client_frames import ClientFrames
from aperture.worker.ws.connection import ServerProtocol

LIMIT = 5_000
TAIL = b"\x00\x00\xff\xff"
"""Which a sender leaves out."""


def _deflated(*texts: bytes) -> list[bytes]:
    """With what was compressed before in view, as browsers do it."""
    compressor = zlib.compressobj(wbits=-15)
    return [(compressor.compress(text) + compressor.flush(zlib.Z_SYNC_FLUSH))[: -len(TAIL)] for text in texts]


_HEADER = b'{"msgid":"1","msgtype":"PATCH-DOC"}'
_ONE, _TWO, _THREE = _deflated(_HEADER, b"{}", b'{"events":[]}' * 9)
_LARGE, _HUGE = _deflated(b"a" * LIMIT, b"b" * (LIMIT * 1000))

SEEDS = [
    frame(TEXT | COMPRESSED, _ONE) + frame(TEXT | COMPRESSED, _TWO) + frame(TEXT | COMPRESSED, _THREE),
    frame(FIRST_TEXT | COMPRESSED, _ONE[:9]) + frame(PING, b"") + frame(MORE, _ONE[9:20]) + frame(LAST, _ONE[20:]),
    frame(TEXT, b"{}") + frame(TEXT | COMPRESSED, _ONE) + frame(BINARY, b"plain"),
    frame(BINARY | COMPRESSED, _LARGE),
    frame(BINARY | COMPRESSED, _LARGE) + frame(BINARY | COMPRESSED, _HUGE),
    frame(TEXT | COMPRESSED, b"\x00"),
    frame(TEXT | COMPRESSED, zlib.compress(b"{}" * 30, wbits=-15)),
]

WORDS = [bytes([first]) for first in (TEXT | COMPRESSED, BINARY | COMPRESSED, FIRST_TEXT | COMPRESSED, MORE, LAST)]
WORDS += [TAIL, _ONE, _TWO, _HUGE[:60], b"\x00\x00\x00\xff\xff", b"\x03\x00", b"\x01\x05\x00\xfa\xff"]


def check(stream: bytes) -> bool:
    """The same texts in the same order, up to the same fault; a text that is too large is never made whole."""
    connection, peer, accepted = _connection(), zlib.decompressobj(wbits=-15), False
    try:
        for opcode, payload, compressed in ClientFrames(LIMIT, compresses=True).feed(stream):
            if not compressed:
                continue
            theirs = _inflated(peer, payload)
            try:
                ours = connection._inflate(opcode, payload)
            except ProtocolError as problem:
                assert problem.close_code in (MESSAGE_TOO_BIG, PROTOCOL_ERROR)
                assert theirs is None or len(theirs) > LIMIT or problem.close_code == MESSAGE_TOO_BIG
                return accepted
            assert ours == theirs
            assert len(ours) <= LIMIT
            accepted = True
    except ProtocolError:
        return accepted
    return accepted


def _inflated(peer: Any, payload: bytes) -> bytes | None:
    try:
        text: bytes = peer.decompress(payload + TAIL, LIMIT + 1)
    except zlib.error:
        return None
    return text


def _connection() -> ServerProtocol:
    params = _WebSocketParams(max_message_size=LIMIT, compression_options={})
    nothing = cast("Any", lambda *_: None)
    connection = ServerProtocol(cast("Any", SimpleNamespace()), params, nothing, nothing, nothing)
    # As Tornado makes it, and without the one for the other direction, which takes most of the time.
    options = connection._get_compressor_options("client", {}, {})
    connection._decompressor = _PerMessageDeflateDecompressor(max_message_size=LIMIT, **options)
    return connection


DEFLATED = Target("deflated", SEEDS, check, WORDS)
