"""Frames of a client, masked or not, and Tornado's own reader of them."""

from __future__ import annotations

import contextlib
import struct
from types import SimpleNamespace
from typing import Any, cast

from tornado.iostream import StreamClosedError
from tornado.util import _websocket_mask
from tornado.websocket import WebSocketProtocol13, _WebSocketParams

from aperture.errors import ProtocolError
from aperture.protocol.closing import MESSAGE_TOO_BIG, PROTOCOL_ERROR
from aperture.worker.ws.client_frames import ClientFrames, Unit

__all__ = [
    "BINARY",
    "CLOSE",
    "COMPRESSED",
    "FIRST_TEXT",
    "LAST",
    "LIMIT",
    "MORE",
    "PING",
    "TEXT",
    "assert_read_as_tornado_reads",
    "frame",
    "read",
]

LIMIT = 70_000

TEXT, BINARY, CLOSE, PING = 0x81, 0x82, 0x88, 0x89
FIRST_TEXT, MORE, LAST = 0x01, 0x00, 0x80
COMPRESSED, CONTROL = 0x40, 0x08


def frame(first: int, payload: bytes, mask: bytes | None = b"mask") -> bytes:
    size, masked = len(payload), 0 if mask is None else 0x80
    if size < 126:
        head = struct.pack("!BB", first, masked | size)
    elif size < 1 << 16:
        head = struct.pack("!BBH", first, masked | 126, size)
    else:
        head = struct.pack("!BBQ", first, masked | 127, size)
    return head + (payload if mask is None else mask + _websocket_mask(mask, payload))


def read(pieces: list[bytes], *, compresses: bool = False) -> tuple[list[Unit], int | None]:
    """The units, and the code of the error that they end with."""
    frames = ClientFrames(LIMIT, compresses=compresses)
    units: list[Unit] = []
    try:
        for piece in pieces:
            units += frames.feed(piece)
    except ProtocolError as problem:
        return units, problem.close_code
    return units, None


class _Tornados(WebSocketProtocol13):
    """Notes what it would handle, and whether it gives up."""

    def __init__(self, stream: bytes) -> None:
        params = _WebSocketParams(max_message_size=LIMIT)
        super().__init__(cast("Any", SimpleNamespace(on_ws_connection_close=lambda *_: None)), False, params)
        self.units: list[Unit] = []
        self.code: int | None = None
        self.miscounted = False
        """Whether it has refused a control frame for the size of the message around it, of which it is no part."""
        self._rest = stream

    async def _receive_frame(self) -> None:
        self._first = self._rest[:1]
        await super()._receive_frame()

    async def _read_bytes(self, n: int) -> bytes:
        if len(self._rest) < n:
            self.client_terminated = True
            raise StreamClosedError
        taken, self._rest = self._rest[:n], self._rest[n:]
        return taken

    def _handle_message(self, opcode: Any, data: bytes) -> None:
        self.units.append(Unit(opcode, data, False))

    def _abort(self) -> None:
        if not self.client_terminated:
            self.code = self.code or PROTOCOL_ERROR
        self.client_terminated = True

    def close(self, code: int | None = None, reason: str | None = None) -> None:
        self.code = code
        self.miscounted = code == MESSAGE_TOO_BIG and bool(self._first[0] & CONTROL)


def _read_by_tornado(stream: bytes) -> _Tornados:
    protocol = _Tornados(stream)
    reading = protocol._receive_frame_loop()
    with contextlib.suppress(StopIteration):
        while True:  # it waits for nothing, but gives others a turn now and then
            reading.send(None)
    return protocol


def assert_read_as_tornado_reads(pieces: list[bytes]) -> list[Unit]:
    """The same units, and the same end. Returns the units."""
    units, code = read(pieces)
    tornados = _read_by_tornado(b"".join(pieces))
    if tornados.miscounted:
        so_far = len(tornados.units)
        assert units[:so_far] == tornados.units
        assert len(units) == so_far or units[so_far].opcode & CONTROL
        return units
    assert units == tornados.units
    if code is None:
        assert tornados.code is None
    else:
        # What breaks the protocol is found with a frame's head. Tornado finds it with the rest, or first the size.
        assert code in (tornados.code, PROTOCOL_ERROR)
    return units
