"""The gateway's ends of the socket pairs with the workers and with the supervisor, on its event loop."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from aperture.wire.node_messages import Endpoint, Message

__all__ = ["Link"]


class Link:
    """An endpoint that the event loop watches.

    Args:
        loop: the gateway's event loop.
        end: this process's end of the pair.
        on_readable: called when messages may have arrived; must call `receive`.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, end: socket.socket, on_readable: Callable[[], None]) -> None:
        self._loop = loop
        self._endpoint = Endpoint(end, on_blocked=self._watch_writes)
        self._descriptor = end.fileno()
        self._closed = False
        loop.add_reader(self._descriptor, on_readable)

    @property
    def full(self) -> bool:
        """Whether the next `send` may be refused."""
        return self._endpoint.full

    def fileno(self) -> int:
        return self._descriptor

    def send(self, message: Message, passed: socket.socket | None = None) -> bool:
        """Send or queue. False, with the socket closed, when the queue is full.

        Raises:
            ValueError: the message is too large for a datagram; the socket is still the caller's.
        """
        return self._endpoint.send(message, passed)

    def receive(self) -> list[tuple[Message, socket.socket | None]]:
        """The messages that have arrived."""
        return self._endpoint.receive()

    def close(self) -> None:
        """Stop watching, and close this end."""
        if self._closed:
            return
        self._closed = True
        self._loop.remove_reader(self._descriptor)
        self._loop.remove_writer(self._descriptor)
        self._endpoint.close()

    def _watch_writes(self, blocked: bool) -> None:
        if blocked:
            self._loop.add_writer(self._descriptor, self._endpoint.flush)
        else:
            self._loop.remove_writer(self._descriptor)
