"""A page's end of a websocket, as cheap as it can be made: dozens of them share one process with all that is checked.

By BokehJS's rules, as `support.wire` has them for tests that look at single frames; Tornado's client cost more there
than the nodes did.
"""

from __future__ import annotations

import asyncio
import base64
import os
from collections import deque
from dataclasses import dataclass
from typing import Any, Self, cast
from urllib.parse import urlsplit

import orjson
from support.client_frames import CLOSE, TEXT, frame
from support.patience import seconds
from support.wire import ConnectionEnded

__all__ = ["ENDINGS", "Message", "Wire"]

CONNECT_SECONDS = 30
"""A browser would wait for longer; a node that was frozen is back by then, and another may be tried."""

ENDINGS = (ConnectionEnded, OSError, TimeoutError)
"""How a connection may end, or not begin."""

_CONTINUED, _TEXT, _CLOSE, _PING, _PONG = 0x0, 0x1, 0x8, 0x9, 0xA
_FINAL = 0x80


@dataclass(frozen=True, slots=True)
class Message:
    """One of Bokeh's protocol, without buffers: the soak's app causes none."""

    header: dict[str, Any]
    metadata: dict[str, Any]
    content: dict[str, Any]

    @property
    def msgtype(self) -> str:
        """Of the header."""
        kind: str = self.header["msgtype"]
        return kind


class Wire(asyncio.Protocol):
    """One connection. Open it with `Wire.connect`; for one task that reads, and any that write."""

    def __init__(self, path: str, host: str, token: str) -> None:
        key = base64.b64encode(os.urandom(16)).decode()
        self._request = (
            f"GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: bokeh, {token}\r\n\r\n"
        ).encode()
        self._mask = os.urandom(4)
        """Of all frames: one key for a connection is enough of chance here."""
        self._transport: asyncio.Transport
        self._buffer = bytearray()
        self._open = False
        self._fragment = bytearray()
        """Of a text that comes in several frames."""
        self._texts: list[bytes] = []
        """Of a message that is not whole yet."""
        self._messages: deque[Message] = deque()
        self._problem: BaseException | None = None
        self._news = asyncio.Event()
        self._lost = asyncio.Event()

    @classmethod
    async def connect(cls, url: str, token: str) -> Self:
        """Open it, and wait for the server's ACK.

        Raises:
            ENDINGS: it came to nothing.
        """
        where = urlsplit(url)
        assert where.hostname is not None
        assert where.port is not None
        wire = cls(where.path, where.netloc, token)
        try:
            async with asyncio.timeout(seconds(CONNECT_SECONDS)):
                await asyncio.get_running_loop().create_connection(lambda: wire, where.hostname, where.port)
                await wire.next_message()
        except BaseException:
            wire.drop()
            raise
        return wire

    async def next_message(self) -> Message:
        """The next that came.

        Raises:
            ConnectionEnded: there is none any more.
        """
        while not self._messages:
            if self._problem is not None:
                raise self._problem
            self._news.clear()
            await self._news.wait()
        return self._messages.popleft()

    def send(self, msgid: str, msgtype: str, content: Any) -> None:
        """Send one message.

        Raises:
            ConnectionEnded: there is nobody to send it to.
        """
        if self._transport.is_closing():
            raise self._problem or ConnectionEnded(None, "it ends just now")
        header = orjson.dumps({"msgid": msgid, "msgtype": msgtype})
        frames = (frame(TEXT, part, self._mask) for part in (header, b"{}", orjson.dumps(content)))
        self._transport.write(b"".join(frames))

    def pause(self) -> None:
        """Read nothing more, so that the server's socket fills."""
        if not self._transport.is_closing():
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read on."""
        if not self._transport.is_closing():
            self._transport.resume_reading()

    def drop(self) -> None:
        """End it as a cable does that is pulled: no close frame."""
        if hasattr(self, "_transport"):
            self._transport.abort()

    async def close(self) -> None:
        """Say goodbye, to who may not be there any more."""
        try:
            async with asyncio.timeout(seconds(5)):
                if not self._transport.is_closing():
                    self._transport.write(frame(CLOSE, (1000).to_bytes(2, "big"), self._mask))
                    self.resume()
                await self._lost.wait()
        except TimeoutError:
            self.drop()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are no subclasses
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if self._open or self._is_upgraded():
            self._read_frames()
        self._news.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(ConnectionEnded(None, repr(exc) if exc else "the other end is gone"))
        self._lost.set()

    # Inside

    def _end(self, problem: BaseException) -> None:
        if self._problem is None:
            self._problem = problem
        self._news.set()

    def _is_upgraded(self) -> bool:
        head, end, rest = self._buffer.partition(b"\r\n\r\n")
        if not end:
            return False
        status = head.split(None, 2)[1]
        if status != b"101":
            self._end(ConnectionEnded(None, f"refused with {status.decode()}"))
            self._transport.abort()
            return False
        self._open, self._buffer = True, rest
        return True

    def _read_frames(self) -> None:
        buffer, start = self._buffer, 0
        while len(buffer) - start >= 2:
            first, size, begin = buffer[start], buffer[start + 1], start + 2
            if size >= 126:
                width = 2 if size == 126 else 8
                if len(buffer) < begin + width:
                    break
                size, begin = int.from_bytes(buffer[begin : begin + width], "big"), begin + width
            if len(buffer) < begin + size:
                break
            start = begin + size
            self._take(first & 0xF, bool(first & _FINAL), bytes(buffer[begin:start]))
        del buffer[:start]

    def _take(self, opcode: int, final: bool, payload: bytes) -> None:
        if opcode == _TEXT and final:
            self._take_text(payload)
        elif opcode in (_TEXT, _CONTINUED):
            self._fragment += payload
            if final:
                text, self._fragment = bytes(self._fragment), bytearray()
                self._take_text(text)
        elif opcode == _PING:
            self._transport.write(frame(_FINAL | _PONG, payload, self._mask))
        elif opcode == _CLOSE:
            code = int.from_bytes(payload[:2], "big") if payload else None
            self._end(ConnectionEnded(code, payload[2:].decode()))
            self._transport.write(frame(CLOSE, payload[:2], self._mask))
            self._transport.close()
        elif opcode != _PONG:
            self._end(AssertionError(f"a frame of kind {opcode}, which the soak's app does not cause"))

    def _take_text(self, text: bytes) -> None:
        self._texts.append(text)
        if len(self._texts) == 3:
            header, metadata, content = map(orjson.loads, self._texts)
            self._texts = []
            assert not header.get("num_buffers"), "the soak's app sends no buffers"
            self._messages.append(Message(header, metadata, content))
