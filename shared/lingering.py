"""Leaves connections so that the last words said on them arrive.

Closing a socket with unread bytes makes the kernel send a reset, which can destroy what was sent just before it: the
answer to a request, the close frame of a websocket. A connection on which everything is said is half-closed instead,
and what still comes is read and thrown away for a moment (as RFC 9112, section 9.6, has it). Used by the gateway and by
the workers.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl

from aperture.deadlines import Deadlines

__all__ = ["Lingering", "half_close"]

LINGER_TIME = 2.0
"""Seconds a connection may go on sending: a round trip to the far side of the world, several times."""

MAX_LINGERING = 512
"""Connections kept; above it the oldest is closed, so that bad peers cannot use up the descriptors."""

_DISCARD_SIZE = 64 * 1024


def half_close(sock: socket.socket) -> None:
    """Tell the peer that nothing more will come; it may still send."""
    if isinstance(sock, ssl.SSLSocket):
        with contextlib.suppress(OSError, ValueError):
            sock.unwrap()  # sends close_notify; what the peer answers is not waited for
    with contextlib.suppress(OSError):
        # SSLSocket's own shutdown would forget the TLS state; this is only about TCP.
        socket.socket.shutdown(sock, socket.SHUT_WR)


class Lingering:
    """Connections on which everything is said, and which are being left.

    Args:
        loop: the event loop that watches them.
        most_bytes: that one may go on sending.
        most_of_all: bytes that all of them together may; the one that goes beyond it is closed.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, *, most_bytes: int, most_of_all: int) -> None:
        self._loop = loop
        self._most_bytes = most_bytes
        self._most_of_all = most_of_all
        self._discarded: dict[socket.socket, int] = {}
        self._of_all = 0
        self._deadlines: Deadlines[socket.socket] = Deadlines(loop, LINGER_TIME, self._close)

    def __len__(self) -> int:
        return len(self._deadlines)

    def add(self, sock: socket.socket) -> None:
        """Half-close a non-blocking socket that has no other reader or writer, and close it soon."""
        half_close(sock)
        while len(self._deadlines) >= MAX_LINGERING and (oldest := self._deadlines.pop_oldest()) is not None:
            self._close(oldest)
        self._discarded[sock] = 0
        self._deadlines.add(sock)
        self._loop.add_reader(sock.fileno(), self._discard, sock)

    def close(self) -> None:
        """Close what still lingers."""
        for sock in self._deadlines.clear():
            self._close(sock)

    def _discard(self, sock: socket.socket) -> None:
        try:
            received = len(socket.socket.recv(sock, _DISCARD_SIZE))
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            received = 0
        self._discarded[sock] += received
        self._of_all += received
        if not received or self._discarded[sock] > self._most_bytes or self._of_all > self._most_of_all:
            self._deadlines.discard(sock)
            self._close(sock)

    def _close(self, sock: socket.socket) -> None:
        self._of_all -= self._discarded.pop(sock)
        self._loop.remove_reader(sock.fileno())
        sock.close()
