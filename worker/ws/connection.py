"""Tornado's websocket protocol, with what it does not say of a connection's end, to us and to the peer.

Tornado counts a connection that was cut off as closed by its peer before it tells the handler, so only what reads the
frames knows whether a close frame came, and who sent the first.

And it fails a connection (RFC 6455, section 7.1.7) by closing the socket, mostly without a close frame. What is unread
then, such as the rest of a message that is too large, makes the kernel send a reset, and the peer may never see why it
was closed: it would come back and send the same again. So there is always a close frame, and the connection lingers.

Frames are read here, too, by a task that holds nothing else. In Tornado the coroutines of the request wait for the end
of the connection, seven deep, and each frame is read in three or four steps.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import zlib
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from tornado.iostream import StreamClosedError
from tornado.websocket import WebSocketHandler, WebSocketProtocol13, _DecompressTooLargeError

from aperture.errors import ProtocolError
from aperture.protocol.allowance import UNLIMITED, Allowance
from aperture.protocol.closing import INTERNAL_ERROR, MESSAGE_TOO_BIG, NO_TEXT, PROTOCOL_ERROR
from aperture.worker.ws.client_frames import ClientFrames

if TYPE_CHECKING:
    from asyncio import Future, Task

    from tornado.websocket import _WebSocketParams

__all__ = ["ServerProtocol"]

_CONTINUATION = 0x0
_TEXT = 0x1
_BINARY = 0x2
_CLOSE = 0x8
_DATA = frozenset((_CONTINUATION, _TEXT, _BINARY))


_PIECE = 64 * 1024
"""Bytes that are read at once; Tornado's streams read no more."""

_TURN, _FRAME = 256 * 1024, 1024
"""Bytes of one connection that are acted on before others have their turn, and as how many a frame counts, beside its
own: pings may be empty. As in Tornado."""


class ServerProtocol(WebSocketProtocol13):
    """The server's end of one websocket.

    Args:
        handler: Tornado's.
        params: Tornado's.
        acted: called when all that has arrived is acted on.
        leave: half-closes a socket, and closes it when the peer has had the time to read what was sent.
        refuse: logs what was wrong with a frame, and closes.
    """

    __slots__ = ("_acted", "_inflating", "_leave", "_reading", "_refuse", "close_frame_came", "left_first")
    # With these in the instance's dictionary, it would have more entries than Python shares the keys of: 1.3 KB each.

    def __init__(
        self,
        handler: WebSocketHandler,
        params: _WebSocketParams,
        acted: Callable[[], None],
        leave: Callable[[socket.socket], None],
        refuse: Callable[[ProtocolError], None],
    ) -> None:
        super().__init__(handler, False, params)
        self._acted = acted
        self._leave = leave
        self._refuse = refuse
        compresses = params.compression_options is not None
        self._inflating = Allowance.for_messages_of(params.max_message_size) if compresses else UNLIMITED
        self._reading: Task[None] | None = None
        """None until the handshake is done."""
        self.close_frame_came = False
        """Without one the connection was cut off (RFC 6455, section 7.1.5)."""
        self.left_first = False
        """Whether the peer's close frame came before ours: it has gone of its own will."""

    def start_pinging(self) -> None:
        """Leave pings to the one timer of `aperture.worker.ws.sockets`, unless pongs are insisted on."""
        if self.ping_timeout > 0:
            super().start_pinging()

    async def _receive_frame_loop(self) -> None:
        """Called at the end of the handshake; Tornado's request is over when this returns."""
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        """Act on frames until the connection ends, on each before more is read."""
        frames = ClientFrames(self.params.max_message_size, compresses=self._decompressor is not None)
        work = 0
        try:
            while True:
                piece = await self.stream.read_bytes(_PIECE, partial=True)
                self._wire_bytes_in += len(piece)
                for opcode, payload, self._frame_compressed in frames.feed(piece):
                    handled = self._handle_message(opcode, payload)
                    if handled is not None:
                        await handled
                    if self.client_terminated:
                        return
                    # What has arrived already is read without a turn for others.
                    work += _FRAME + len(payload)
                    if work >= _TURN:
                        work = 0
                        await asyncio.sleep(0)
                self._acted()
        except (StreamClosedError, asyncio.CancelledError):
            self._abort()
        except ProtocolError as problem:
            self._refuse(problem)
            self._abort()
        except ValueError:  # the reason in a close frame is not UTF-8
            self._abort()
        finally:
            self.handler.on_ws_connection_close(self.close_code, self.close_reason)

    def _abort(self) -> None:
        stream = self.stream
        if self._reading is not None and not stream.closed():
            if not self.server_terminated:
                self.close(_code_of(sys.exc_info()[1]))
            # One to whom not even the close frame could be written does not read: there is nothing to wait for.
            if not stream.closed() and not stream.writing():
                with suppress(OSError):  # no descriptor left
                    # A second descriptor, so that for Tornado this connection ends here and now.
                    self._leave(_second(stream.socket))
        super()._abort()

    def _handle_message(self, opcode: int, data: bytes) -> Future[None] | None:
        if opcode == _CLOSE and not self.client_terminated:
            self.close_frame_came = True
            self.left_first = not self.server_terminated
        if self.server_terminated and opcode in _DATA:
            # What was under way when our close frame left is discarded (RFC 6455, section 1.4): the handler has
            # nothing left to take it with.
            return None
        if self._frame_compressed:
            data = self._inflate(opcode, data)
            self._frame_compressed = False  # for Tornado, which counts nothing, and logs tracebacks for garbage
        return super()._handle_message(opcode, data)

    def _inflate(self, opcode: int, data: bytes) -> bytes:
        if self._decompressor is None:
            raise AssertionError("no frame counts as compressed where that was not agreed on")
        try:
            inflated = self._decompressor.decompress(data)
        except _DecompressTooLargeError:
            raise ProtocolError("message too big", MESSAGE_TOO_BIG) from None
        except zlib.error:
            raise ProtocolError("a compressed message cannot be inflated") from None
        self._inflating.inflate(len(data), len(inflated), text=opcode == _TEXT)
        return inflated


def _second(connected: socket.socket) -> socket.socket:
    """The same connection under a descriptor of its own; plain, whatever is spoken on it."""
    second = socket.socket(fileno=os.dup(connected.fileno()))
    second.setblocking(False)
    return second


def _code_of(problem: BaseException | None) -> int:
    """The close code for a connection that is failed, by the exception that is being handled."""
    if problem is None or isinstance(problem, ProtocolError):
        return PROTOCOL_ERROR
    return NO_TEXT if isinstance(problem, UnicodeDecodeError) else INTERNAL_ERROR
