"""One end of the pair of sockets between two processes of a node: messages in and out, and the sockets beside them.

Each message is one datagram; `Adopt` and `HandBack` carry the browser's socket beside it (SCM_RIGHTS). The supervisor
keeps both ends of every pair open, so what is queued in one outlives the process that would have read it.
"""

from __future__ import annotations

import array
import contextlib
import errno
import logging
import os
import socket
import sys
from collections import deque
from collections.abc import Callable, Iterable

from aperture.errors import WireError
from aperture.wire.node_messages import NodeMessage

__all__ = ["MAX_DATAGRAM", "RECEIVE_LIMIT", "Endpoint", "datagram_pair"]

log = logging.getLogger(__name__)

MAX_DATAGRAM = 192 * 1024
"""Linux refuses a datagram above the socket's send buffer (208 KB unless raised); a request head is at most 128 KB."""

RECEIVE_LIMIT = 1024
"""Messages taken in one go, so that a flood from one process does not starve the others."""

_CLOSE_ON_EXEC = getattr(socket, "MSG_CMSG_CLOEXEC", 0)
"""A program that app code starts must not inherit the browsers' connections."""

_SEND_BUFFER = 4 * 1024 * 1024
"""Asked for, not granted: the kernel caps it. Room for a burst of hand-overs while a worker runs app code."""

_TURNED_AWAY = (
    b"HTTP/1.1 503 Service Unavailable\r\n"
    b"Content-Length: 0\r\nCache-Control: no-store\r\nRetry-After: 1\r\nConnection: close\r\n\r\n"
)
"""Answers a connection that its receiver has no descriptor for."""


def datagram_pair() -> tuple[socket.socket, socket.socket]:
    """Two connected, non-blocking sockets that keep message boundaries and can pass descriptors.

    Linux has SOCK_SEQPACKET for AF_UNIX, which is reliable and tells of a closed peer. macOS does not; its SOCK_DGRAM
    pairs are reliable too, being local, and nothing here relies on the end-of-file.
    """
    kind = socket.SOCK_SEQPACKET if sys.platform == "linux" else socket.SOCK_DGRAM
    pair = socket.socketpair(socket.AF_UNIX, kind)
    for end in pair:
        end.setblocking(False)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SEND_BUFFER)
    return pair


class Endpoint:
    """One end of a pair: sends and receives messages without blocking, in order, with their sockets.

    What the kernel will not take now waits in a queue of at most `limit` messages. Sockets handed to `send` belong to
    the endpoint from then on: they are closed here once the kernel has them, or when the endpoint gives up on them.

    The owner watches `fileno()` for reading, and calls `flush` when it is writable; `on_blocked` is called
    with True when a queue forms and with False when it is gone, so that the owner knows when to watch for writing.
    """

    def __init__(
        self,
        end: socket.socket,
        *,
        limit: int = 10_000,
        on_blocked: Callable[[bool], None] = lambda blocked: None,
    ) -> None:
        self._end = end
        self._limit = limit
        self._on_blocked = on_blocked
        self._queue: deque[tuple[bytes, socket.socket | None]] = deque()
        self._spare = _SpareDescriptor()

    def fileno(self) -> int:
        return self._end.fileno()

    def descriptors(self) -> Iterable[int]:
        """This end's, and those of the sockets that the kernel has not taken yet."""
        yield self._end.fileno()
        yield from (passed.fileno() for _, passed in self._queue if passed is not None)

    @property
    def queued(self) -> int:
        """Messages that the kernel has not taken yet."""
        return len(self._queue)

    def send(self, message: NodeMessage, passed: socket.socket | None = None) -> bool:
        """Send, or queue. Returns False, and closes the socket, when the queue is full."""
        if message.carries_socket != (passed is not None):
            raise AssertionError("a socket travels with Adopt and HandBack, and with nothing else")
        datagram = message.pack()
        if len(datagram) > MAX_DATAGRAM:
            raise ValueError(f"a {type(message).__name__} of {len(datagram)} bytes does not fit one datagram")
        if not self._queue and self._try_send(datagram, passed):
            return True
        if len(self._queue) >= self._limit:
            if passed is not None:
                passed.close()
            return False
        self._queue.append((datagram, passed))
        if len(self._queue) == 1:
            self._on_blocked(True)
        return True

    @property
    def full(self) -> bool:
        """Whether the next `send` may be refused."""
        return len(self._queue) >= self._limit

    def flush(self) -> None:
        """Send what is queued, as far as the kernel takes it."""
        while self._queue and self._try_send(*self._queue[0]):
            self._queue.popleft()
            if not self._queue:
                self._on_blocked(False)

    def receive(self, limit: int = RECEIVE_LIMIT) -> list[tuple[NodeMessage, socket.socket | None]]:
        """Up to `limit` of the messages that have arrived, oldest first; the sockets among them are the caller's.

        A datagram that is no message is dropped with a line in the log: raising would lose its neighbours too. A
        connection for which the process has no descriptor is answered with 503, and its message comes without it.
        """
        arrived: list[tuple[NodeMessage, socket.socket | None]] = []
        turned_away = 0
        for _ in range(limit):
            received = self._receive_one()
            if received is None:
                break
            try:
                message, passed = _unpacked(*received)
            except WireError as problem:
                log.error("dropped a datagram: %s", problem)
                continue
            turned_away += message.carries_socket and passed is None
            arrived.append((message, passed))
        if turned_away:
            log.error("turned %d connections away: out of descriptors", turned_away)
        return arrived

    def close(self) -> None:
        """Close this end and every socket still queued in it."""
        for _, passed in self._queue:
            if passed is not None:
                passed.close()
        self._queue.clear()
        self._spare.release()
        self._end.close()

    def _try_send(self, datagram: bytes, passed: socket.socket | None) -> bool:
        ancillary = []
        if passed is not None:
            ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [passed.fileno()]))]
        try:
            self._end.sendmsg([datagram], ancillary)
        except BlockingIOError:
            return False
        except OSError as problem:
            # ENOBUFS is BSD's way to say "full"; ETOOMANYREFS is Linux's bound on descriptors in flight.
            if problem.errno in (errno.ENOBUFS, errno.ETOOMANYREFS):
                return False
            raise
        if passed is not None:
            passed.close()
        return True

    def _receive_one(self) -> tuple[bytes, socket.socket | None] | None:
        # Where the descriptor table is full the kernel drops the socket and delivers the message: so there is always
        # room for one, and whether there is for the next shows when the spare is to be held again.
        self._spare.release()
        passed = None
        try:
            datagram, ancillary, _, _ = self._end.recvmsg(MAX_DATAGRAM, socket.CMSG_SPACE(4), _CLOSE_ON_EXEC)
            passed = _passed_socket(ancillary)
        except (BlockingIOError, InterruptedError):
            return None
        finally:
            if not self._spare.hold() and passed is not None:
                _turn_away(passed)
                passed = None
                self._spare.hold()
        # No message is empty: an empty datagram is the end of file.
        return (datagram, passed) if datagram else None


class _SpareDescriptor:
    """One descriptor held back, so that a connection can be received, and answered, where the table is full."""

    def __init__(self) -> None:
        self._held: int | None = None

    def hold(self) -> bool:
        """Take a place in the table. False when there is none."""
        if self._held is None:
            try:
                self._held = os.open(os.devnull, os.O_RDONLY)
            except OSError:
                return False
        return True

    def release(self) -> None:
        """Leave the place to another."""
        if self._held is not None:
            os.close(self._held)
            self._held = None


def _turn_away(passed: socket.socket) -> None:
    with passed, contextlib.suppress(OSError):
        # It fits into the send buffer of a socket that has not been answered yet; there is no place to wait at.
        passed.send(_TURNED_AWAY, socket.MSG_DONTWAIT)


def _unpacked(datagram: bytes, passed: socket.socket | None) -> tuple[NodeMessage, socket.socket | None]:
    try:
        message = NodeMessage.unpack(datagram)
        if passed is not None and not message.carries_socket:
            raise WireError(f"a {type(message).__name__} with a socket")
    except WireError:
        if passed is not None:
            passed.close()
        raise
    return message, passed


def _passed_socket(ancillary: list[tuple[int, int, bytes]]) -> socket.socket | None:
    for level, kind, content in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            numbers = array.array("i")
            numbers.frombytes(content[: len(content) - len(content) % numbers.itemsize])
            if numbers:
                return socket.socket(fileno=numbers[0])
    return None
