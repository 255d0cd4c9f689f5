"""The few HTTP answers that the gateway gives itself, and how it takes leave of a connection.

Everything else is answered by a worker. An answer to a peer that is still sending needs care: closing a socket with
unread bytes makes the kernel send a reset, which can destroy the answer before the peer has read it. So a connection
that was answered is half-closed, and what still comes is read and thrown away for a moment.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from http import HTTPStatus

from aperture.gateway.front.deadlines import Deadlines

__all__ = ["Farewells", "half_close", "plain_answer"]

RETRY_AFTER = 1
"""Seconds, in a 503. A worker that died is usually back by then."""

LINGER_TIME = 2.0
"""Seconds an answered connection may go on sending: a round trip to the far side of the world, several times."""

LINGER_BYTES = 1024 * 1024
"""Bytes an answered connection may go on sending."""

MAX_LINGERING = 512
"""Answered connections kept; above it the oldest is closed, so that bad peers cannot use up the descriptors."""

_DISCARD_SIZE = 64 * 1024


def plain_answer(status: int, reason: str) -> bytes:
    """A small plain-text response that ends the connection."""
    phrase = HTTPStatus(status).phrase
    body = f"{status} {phrase}: {reason}\n".encode()
    retry = f"Retry-After: {RETRY_AFTER}\r\n" if status == HTTPStatus.SERVICE_UNAVAILABLE else ""
    head = (
        f"HTTP/1.1 {status} {phrase}\r\n"
        "Content-Type: text/plain; charset=utf-8\r\n"
        f"Content-Length: {len(body)}\r\n"
        "Cache-Control: no-store\r\n"
        f"{retry}"
        "Connection: close\r\n\r\n"
    )
    return head.encode() + body


def half_close(sock: socket.socket) -> None:
    """Tell the peer that nothing more will come; it may still send."""
    if isinstance(sock, ssl.SSLSocket):
        with contextlib.suppress(OSError, ValueError):
            sock.unwrap()  # sends close_notify; what the peer answers is not waited for
    with contextlib.suppress(OSError):
        # SSLSocket's own shutdown would forget the TLS state; this is only about TCP.
        socket.socket.shutdown(sock, socket.SHUT_WR)


class Farewells:
    """Connections that were answered and are being left."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._discarded: dict[socket.socket, int] = {}
        self._deadlines: Deadlines[socket.socket] = Deadlines(loop, LINGER_TIME, self._close)

    def __len__(self) -> int:
        return len(self._deadlines)

    def send(self, sock: socket.socket, status: int, reason: str) -> None:
        """Answer a connection that no reader or writer watches any more, and take leave of it."""
        try:
            # It fits into any fresh socket's send buffer; a peer for whom it does not is not worth a queue.
            sock.send(plain_answer(status, reason))
        except OSError:
            sock.close()
            return
        half_close(sock)
        self._linger(sock)

    def close(self) -> None:
        """Close what still lingers."""
        for sock in self._deadlines.clear():
            self._close(sock)

    def _linger(self, sock: socket.socket) -> None:
        while len(self._deadlines) >= MAX_LINGERING and (oldest := self._deadlines.pop_oldest()) is not None:
            self._close(oldest)
        self._discarded[sock] = 0
        self._deadlines.add(sock)
        self._loop.add_reader(sock.fileno(), self._discard, sock)

    def _discard(self, sock: socket.socket) -> None:
        try:
            received = len(socket.socket.recv(sock, _DISCARD_SIZE))
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            received = 0
        self._discarded[sock] += received
        if not received or self._discarded[sock] > LINGER_BYTES:
            self._deadlines.discard(sock)
            self._close(sock)

    def _close(self, sock: socket.socket) -> None:
        del self._discarded[sock]
        self._loop.remove_reader(sock.fileno())
        sock.close()
