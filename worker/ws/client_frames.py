"""Websocket frames of a client to messages (RFC 6455, section 5), taken out of pieces as they were read.

A message of Bokeh's is three frames or more, and they mostly arrive in one piece. Tornado reads each frame in three or
four steps, each with a coroutine and a future of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from tornado.util import _websocket_mask as unmask

from aperture.errors import ProtocolError
from aperture.protocol.closing import MESSAGE_TOO_BIG

__all__ = ["ClientFrames", "Unit"]

_FINAL, _COMPRESSED, _RESERVED, _OPCODE, _CONTROL = 0x80, 0x40, 0x30, 0x0F, 0x08
"""Of a frame's first byte."""

_MASKED, _SIZE = 0x80, 0x7F
"""Of its second."""

_TWO_BYTES, _EIGHT_BYTES = 126, 127
"""Sizes that say that the size follows, in so many bytes."""

_CONTINUATION = 0


class Unit(NamedTuple):
    """A control frame, or a data message from all its frames."""

    opcode: int
    payload: bytes
    compressed: bool


class _Begun(NamedTuple):
    """A message whose last frame has not arrived."""

    opcode: int
    compressed: bool
    payload: bytearray


class ClientFrames:
    """The frames of one connection.

    Args:
        max_message_size: in bytes, before decompression.
        compresses: whether permessage-deflate was agreed on.
    """

    __slots__ = ("_begun", "_compresses", "_max_message_size", "_unread")

    def __init__(self, max_message_size: int, *, compresses: bool) -> None:
        self._max_message_size = max_message_size
        self._compresses = compresses
        self._unread: bytearray | None = None
        """The beginning of a frame whose rest has not arrived."""
        self._begun: _Begun | None = None

    def feed(self, piece: bytes) -> Iterator[Unit]:
        """What a piece completes. Exhaust it before the next piece, or feed nothing more.

        Raises:
            ProtocolError: the frames break the protocol, or a message is too large.
        """
        read: bytes | bytearray = piece
        if self._unread is not None:
            self._unread += piece
            read = self._unread
        at, end = 0, len(read)
        while end - at >= 2:
            first, second = read[at], read[at + 1]
            self._check(first, second & _SIZE)
            start, size = at + 2, second & _SIZE
            if size >= _TWO_BYTES:
                start += 2 if size == _TWO_BYTES else 8
                if end < start:
                    break
                size = int.from_bytes(read[at + 2 : start], "big")
            self._check_size(first, size)
            mask = start
            if second & _MASKED:
                start += 4
            if end < start + size:
                break
            payload = bytes(memoryview(read)[start : start + size])
            if second & _MASKED:
                payload = unmask(bytes(read[mask:start]), payload)
            at = start + size
            unit = self._take(first, payload)
            if unit is not None:
                yield unit
        self._keep(read, at)

    def _keep(self, read: bytes | bytearray, at: int) -> None:
        if at == len(read):
            self._unread = None
        elif at or read is not self._unread:  # else it is kept already, and may be large
            self._unread = bytearray(memoryview(read)[at:])

    def _check(self, first: int, size: int) -> None:
        opcode = first & _OPCODE
        begins = opcode != _CONTINUATION and not opcode & _CONTROL
        if first & _RESERVED or (first & _COMPRESSED and not (self._compresses and begins)):
            raise ProtocolError("a frame uses an extension that was not agreed on")
        if opcode & _CONTROL:
            if size >= _TWO_BYTES or not first & _FINAL:
                raise ProtocolError("a control frame is too long, or not whole")
        elif begins == (self._begun is not None):
            raise ProtocolError("a frame continues no message, or begins one within another")

    def _check_size(self, first: int, size: int) -> None:
        begun = 0 if self._begun is None or first & _CONTROL else len(self._begun.payload)
        if begun + size > self._max_message_size:
            raise ProtocolError("message too big", MESSAGE_TOO_BIG)

    def _take(self, first: int, payload: bytes) -> Unit | None:
        """A frame that is whole; returns what it completes."""
        opcode, compressed = first & _OPCODE, bool(first & _COMPRESSED)
        begun = self._begun
        if opcode & _CONTROL or (begun is None and first & _FINAL):
            return Unit(opcode, payload, compressed)
        if begun is None:
            self._begun = _Begun(opcode, compressed, bytearray(payload))
            return None
        begun.payload.extend(payload)
        if not first & _FINAL:
            return None
        self._begun = None
        return Unit(begun.opcode, bytes(begun.payload), begun.compressed)
