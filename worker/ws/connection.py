"""Tornado's websocket protocol, with what it does not say of a connection's end, to us and to the peer.

Tornado counts a connection that was cut off as closed by its peer before it tells the handler, so only what reads the
frames knows whether a close frame came, and who sent the first.

And it fails a connection (RFC 6455, section 7.1.7) by closing the socket, mostly without a close frame. What is unread
then, such as the rest of a message that is too large, makes the kernel send a reset, and the peer may never see why it
was closed: it would come back and send the same again. So there is always a close frame, and the connection lingers.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from tornado.websocket import WebSocketHandler, WebSocketProtocol13

from aperture.protocol.closing import INTERNAL_ERROR, NO_TEXT, PROTOCOL_ERROR

if TYPE_CHECKING:
    from asyncio import Future

    from tornado.websocket import _WebSocketParams

__all__ = ["ServerProtocol"]

_CONTINUATION = 0x0
_TEXT = 0x1
_BINARY = 0x2
_CLOSE = 0x8
_DATA = frozenset((_CONTINUATION, _TEXT, _BINARY))


class ServerProtocol(WebSocketProtocol13):
    """The server's end of one websocket.

    Args:
        handler: Tornado's.
        params: Tornado's.
        leave: half-closes a socket, and closes it when the peer has had the time to read what was sent.
    """

    close_frame_came = False
    """Without one the connection was cut off (RFC 6455, section 7.1.5)."""

    left_first = False
    """Whether the peer's close frame came before ours: it has gone of its own will."""

    def __init__(
        self, handler: WebSocketHandler, params: _WebSocketParams, leave: Callable[[socket.socket], None]
    ) -> None:
        super().__init__(handler, False, params)
        self._leave = leave
        self._established = False

    async def _receive_frame_loop(self) -> None:
        self._established = True
        await super()._receive_frame_loop()

    def _abort(self) -> None:
        stream = self.stream
        if self._established and not stream.closed():
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
        return super()._handle_message(opcode, data)


def _second(connected: socket.socket) -> socket.socket:
    """The same connection under a descriptor of its own; plain, whatever is spoken on it."""
    second = socket.socket(fileno=os.dup(connected.fileno()))
    second.setblocking(False)
    return second


def _code_of(problem: BaseException | None) -> int:
    """What the peer is told of a connection that is failed, by what is being handled when it is."""
    if problem is None:
        return PROTOCOL_ERROR
    return NO_TEXT if isinstance(problem, UnicodeDecodeError) else INTERNAL_ERROR
