"""The open websockets of a worker, so that all are pinged, and closed when it ends; and those that are being left."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from itertools import islice
from typing import Protocol

from aperture.lingering import Lingering
from aperture.protocol.closing import SERVICE_RESTART
from aperture.worker.ws.refresh_room import RefreshRoom

__all__ = ["Closeable", "OpenSockets"]


LINGER_BYTES = 32 * 1024 * 1024
"""Bytes a websocket that was failed may go on sending: a message of the usual largest size. They are only dropped."""

MAX_LINGER_BYTES = 256 * 1024 * 1024
"""Bytes that all of them may, of one worker at a time."""


_PINGS_A_TURN = 100
"""Ten microseconds each."""

_EARLY = 0.5
"""Seconds that a ping may be sent before its time, with those whose time has come."""


class Closeable(Protocol):
    """A websocket as far as its end is concerned."""

    def close(self, code: int | None = None, reason: str | None = None) -> None: ...

    def keep_alive(self) -> None:
        """Send a ping."""
        ...


class OpenSockets:
    """Counts websockets in and out, and pings them.

    One timer does for all of them, where Tornado has a task and a timer for each.
    """

    def __init__(self) -> None:
        self._open: dict[Closeable, float] = {}
        """When each is pinged next, by the loop's clock; the next one first."""
        self._ping_every = 0.0
        self._pinging: asyncio.TimerHandle | None = None
        self._emptied = asyncio.Event()
        self._closing = False
        self.refresh_room = RefreshRoom()
        self._lingering: Lingering | None = None
        """Made with the first, because this is made before there is an event loop."""

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[Closeable]:
        return iter(tuple(self._open))

    def add(self, opened: Closeable, ping_every: float = 0) -> None:
        """Count one in.

        Args:
            opened: the websocket.
            ping_every: seconds between two pings, the same for all; 0 for none.
        """
        loop = asyncio.get_running_loop()
        self._ping_every = ping_every
        self._open[opened] = loop.time() + ping_every
        if ping_every and self._pinging is None:
            self._pinging = loop.call_later(ping_every, self._ping)
        if self._closing:
            opened.close(SERVICE_RESTART, "restarting")

    def remove(self, ended: Closeable) -> None:
        self._open.pop(ended, None)
        if self._closing and not self._open:
            self._emptied.set()
        if not self._open and self._pinging is not None:
            self._pinging.cancel()
            self._pinging = None

    def _ping(self) -> None:
        """Ping those whose time has come, some of them in one turn of the loop."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        due = [opened for opened, when in islice(self._open.items(), _PINGS_A_TURN) if when <= now + _EARLY]
        for opened in due:
            del self._open[opened]
            self._open[opened] = now + self._ping_every
            opened.keep_alive()
        first = next(iter(self._open.values()), now + self._ping_every)
        self._pinging = loop.call_at(max(first, now), self._ping)

    def leave(self, sock: socket.socket) -> None:
        """Close a socket when its peer has had the time to read what was sent; until then drop what it sends."""
        if self._lingering is None:
            loop = asyncio.get_running_loop()
            self._lingering = Lingering(loop, most_bytes=LINGER_BYTES, most_of_all=MAX_LINGER_BYTES)
        self._lingering.add(sock)

    async def close_all(self, timeout: float) -> None:
        """Close every websocket with 1012 and wait, `timeout` seconds at most, until the peers have answered."""
        self._closing = True
        if self._pinging is not None:
            self._pinging.cancel()
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
