"""The open websockets of a worker, so that they can all be closed when it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Protocol

from aperture.protocol.closing import SERVICE_RESTART

__all__ = ["Closeable", "OpenSockets"]


class Closeable(Protocol):
    """A websocket as far as its end is concerned."""

    def close(self, code: int | None = None, reason: str | None = None) -> None: ...


class OpenSockets:
    """Counts websockets in and out."""

    def __init__(self) -> None:
        self._open: set[Closeable] = set()
        self._emptied = asyncio.Event()
        self._closing = False

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[Closeable]:
        return iter(tuple(self._open))

    def add(self, socket: Closeable) -> None:
        self._open.add(socket)
        if self._closing:
            socket.close(SERVICE_RESTART, "restarting")

    def remove(self, socket: Closeable) -> None:
        self._open.discard(socket)
        if self._closing and not self._open:
            self._emptied.set()

    async def close_all(self, timeout: float) -> None:
        """Close every websocket with 1012 and wait, `timeout` seconds at most, until the peers have answered."""
        self._closing = True
        if not self._open:
            return
        for socket in self:
            socket.close(SERVICE_RESTART, "restarting")
        try:
            await asyncio.wait_for(self._emptied.wait(), timeout)
        except TimeoutError:
            return
