"""The few HTTP answers that the gateway gives itself, and the lingering close after them.

Everything else is answered by a worker. An answer to a peer that is still sending needs care, which
`aperture.lingering` takes.
"""

from __future__ import annotations

import asyncio
import socket
from http import HTTPStatus

from aperture.lingering import Lingering

__all__ = ["LingeringConnections", "plain_answer"]

RETRY_AFTER = 1
"""Seconds, in a 503. A worker that died is usually back by then."""

LINGER_BYTES = 1024 * 1024
"""Bytes an answered connection may go on sending."""

MAX_LINGER_BYTES = 64 * 1024 * 1024
"""Bytes that all of them may."""


def plain_answer(status: int, reason: str) -> bytes:
    """A small plain-text response that closes the connection."""
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


class LingeringConnections:
    """Connections that have been answered and wait for the peer to stop sending."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._lingering = Lingering(loop, most_bytes=LINGER_BYTES, most_of_all=MAX_LINGER_BYTES)

    def __len__(self) -> int:
        return len(self._lingering)

    def send(self, sock: socket.socket, status: int, reason: str) -> None:
        """Answer a connection that no reader or writer watches any more; closes it when the peer stops sending."""
        try:
            # A fresh socket's send buffer has room for it; if this one has not, the answer is dropped.
            sock.send(plain_answer(status, reason))
        except OSError:
            sock.close()
            return
        self._lingering.add(sock)

    def close(self) -> None:
        """Close what still lingers."""
        self._lingering.close()
