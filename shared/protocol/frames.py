"""Ready websocket frames: the form in which a protocol message is shared by every viewer.

A Bokeh message is several websocket messages (header, metadata, content, and two per buffer). Writing them one by one
costs a system call and a small packet each, for each viewer. Here they become one run of unmasked server frames
(RFC 6455, section 5.2), built once by a single join, that a fan-out writes with one call per viewer.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

__all__ = ["MAX_7_BIT", "Buffer", "FrameRun", "parts_of"]

_FINAL_TEXT = 0x81
_FINAL_BINARY = 0x82
_RSV1 = 0x40
"""RFC 7692, section 6: marks the first frame of a message that is compressed."""

MAX_7_BIT = 125
_MAX_16_BIT = 0xFFFF

MIN_DEFLATED = 128
"""Payloads below this stay as they are: deflate rarely wins a byte there and always costs a compressor."""

_DEFAULT_MEM_LEVEL = 8
"""zlib's own default."""

_SYNC_TAIL = b"\x00\x00\xff\xff"
"""What a sync flush ends with and RFC 7692, section 7.2.1 cuts off."""

_SHORT_TEXT = tuple(bytes((_FINAL_TEXT, size)) for size in range(MAX_7_BIT + 1))


@dataclass(frozen=True, slots=True)
class Buffer:
    """Binary data that travels beside a message's content.

    Args:
        id: what the content refers to it by.
        data: the bytes, or a contiguous one-dimensional view of unsigned bytes.
    """

    id: str
    data: bytes | memoryview


def _head(first: int, size: int) -> bytes:
    if size <= MAX_7_BIT:
        return bytes((first, size))
    if size <= _MAX_16_BIT:
        return bytes((first, 126, size >> 8, size & 0xFF))
    return bytes((first, 127)) + size.to_bytes(8, "big")


def parts_of(texts: Iterable[bytes], buffers: Iterable[Buffer] = ()) -> list[bytes | memoryview]:
    """The frames of a `FrameRun`, to be joined: heads and payloads in turn, nothing of which is copied yet."""
    parts: list[bytes | memoryview] = []
    for text in texts:
        size = len(text)
        parts += (_SHORT_TEXT[size] if size <= MAX_7_BIT else _head(_FINAL_TEXT, size), text)
    for buffer in buffers:
        name = b'{"id":"%b"}' % buffer.id.encode()
        parts += (_head(_FINAL_TEXT, len(name)), name, _head(_FINAL_BINARY, len(buffer.data)), buffer.data)
    return parts


class FrameRun:
    """One protocol message, or several in order, as websocket frames.

    The run owns its bytes: whatever it was built from may change afterwards.

    Args:
        plain: whole unmasked frames, one after another.
    """

    __slots__ = ("_deflated", "plain")

    def __init__(self, plain: bytes) -> None:
        self.plain = plain
        self._deflated: dict[tuple[int, int | None], bytes] | None = None

    @classmethod
    def build(cls, texts: Iterable[bytes], buffers: Iterable[Buffer] = ()) -> FrameRun:
        """Frames for the text fragments, then a text and a binary one for each buffer; each payload is copied once."""
        return cls(b"".join(parts_of(texts, buffers)))

    @classmethod
    def of_texts(cls, header: bytes, metadata: bytes, content: bytes) -> FrameRun:
        """As `build` without buffers, at half its cost; header and metadata are 125 bytes at most each."""
        size = len(content)
        head = _SHORT_TEXT[size] if size <= MAX_7_BIT else _head(_FINAL_TEXT, size)
        return cls(b"".join((_SHORT_TEXT[len(header)], header, _SHORT_TEXT[len(metadata)], metadata, head, content)))

    @classmethod
    def join(cls, runs: Iterable[FrameRun]) -> FrameRun:
        """One run that holds all of these, in order."""
        listed = list(runs)
        if len(listed) == 1:
            return listed[0]
        return cls(b"".join([run.plain for run in listed]))

    def frames(self) -> Iterator[tuple[memoryview, memoryview]]:
        """Each frame of the run, and its payload."""
        return ((frame, payload) for _, frame, payload in _split(memoryview(self.plain)))

    def deflated(self, level: int, mem_level: int | None) -> bytes:
        """The same messages for connections that negotiated permessage-deflate; computed once per pair of levels.

        Each message starts with an empty window, so one result serves every client, whatever it received before.

        Args:
            level: zlib's compression level, 0 to 9, or -1 for zlib's default.
            mem_level: zlib's memLevel, 1 to 9, or None for zlib's default.
        """
        if self._deflated is None:
            self._deflated = {}
        found = self._deflated.get((level, mem_level))
        if found is None:
            found = b"".join(self._deflate_each(level, mem_level))
            self._deflated[level, mem_level] = found
        return found

    def _deflate_each(self, level: int, mem_level: int | None) -> Iterator[bytes | memoryview]:
        for first, frame, payload in _split(memoryview(self.plain)):
            if len(payload) < MIN_DEFLATED:
                yield frame
                continue
            shrunk = _deflate(payload, level, mem_level)
            if len(shrunk) < len(payload):
                yield _head(first | _RSV1, len(shrunk))
                yield shrunk
            else:
                yield frame

    def __len__(self) -> int:
        return len(self.plain)

    def __repr__(self) -> str:
        return f"<FrameRun of {len(self.plain)} bytes>"


def _split(run: memoryview) -> Iterator[tuple[int, memoryview, memoryview]]:
    """First byte, whole frame and payload of each frame in a run of our own making."""
    start = 0
    while start < len(run):
        size, head = run[start + 1], 2
        if size == 126:
            size, head = int.from_bytes(run[start + 2 : start + 4], "big"), 4
        elif size == 127:
            size, head = int.from_bytes(run[start + 2 : start + 10], "big"), 10
        end = start + head + size
        yield run[start], run[start:end], run[start + head : end]
        start = end


def _deflate(payload: memoryview, level: int, mem_level: int | None) -> bytes:
    compressor = zlib.compressobj(level, zlib.DEFLATED, -zlib.MAX_WBITS, mem_level or _DEFAULT_MEM_LEVEL)
    shrunk = compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH)
    return shrunk.removesuffix(_SYNC_TAIL)
