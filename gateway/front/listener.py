"""Accepts connections and reads their request heads, with every resource bounded.

Runs in the gateway process, on its event loop, with bare non-blocking sockets: a connection stays here only until its
head is complete, and a transport and protocol object each would cost more than all the rest. A silent or slow peer
holds one descriptor and one small object until its deadline, and there are never more of them than
`max_pending_connections`.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from aperture.config.settings import Settings
from aperture.deadlines import Deadlines
from aperture.descriptors import affordable_pending
from aperture.gateway.front.answers import LingeringConnections
from aperture.gateway.front.head import Head, HeadParser, Rejected
from aperture.gateway.front.tls import Pumps, server_context
from aperture.wire.endpoint import MAX_DATAGRAM

__all__ = ["Acceptor", "Arrival", "Reception", "largest_head"]

log = logging.getLogger(__name__)

ACCEPTS_PER_WAKE_UP = 64
"""Connections accepted before the loop does anything else; a burst must not starve the heads that are being read."""

ACCEPT_PAUSE = 0.1
"""Seconds without accepting when the process is out of descriptors; retrying at once would only spin."""

READ_SIZE = 32 * 1024
"""Bytes read at once. Body bytes from the same read travel to the worker in the same datagram as the head."""

ADOPT_OVERHEAD = 8 * 1024
"""Room in an `Adopt` for everything except the bytes read: a session id of at most 4 KB, and names."""

_DESCRIPTOR_SHORTAGE = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

Peer = tuple[str, int] | None


@dataclass(frozen=True, slots=True, eq=False)
class Arrival:
    """A connection whose request head has been read.

    Args:
        head: the head, and everything that was read after it.
        sock: the connection, plain also for a TLS client; owned by the receiver.
        peer: the client's address and port, or None for a unix socket.
        tls: whether the client speaks TLS.
    """

    head: Head
    sock: socket.socket
    peer: Peer
    tls: bool


def largest_head(settings: Settings) -> int:
    """The largest head, in bytes, for which a hand-over still fits into one datagram."""
    return min(settings.max_head_size, MAX_DATAGRAM - READ_SIZE - ADOPT_OVERHEAD)


@dataclass(slots=True, eq=False)
class _Pending:
    """A connection whose head is being read."""

    sock: socket.socket
    peer: Peer
    parser: HeadParser
    handshaking: bool
    watching: bool = False
    watching_writes: bool = False


class Reception:
    """Reads the heads of accepted connections.

    Args:
        loop: the gateway's event loop.
        settings: the node's settings.
        lingering: answers refused connections.
        pumps: take over TLS connections once their head is read.
        on_arrival: gets each connection with its head.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        settings: Settings,
        lingering: LingeringConnections,
        pumps: Pumps,
        on_arrival: Callable[[Arrival], None],
    ) -> None:
        self._loop = loop
        self._lingering = lingering
        self._pumps = pumps
        self._on_arrival = on_arrival
        self.refused = 0
        """Connections without a proper head, or dropped to make room, since this gateway started."""
        self._max_head = largest_head(settings)
        self._max_pending = affordable_pending(settings.max_pending_connections)
        self._context = None if settings.tls is None else server_context(settings.tls)
        self._deadlines: Deadlines[_Pending] = Deadlines(loop, settings.head_timeout, self._on_due)

    def __len__(self) -> int:
        return len(self._deadlines)

    def admit(self, sock: socket.socket, peer: Peer) -> None:
        """Take an accepted, non-blocking connection and read its head."""
        # The oldest and not the newest goes: a flood of silent peers pushes out its own, and those who send are done in
        # milliseconds.
        while len(self._deadlines) >= self._max_pending:
            self.shed()
        pending = self._pending(sock, peer)
        if pending is not None:
            self._deadlines.add(pending)
            # The request often came with the handshake's last packet: then no poll is needed.
            self._advance(pending)

    def shed(self) -> None:
        """Close the oldest connection whose head is not complete, to make room."""
        oldest = self._deadlines.pop_oldest()
        if oldest is not None:
            self.refused += 1
            # Before it is closed: the loop would keep a descriptor that the kernel gives to the next connection.
            self._unwatch(oldest)
            # Without an answer: it would need the room that is lacking.
            oldest.sock.close()

    def close(self) -> None:
        """Close every connection whose head is not complete."""
        for pending in self._deadlines.clear():
            self._unwatch(pending)
            pending.sock.close()

    def _pending(self, sock: socket.socket, peer: Peer) -> _Pending | None:
        if self._context is None:
            return _Pending(sock, peer, HeadParser(self._max_head), handshaking=False)
        try:
            # The handshake as well waits for its peer, so it runs under the same deadline as the head.
            wrapped = self._context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
        except OSError:
            sock.close()  # the peer has reset it while it waited in the backlog
            return None
        return _Pending(wrapped, peer, HeadParser(self._max_head), handshaking=True)

    def _advance(self, pending: _Pending) -> None:
        try:
            head = self._read(pending)
        # TLS may have to write in order to read: a handshake, a renegotiation.
        except ssl.SSLWantWriteError:
            self._watch(pending, writes=True)
        except (BlockingIOError, InterruptedError, ssl.SSLWantReadError):
            self._watch(pending)
        except Rejected as problem:
            self._refuse(pending, problem.status, problem.reason)
        # Before OSError, of which it is one.
        except ssl.SSLError as problem:
            self._leave_tls(pending, problem)
        except OSError as problem:
            log.debug("a connection from %s ended before its request: %s", pending.peer, problem)
            self._release(pending).close()
        else:
            self._arrive(pending, head)

    def _read(self, pending: _Pending) -> Head:
        """The head. Raises what ends the attempt: would block, rejected, or closed."""
        if pending.handshaking:
            assert isinstance(pending.sock, ssl.SSLSocket)
            pending.sock.do_handshake()
            pending.handshaking = False
        # Bounded by the parser's limit. TLS may hold decrypted bytes that poll does not report: read until there are
        # none.
        while True:
            received = pending.sock.recv(READ_SIZE)
            if not received:
                # An end of file is no error to `recv`; here it is handled with the resets.
                raise ConnectionAbortedError(errno.ECONNABORTED, "closed by the peer")
            head = pending.parser.feed(received)
            if head is not None:
                return head

    def _leave_tls(self, pending: _Pending, problem: ssl.SSLError) -> None:
        log.info("TLS with %s has failed: %s", pending.peer, problem.reason)
        sock = self._release(pending)
        if problem.reason == "HTTP_REQUEST":
            # Plain bytes came to the TLS port: a person who typed http:// reads this, through a socket without TLS
            # around it.
            self._lingering.send(socket.socket(fileno=sock.detach()), 400, "this port speaks TLS: use https")
        else:
            sock.close()

    def _arrive(self, pending: _Pending, head: Head) -> None:
        # Out of the deadlines first: from here on the connection is another part's to close.
        sock = self._release(pending)
        tls = isinstance(sock, ssl.SSLSocket)
        if isinstance(sock, ssl.SSLSocket):
            try:
                # A worker gets one end of a socket pair: a TLS session cannot be handed to another process.
                sock = self._pumps.start(sock)
            except OSError as problem:
                log.error("no socket pair for a TLS connection: %s", problem)
                return
        self._on_arrival(Arrival(head, sock, pending.peer, tls))

    def _on_due(self, pending: _Pending) -> None:
        # RFC 9110, section 15.5.9: 408 for a request that is late. A peer that has sent nothing gets nothing: browsers
        # open connections ahead, and would take the 408 for the answer to their next request.
        if pending.parser.started:
            self._refuse(pending, 408, "the request did not arrive in time")
        else:
            self._release(pending).close()

    def _refuse(self, pending: _Pending, status: int, reason: str) -> None:
        self.refused += 1
        log.info("refused a connection from %s with %d: %s", pending.peer, status, reason)
        self._lingering.send(self._release(pending), status, reason)

    def _release(self, pending: _Pending) -> socket.socket:
        self._deadlines.discard(pending)
        self._unwatch(pending)
        return pending.sock

    def _watch(self, pending: _Pending, *, writes: bool = False) -> None:
        # Only when a read would block: most heads are there with the accept, and cost no call of epoll.
        descriptor = pending.sock.fileno()
        if not pending.watching:
            pending.watching = True
            self._loop.add_reader(descriptor, self._advance, pending)
        if writes != pending.watching_writes:
            pending.watching_writes = writes
            if writes:
                self._loop.add_writer(descriptor, self._advance, pending)
            else:
                self._loop.remove_writer(descriptor)

    def _unwatch(self, pending: _Pending) -> None:
        if pending.watching:
            pending.watching = False
            self._loop.remove_reader(pending.sock.fileno())
        if pending.watching_writes:
            pending.watching_writes = False
            self._loop.remove_writer(pending.sock.fileno())


class Acceptor:
    """Accepts from the listening sockets while there are free descriptors.

    Args:
        loop: the gateway's event loop.
        listeners: non-blocking listening sockets; closed by `close`.
        reception: gets every accepted connection.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, listeners: Sequence[socket.socket], reception: Reception
    ) -> None:
        self._loop = loop
        self._listeners = list(listeners)
        self._reception = reception
        self._resume: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Accept from now on."""
        self._resume = None
        for listener in self._listeners:
            self._loop.add_reader(listener.fileno(), self._accept, listener)

    def close(self) -> None:
        """Stop accepting, and close this process's copies of the listening sockets."""
        self._stop_watching()
        if self._resume is not None:
            self._resume.cancel()
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()

    def _stop_watching(self) -> None:
        for listener in self._listeners:
            self._loop.remove_reader(listener.fileno())

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(ACCEPTS_PER_WAKE_UP):
            try:
                sock, address = listener.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as problem:
                if problem.errno in _DESCRIPTOR_SHORTAGE:
                    self._pause(problem)
                    return
                continue  # ECONNABORTED and the like concern that one connection; the next may be good
            sock.setblocking(False)
            self._reception.admit(sock, _prepare(sock, address))

    def _pause(self, problem: OSError) -> None:
        log.error("cannot accept connections, next try in %.1f s: %s", ACCEPT_PAUSE, problem)
        # Frees a descriptor at once: hand-backs and TLS pairs need them, too.
        self._reception.shed()
        # Poll is level-triggered: the backlog would wake the loop without end while nothing can be accepted.
        self._stop_watching()
        self._resume = self._loop.call_later(ACCEPT_PAUSE, self.start)


def _prepare(sock: socket.socket, address: object) -> Peer:
    if not isinstance(address, tuple):
        return None  # a unix socket's peer has no name
    with contextlib.suppress(OSError):  # macOS fails here if the peer has closed already; the next read reports that
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return address[0], address[1]
