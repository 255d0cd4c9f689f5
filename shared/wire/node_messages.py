"""What the processes of a node say to each other, and how a socket travels with it.

The supervisor makes one datagram-keeping socket pair per worker and one to the gateway before it forks. Every message
is one frozen dataclass, sent as one msgpack datagram that begins with the wire's version; `Adopt` and `HandBack` carry
the browser's socket beside it (SCM_RIGHTS). The supervisor keeps both ends of every pair open, so what is queued in one
outlives the process that would have read it.
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
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields
from typing import Any, ClassVar, TypeVar

import msgpack

from aperture.version import WIRE_VERSION

__all__ = [
    "MAX_DATAGRAM",
    "RECEIVE_LIMIT",
    "REPORT_INTERVAL",
    "Acted",
    "Adopt",
    "Claimed",
    "Crowded",
    "Describe",
    "Drain",
    "Draining",
    "Endpoint",
    "Extensions",
    "ExtensionsAre",
    "GatewaySeat",
    "HandBack",
    "Hello",
    "Load",
    "Message",
    "Moved",
    "NodeReady",
    "Order",
    "Others",
    "OthersAre",
    "Released",
    "SessionInfo",
    "SessionsAre",
    "WorkerDown",
    "WorkerSeat",
    "datagram_pair",
    "in_parts",
]

log = logging.getLogger(__name__)

Row = TypeVar("Row", bound=tuple[Any, ...])

MAX_DATAGRAM = 192 * 1024
"""Linux refuses a datagram above the socket's send buffer (208 KB unless raised); a request head is at most 128 KB."""

REPORT_INTERVAL = 0.5
"""Seconds between two load reports of a worker; the gateway passes over one that has not reported for four of these."""

_CLOSE_ON_EXEC = getattr(socket, "MSG_CMSG_CLOEXEC", 0)
"""A program that app code starts must not inherit the browsers' connections."""

_SEND_BUFFER = 4 * 1024 * 1024
"""Asked for, not granted: the kernel caps it. Room for a burst of hand-overs while a worker runs app code."""


ROWS_BYTES = 128 * 1024
"""Of rows in one message; the rest of a datagram is for what else is in it."""

RECEIVE_LIMIT = 1024
"""Messages taken in one go, so that a flood from one process does not starve the others."""

_TURNED_AWAY = (
    b"HTTP/1.1 503 Service Unavailable\r\n"
    b"Content-Length: 0\r\nCache-Control: no-store\r\nRetry-After: 1\r\nConnection: close\r\n\r\n"
)
"""Answers a connection that its receiver has no descriptor for."""


@dataclass(frozen=True, slots=True)
class Message:
    """Base of the messages; the class's place in `_TYPES` is its code on the wire."""

    carries_socket: ClassVar[bool] = False

    def pack(self) -> bytes:
        """This message as one datagram."""
        values = [getattr(self, name) for name in _FIELDS[type(self)]]
        packed: bytes = msgpack.packb(
            [WIRE_VERSION, _CODES[type(self)], *values], use_bin_type=True, unicode_errors="surrogatepass"
        )
        return packed

    @staticmethod
    def unpack(datagram: bytes) -> Message:
        """The message in one datagram.

        Raises:
            ValueError: it is not one of ours, or of another wire version.
        """
        try:
            version, *rest = msgpack.unpackb(datagram, use_list=False, raw=False, unicode_errors="surrogatepass")
            # First: what follows may have any form in another version. It happens where the package was upgraded
            # under a running node, and a replaced worker loads the new code.
            if type(version) is not int or version != WIRE_VERSION:
                raise ValueError(f"of wire version {version!r:.20}, where this process speaks {WIRE_VERSION}")
            code, *values = rest
            message: Message = _TYPES[code](*values)
            return message
        except (msgpack.UnpackException, ValueError, TypeError, IndexError, KeyError) as problem:
            raise ValueError(f"not a hand-over message: {problem}") from problem


@dataclass(frozen=True, slots=True)
class Adopt(Message):
    """Gateway to worker: this connection is yours. Carries the socket.

    Args:
        generation: the worker's generation that the gateway meant. A later generation hands the socket back, because
            the gateway may since have routed the session elsewhere.
        head: all that was read from the socket: the request head, and whatever followed it.
        peer: the client's address and port, or None for a unix socket.
        tls: whether the client speaks TLS (which the gateway has taken off).
        session_id: what routing found in the head. The worker may create this session.
        number: counts the gateway's hand-overs to this worker. `Load` says the last one that arrived, so a connection
            that got lost on the way is not waited for.
    """

    carries_socket: ClassVar[bool] = True
    generation: int
    head: bytes
    peer: tuple[str, int] | None
    tls: bool
    session_id: str | None
    number: int


@dataclass(frozen=True, slots=True)
class HandBack(Message):
    """Worker (or supervisor, for a dead worker) to gateway: route this connection again. Carries the socket."""

    carries_socket: ClassVar[bool] = True
    head: bytes
    peer: tuple[str, int] | None
    tls: bool


@dataclass(frozen=True, slots=True)
class Hello(Message):
    """Worker to gateway: booted, send me connections. Also the answer to a new gateway's `Describe`."""

    worker: int
    generation: int
    pid: int


@dataclass(frozen=True, slots=True)
class Load(Message):
    """Worker to gateway, each `REPORT_INTERVAL`. `adopted` is the number of the last `Adopt` that has arrived."""

    sessions: int
    connections: int
    lag_seconds: float
    rss_bytes: int
    adopted: int
    bus_up: bool = True
    """Also where there is no bus: then nothing is missing."""
    exhausted: bool = False
    """Whether connections have come since the last report that there was no descriptor for."""
    bus_full: bool = False
    """Whether Redis has no memory for new sessions."""


@dataclass(frozen=True, slots=True)
class Claimed(Message):
    """Worker to gateway: these sessions are mine. Sent before a response can tell anybody their ids."""

    session_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Released(Message):
    """Worker to gateway: these sessions are gone."""

    session_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Crowded(Message):
    """Worker to gateway: this session of mine has, or has no longer, more viewers than one worker should write to."""

    session_id: str
    crowded: bool


@dataclass(frozen=True, slots=True)
class Describe(Message):
    """Gateway to worker: say `Hello`, and tell me of all your sessions in one or more `SessionsAre`."""

    request: int


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """One session as `/sessions` shows it, but with its whole id: only the gateway sees it."""

    id: str
    app: str
    epoch: int
    connections: int
    edges: int
    age_seconds: float


@dataclass(frozen=True, slots=True)
class SessionsAre(Message):
    """Worker to gateway: one part of the answer to `Describe`; each row holds the fields of a `SessionInfo`."""

    request: int
    rows: tuple[tuple[str, str, int, int, int, float], ...]
    last: bool

    @property
    def sessions(self) -> list[SessionInfo]:
        return [SessionInfo(*row) for row in self.rows]


@dataclass(frozen=True, slots=True)
class Extensions(Message):
    """Worker to gateway: these extension packages' asset folders I know; answer with what all workers know."""

    request: int
    dirs: dict[str, str]


@dataclass(frozen=True, slots=True)
class ExtensionsAre(Message):
    """Gateway to worker: the answer to `Extensions`."""

    request: int
    dirs: dict[str, str]


@dataclass(frozen=True, slots=True)
class Others(Message):
    """Gateway to worker: ask the workers of all other nodes what they have, and tell me in one or more `OthersAre`.

    Args:
        request: a number for the answers.
        prefix: how the ids begin of the sessions that are wanted.
    """

    request: int
    prefix: str


@dataclass(frozen=True, slots=True)
class OthersAre(Message):
    """Worker to gateway: one part of the answer to `Others`.

    Args:
        request: of the question.
        worker: the name of the worker that the part is of; empty in the last message.
        part: as `aperture.wire.accounts` packs it; None if that worker does not answer, or, in the last message, if
            Redis is away.
        last: whether this is the end of the answer.
    """

    request: int
    worker: str
    part: bytes | None
    last: bool


@dataclass(frozen=True, slots=True)
class Order(Message):
    """Gateway to worker: end or move a session, which is the receiver's or that of a worker of another node.

    Args:
        request: a number for the answer.
        action: "end" or "move".
        prefix: how the session's id begins.
        app: the session's app.
        worker: the name of its worker on the bus; empty for the receiver.
        to: the place of the worker to move it to, in its own node; -1 for any other.
    """

    request: int
    action: str
    prefix: str
    app: str
    worker: str
    to: int


@dataclass(frozen=True, slots=True)
class Acted(Message):
    """Worker to gateway: what became of an `Order`, as a status of HTTP and a sentence."""

    request: int
    status: int
    text: str


@dataclass(frozen=True, slots=True)
class Moved(Message):
    """Worker to gateway: this session of mine is for worker `to` from now on; for any other, if that is -1."""

    session_id: str
    to: int


@dataclass(frozen=True, slots=True)
class WorkerDown(Message):
    """Supervisor to gateway: this generation of the worker is dead; forget its sessions, send it nothing."""

    worker: int
    generation: int


@dataclass(frozen=True, slots=True)
class NodeReady(Message):
    """Gateway to supervisor: every worker has said hello, and the admin endpoints answer on this port."""

    admin_port: int | None


@dataclass(frozen=True, slots=True)
class Drain(Message):
    """Supervisor to gateway: the node is going down; be unready from now on, and say `Draining`.

    Args:
        closing: take no more connections either. Until then they are served: who sends them may not have heard yet.
    """

    closing: bool


@dataclass(frozen=True, slots=True)
class Draining(Message):
    """Gateway to supervisor: whoever asks is told by now that the node is not ready."""


_TYPES: tuple[type[Message], ...] = (
    Adopt,
    HandBack,
    Hello,
    Load,
    Claimed,
    Released,
    Describe,
    SessionsAre,
    Extensions,
    ExtensionsAre,
    WorkerDown,
    NodeReady,
    Drain,
    Crowded,
    Draining,
    Others,
    OthersAre,
    Order,
    Acted,
    Moved,
)
_CODES = {cls: code for code, cls in enumerate(_TYPES)}
_FIELDS = {cls: tuple(f.name for f in fields(cls)) for cls in _TYPES}


def in_parts(rows: Iterable[Row]) -> Iterator[tuple[tuple[Row, ...], bool]]:
    """Rows in as many parts as fit a message each, each with whether it is the last; without rows, one empty part."""
    part: list[Row] = []
    size = 0
    for row in rows:
        row_size = len(msgpack.packb(row, use_bin_type=True))
        if part and size + row_size > ROWS_BYTES:
            yield tuple(part), False
            part, size = [], 0
        part.append(row)
        size += row_size
    yield tuple(part), True


def datagram_pair() -> tuple[socket.socket, socket.socket]:
    """Two connected, non-blocking sockets that keep message boundaries and can pass descriptors.

    Linux has SOCK_SEQPACKET for AF_UNIX, which is reliable and tells of a closed peer. macOS does not; its SOCK_DGRAM
    pairs are reliable too, being local, and nobody here relies on the end-of-file.
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

    The owner watches `fileno()` for reading, and calls `flush` when told that it is writable; `on_blocked` is called
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

    def send(self, message: Message, passed: socket.socket | None = None) -> bool:
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

    def receive(self, limit: int = RECEIVE_LIMIT) -> list[tuple[Message, socket.socket | None]]:
        """Up to `limit` of the messages that have arrived, oldest first; the sockets among them are the caller's.

        A datagram that is no message is dropped with a line in the log: raising would lose its neighbours too. A
        connection for which the process has no descriptor is answered with 503, and its message comes without it.
        """
        arrived: list[tuple[Message, socket.socket | None]] = []
        turned_away = 0
        for _ in range(limit):
            received = self._receive_one()
            if received is None:
                break
            try:
                message, passed = _unpacked(*received)
            except ValueError as problem:
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


def _unpacked(datagram: bytes, passed: socket.socket | None) -> tuple[Message, socket.socket | None]:
    try:
        message = Message.unpack(datagram)
        if passed is not None and not message.carries_socket:
            raise ValueError(f"a {type(message).__name__} with a socket")
    except ValueError:
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


@dataclass(frozen=True, slots=True)
class WorkerSeat:
    """What the supervisor gives a worker process to live with.

    Args:
        index: the worker's place, 0 to num_procs - 1; it stays the same across restarts.
        generation: counts the restarts of this place.
        link: the worker's end of its pair with the gateway.
        lifeline: a descriptor that becomes readable (end of file) when the supervisor is gone.
        booted: tells the supervisor that the worker serves.
        retire: asks the supervisor for a replacement: it tells the gateway to send nothing more, and the worker to end.
        pipe: by which it says so.
    """

    index: int
    generation: int
    link: socket.socket
    lifeline: int
    booted: Callable[[], None]
    retire: Callable[[], None] = lambda: None
    pipe: int = -1


@dataclass(frozen=True, slots=True)
class GatewaySeat:
    """What the supervisor gives the gateway process to live with.

    Args:
        listeners: the listening sockets of the app port.
        admin_listeners: the listening sockets of the admin port, perhaps none.
        links: the gateway's end of the pair with each worker, by worker index.
        control: the gateway's end of its pair with the supervisor.
        lifeline: a descriptor that becomes readable (end of file) when the supervisor is gone.
        generations: each worker's generation as of the fork.
        supervisor_pid: for `/workers`.
    """

    listeners: tuple[socket.socket, ...]
    admin_listeners: tuple[socket.socket, ...]
    links: tuple[socket.socket, ...]
    control: socket.socket
    lifeline: int
    generations: tuple[int, ...]
    supervisor_pid: int
