"""Tornado's websocket protocol, with what it does not say of a connection's end.

Tornado counts a connection that was cut off as closed by its peer before it tells the handler, so only what reads the
frames knows whether a close frame came, and who sent the first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tornado.websocket import WebSocketProtocol13

if TYPE_CHECKING:
    from asyncio import Future

__all__ = ["ServerProtocol"]

_CONTINUATION = 0x0
_TEXT = 0x1
_BINARY = 0x2
_CLOSE = 0x8
_DATA = frozenset((_CONTINUATION, _TEXT, _BINARY))


class ServerProtocol(WebSocketProtocol13):
    """The server's end of one websocket."""

    close_frame_came = False
    """Without one the connection was cut off (RFC 6455, section 7.1.5)."""

    left_first = False
    """Whether the peer's close frame came before ours: it has gone of its own will."""

    def _handle_message(self, opcode: int, data: bytes) -> Future[None] | None:
        if opcode == _CLOSE and not self.client_terminated:
            self.close_frame_came = True
            self.left_first = not self.server_terminated
        if self.server_terminated and opcode in _DATA:
            # What was under way when our close frame left is discarded (RFC 6455, section 1.4): the handler has
            # nothing left to take it with.
            return None
        return super()._handle_message(opcode, data)
