"""The open websockets of a worker, so that they can all be closed when it ends; and those that are being left."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from typing import Protocol

from aperture.lingering import Lingering
from aperture.protocol.closing import SERVICE_RESTART

__all__ = ["Closeable", "OpenSockets"]


LINGER_BYTES = 32 * 1024 * 1024
"""Bytes a websocket that was failed may go on sending: a message of the usual largest size. They are only dropped."""

MAX_LINGER_BYTES = 256 * 1024 * 1024
"""Bytes that all of them may, of one worker at a time."""


class Closeable(Protocol):
    """A websocket as far as its end is concerned."""

    def close(self, code: int | None = None, reason: str | None = None) -> None: ...


class OpenSockets:
    """Counts websockets in and out."""

    def __init__(self) -> None:
        self._open: set[Closeable] = set()
        self._emptied = asyncio.Event()
        self._closing = False
        self._lingering: Lingering | None = None
        """Made with the first, because this is made before there is an event loop."""

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[Closeable]:
        return iter(tuple(self._open))

    def add(self, opened: Closeable) -> None:
        self._open.add(opened)
        if self._closing:
            opened.close(SERVICE_RESTART, "restarting")

    def remove(self, ended: Closeable) -> None:
        self._open.discard(ended)
        if self._closing and not self._open:
            self._emptied.set()

    def leave(self, sock: socket.socket) -> None:
        """Close a socket when its peer has had the time to read what was sent; until then drop what it sends."""
        if self._lingering is None:
            loop = asyncio.get_running_loop()
            self._lingering = Lingering(loop, most_bytes=LINGER_BYTES, most_of_all=MAX_LINGER_BYTES)
        self._lingering.add(sock)

    async def close_all(self, timeout: float) -> None:
        """Close every websocket with 1012 and wait, `timeout` seconds at most, until the peers have answered."""
        self._closing = True
        for opened in self:
            opened.close(SERVICE_RESTART, "restarting")
        try:
            if self._open:
                await asyncio.wait_for(self._emptied.wait(), timeout)
        except TimeoutError:
            return
        finally:
            if self._lingering is not None:
                self._lingering.close()
