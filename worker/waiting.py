"""Connections that a worker waits for: their next request, the rest of its head or body, or that they take the answer.

The gateway bounds the first head of each connection; what comes after it is this worker's. A peer that keeps a
connection and sends a byte now and then, or nothing, holds a descriptor: so what has begun has a time, and of what has
not begun there is a bounded number. Without a gateway, the first head is this module's too.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
from fcntl import ioctl
from termios import TIOCOUTQ
from typing import TYPE_CHECKING

from tornado.http1connection import HTTP1ServerConnection
from tornado.iostream import StreamClosedError

from aperture.descriptors import affordable_pending

if TYPE_CHECKING:
    from asyncio import TimerHandle

__all__ = ["Waiting"]

log = logging.getLogger(__name__)

LOOK_INTERVAL = 1.0
"""Seconds between two looks for heads that have begun: Tornado tells of a head when it is complete, and not before."""

STALL_TIME = 60.0
"""Seconds for which a peer may take none of an answer that waits for it; then the connection is closed. As long as
nginx's `send_timeout`: a line that comes back at all does so sooner, and a slow one takes a byte now and then."""

_TOO_LATE = b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class Waiting:
    """What a worker waits for, each connection in one of three ways, in the order in which they began.

    Args:
        head_timeout: seconds from the first byte of a head to its last. The first head of a connection that this
            process accepted itself has as long from then on.
        most: connections waited for; above it the one is closed that has been idle longest.
    """

    def __init__(self, head_timeout: float, most: int) -> None:
        self._head_timeout = head_timeout
        self._most = affordable_pending(most)
        self._idle: dict[HTTP1ServerConnection, None] = {}
        self._heads: dict[HTTP1ServerConnection, float] = {}
        """When each is due."""
        self._bodies: dict[HTTP1ServerConnection, None] = {}
        """Their time is Tornado's to keep: it depends on the route."""
        self._answers: dict[HTTP1ServerConnection, tuple[int, float]] = {}
        """How many bytes each had taken when it was seen to take some, or to have none to take, and when."""
        self._timer: TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._idle) + len(self._heads) + len(self._bodies)

    def for_head(self, connection: HTTP1ServerConnection, *, begun: bool) -> None:
        """A connection is to send a request; `begun` says that its time runs even without a byte of it."""
        self.no_longer(connection)
        self._make_room()
        if begun:
            self._heads[connection] = _now() + self._head_timeout
        else:
            self._idle[connection] = None
        self._look_later()

    def for_body(self, connection: HTTP1ServerConnection) -> None:
        """A connection is to send the body that the head has promised."""
        self.no_longer(connection)
        self._make_room()
        self._bodies[connection] = None

    def for_answer(self, connection: HTTP1ServerConnection) -> None:
        """A connection has sent its request, and is to take the answer, whose bytes are kept until then."""
        self.no_longer(connection)
        self._answers[connection] = (_taken(connection), _now())
        self._look_later()

    def no_longer(self, connection: HTTP1ServerConnection) -> None:
        """The connection has sent or taken it, is closed, or is a websocket by now. Idempotent."""
        self._idle.pop(connection, None)
        self._heads.pop(connection, None)
        self._bodies.pop(connection, None)
        self._answers.pop(connection, None)

    def _make_room(self) -> None:
        while len(self) >= self._most:
            for oldest in self._idle or self._heads or self._bodies:
                log.info("closed a connection that sends nothing: %d are waited for", len(self))
                self.no_longer(oldest)
                oldest.stream.close()
                break

    def _look(self) -> None:
        now = _now()
        for connection in [idle for idle in self._idle if idle.stream._read_buffer_size]:
            del self._idle[connection]
            self._heads[connection] = now + self._head_timeout
        for connection in [late for late, due in self._heads.items() if due <= now]:
            del self._heads[connection]
            _close_late(connection)
        self._look_for_stalled(now)
        self._timer = None
        if self._idle or self._heads or self._answers:
            self._look_later()

    def _look_for_stalled(self, now: float) -> None:
        for connection, (before, since) in list(self._answers.items()):
            taken = _taken(connection)
            if taken != before or not connection.stream.writing():
                self._answers[connection] = (taken, now)
            elif now - since >= STALL_TIME:
                log.info("closed a connection from %s that takes no more of an answer", connection.context)
                self.no_longer(connection)
                connection.stream.close()

    def _look_later(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(LOOK_INTERVAL, self._look)


def _close_late(connection: HTTP1ServerConnection) -> None:
    log.info("a request from %s did not arrive in time", connection.context)
    try:
        connection.stream.write(_TOO_LATE)
    except StreamClosedError:
        return
    connection.stream.close()


def _taken(connection: HTTP1ServerConnection) -> int:
    """Bytes that the peer has acknowledged.

    What the kernel has taken is not enough to go by: it takes more only when a third of its buffer is free, which with
    four megabytes and a slow line is minutes.
    """
    stream = connection.stream
    return int(stream._total_write_done_index) - (0 if stream.closed() else _unacknowledged(stream.socket))


def _unacknowledged(connected: socket.socket) -> int:
    """Bytes in the kernel; 0 where it cannot say."""
    try:
        return int.from_bytes(ioctl(connected.fileno(), TIOCOUTQ, bytes(4)), sys.byteorder)
    except OSError:
        return 0


def _now() -> float:
    return asyncio.get_running_loop().time()
