"""Load generators: real websocket clients, in processes of their own so that they take no time from a server's core.

They do as little as a client can: the handshake, a pull, and then either counting what arrives or moving a slider and
waiting for its answer. `Loader` starts such a process and calls the functions of `COMMANDS` in it; connections that one
call opens stay open for the next.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import select
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Self

import orjson
from bokeh.core.types import ID
from bokeh.util.token import generate_jwt_token

__all__ = ["Delivery", "Loader", "Pace", "Probed", "Trips", "Until", "Viewer"]

PATIENCE = 60.0
"""Seconds without a byte after which a measurement fails."""

READ_SIZE = 1 << 20
TAG = b"PATCH-DOC"
TAIL_SIZE = len(TAG) - 1
"""Each read is searched together with the end of the one before, because the tag, or a marker of that length, may be
split between two reads."""

_LONG = 126
_TEXT, _CLOSE = 1, 8
_GOODBYE = struct.pack("!BBIH", 128 | _CLOSE, 128 | 2, 0, 1001)
"""What a browser sends when its tab is closed: a close frame with the code of going away (RFC 6455, section 7.4.1)."""

_TOKEN = re.compile(rb'"token":\s*"([^"]+)"')


@dataclass(frozen=True, slots=True)
class Pace:
    """How sliders are moved.

    Args:
        seconds: how long.
        pause: seconds from an answer to the next change; none saturates the server.
        writes: 3 sends header, metadata and content one by one, as `bokeh.client` does; 1 sends them together.
        warmup: changes of each session before the clock starts. A new connection's first acknowledgements are quick.
    """

    seconds: float
    pause: float = 0.0
    writes: int = 3
    warmup: int = 0


@dataclass(frozen=True, slots=True)
class Trips:
    """The round trips made: their number, the seconds from the first change to the last answer, and each one's."""

    seconds: float
    latencies: list[float]

    @property
    def rate(self) -> float:
        return len(self.latencies) / self.seconds


@dataclass(frozen=True, slots=True)
class Delivery:
    """What arrived: seconds from the start until the last viewer had the last patch, and all viewers' patches."""

    seconds: float
    patches: int
    size: int

    @property
    def rate(self) -> float:
        return self.patches / self.seconds


@dataclass(frozen=True, slots=True)
class Until:
    """How long is probed.

    Args:
        gone_file: has a byte for each session that is gone.
        sessions: that are to go.
        patience: seconds in which they must.
        afterwards: seconds that are probed on when they are gone.
    """

    gone_file: str
    sessions: int
    patience: float
    afterwards: float


@dataclass(frozen=True, slots=True)
class Probed:
    """The seconds that the longest answer took, in all and until the sessions were gone, and if that was in time."""

    longest: float
    until_gone: float
    gone: bool


class Inbox:
    """Websocket frames from a server to Bokeh messages, each a list of its fragments."""

    __slots__ = ("_buffer", "_fragments", "_missing")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._fragments: list[bytes] = []
        self._missing = 0

    def feed(self, chunk: bytes) -> list[list[bytes]]:
        """The messages that this chunk completes."""
        buffer = self._buffer
        buffer += chunk
        done: list[list[bytes]] = []
        at = 0
        while len(buffer) - at >= 2:
            head, size = 2, buffer[at + 1]
            if size >= _LONG:
                head = 4 if size == _LONG else 10
                if len(buffer) - at < head:
                    break
                size = int.from_bytes(buffer[at + 2 : at + head])
            if len(buffer) - at < head + size:
                break
            self._take(buffer[at] & 15, bytes(memoryview(buffer)[at + head : at + head + size]), done)
            at += head + size
        del buffer[:at]
        return done

    def _take(self, opcode: int, payload: bytes, done: list[list[bytes]]) -> None:
        if opcode == _CLOSE:
            raise ConnectionError(f"the server closed the websocket: {payload!r}")
        if opcode > 2:
            return
        if not self._fragments:
            self._missing = 3 + 2 * int(orjson.loads(payload).get("num_buffers", 0))
        self._fragments.append(payload)
        self._missing -= 1
        if not self._missing:
            done.append(self._fragments)
            self._fragments = []


class Viewer:
    """One websocket, blocking.

    Args:
        connected: to the server's port.
        path: of the app.
        token: of the session; see `token_for`.
    """

    def __init__(self, connected: socket.socket, path: str, token: str) -> None:
        self.socket = connected
        self.inbox = Inbox()
        self.document = b""
        self.sent = 0
        connected.sendall(
            f"GET {path}/ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
            f"Sec-WebSocket-Protocol: bokeh, {token}\r\n\r\n".encode()
        )
        answer, _, rest = _read_until(connected, b"\r\n\r\n")
        if b" 101 " not in answer.partition(b"\r\n")[0]:
            raise ConnectionError(f"the server refused a websocket: {answer!r}")
        self._early = self.inbox.feed(rest)

    def await_message(self, kind: bytes) -> list[bytes]:
        """Read on until a message of this type has arrived."""
        while True:
            for message in self._early:
                if kind in message[0]:
                    return message
            chunk = self.socket.recv(READ_SIZE)
            if not chunk:
                raise ConnectionError("the server closed the connection")
            self._early = self.inbox.feed(chunk)

    def pull(self) -> None:
        """Ask for the document, and wait for all of it."""
        self.await_message(b'"ACK"')
        self.send("PULL-DOC-REQ", b"{}", writes=1)
        self.document = self.await_message(b'"PULL-DOC-REPLY"')[2]

    def send(self, kind: str, content: bytes, *, writes: int) -> bytes:
        """Send a message; returns its id."""
        self.sent += 1
        msgid = b"N%06dN" % self.sent
        header = b'{"msgid":"%b","msgtype":"%b"}' % (msgid, kind.encode())
        frames = [masked(part) for part in (header, b"{}", content)]
        for piece in frames if writes > 1 else [b"".join(frames)]:
            self.socket.sendall(piece)
        return msgid

    def say_goodbye(self) -> None:
        """Begin to close the connection, as a browser whose tab is closed does."""
        self.socket.sendall(_GOODBYE)

    def close(self) -> None:
        """Wait until the server has closed the connection."""
        while self.socket.recv(READ_SIZE):
            pass
        self.socket.close()

    def set_value(self, model: str, value: object, *, writes: int) -> bytes:
        change = {"kind": "ModelChanged", "model": {"id": model}, "attr": "value", "new": value}
        return self.send("PATCH-DOC", orjson.dumps({"events": [change]}), writes=writes)


def masked(payload: bytes) -> bytes:
    """A client's text frame. The mask is zero, so masking costs the generator nothing and the server the usual."""
    size = len(payload)
    head = bytes((129, 128 | size)) if size < _LONG else struct.pack("!BBH", 129, 128 | _LONG, size)
    return head + b"\0\0\0\0" + payload


def model_named(document: bytes, name: str) -> str:
    """The id of the model with a name, from a pulled document."""
    for model in _objects(orjson.loads(document)):
        if model.get("attributes", {}).get("name") == name:
            return str(model["id"])
    raise LookupError(name)


def _objects(value: Any) -> list[dict[str, Any]]:
    found, waiting = [], [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            if value.get("type") == "object":
                found.append(value)
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)
    return found


def _read_until(connected: socket.socket, end: bytes) -> tuple[bytes, bytes, bytes]:
    read = b""
    while end not in read:
        chunk = connected.recv(READ_SIZE)
        if not chunk:
            raise ConnectionError(f"the server closed the connection after {read!r}")
        read += chunk
    return read.partition(end)


def connect(port: int, *, nodelay: bool = False) -> socket.socket:
    connected = socket.create_connection(("127.0.0.1", port), PATIENCE)
    if nodelay:
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connected


def get(port: int, path: str, patience: float = PATIENCE) -> bytes:
    """A page, over a connection of its own.

    Raises:
        ConnectionError: any status but 200.
        TimeoutError: nothing has come for so many seconds.
    """
    with connect(port) as connected:
        connected.settimeout(patience)
        connected.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        chunks = []
        while chunk := connected.recv(READ_SIZE):
            chunks.append(chunk)
    page = b"".join(chunks)
    if not page.startswith(b"HTTP/1.1 200"):
        raise ConnectionError(f"GET {path}: {page[:80]!r}")
    return page


# The commands of a loader process; its open connections are here, by the name of the group.

_open: dict[str, list[Viewer]] = {}
_plain: dict[str, list[socket.socket]] = {}


def open_viewers(
    group: str, port: int, path: str, count: int, *, session: str | None = None, nodelay: bool = False
) -> None:
    """Open websockets until the group has `count`, and pull on each: all of one session, or each of its own."""
    viewers = _open.setdefault(group, [])
    while len(viewers) < count:
        own = session or f"{group.replace(' ', '-')}-{os.getpid()}-{len(viewers)}"
        viewer = Viewer(connect(port, nodelay=nodelay), path, generate_jwt_token(ID(own)))
        viewer.pull()
        viewers.append(viewer)


def open_plain(group: str, port: int, count: int, *, nodelay: bool = False) -> None:
    """Open sockets without a protocol, for the physical limits."""
    sockets = _plain.setdefault(group, [])
    while len(sockets) < count:
        sockets.append(connect(port, nodelay=nodelay))


def close_all(group: str) -> None:
    """Close all connections of a group at once, as browsers do whose tabs are closed."""
    viewers = _open.pop(group, [])
    for viewer in viewers:
        viewer.say_goodbye()
    for viewer in viewers:
        viewer.close()
    for connected in _plain.pop(group, []):
        connected.close()


def deliver(group: str, kind: str, patches: int, marker: bytes) -> Delivery:
    """Let the server make `patches` changes, and wait until every viewer has all of them and the marker."""
    first = _open[group][0]
    model = model_named(first.document, "control")
    command = f"{kind}:{patches}:{marker.decode()}"
    return _drain(
        [viewer.socket for viewer in _open[group]], patches, marker, lambda: first.set_value(model, command, writes=1)
    )


def deliver_plain(group: str, size: int, patches: int, marker: bytes) -> Delivery:
    """The same from a bare sender: as many messages of `size` bytes."""
    sockets = _plain[group]
    command = struct.pack("!III", len(sockets), size, patches) + marker
    return _drain(sockets, patches, marker, lambda: sockets[0].sendall(command))


def _drain(sockets: list[socket.socket], patches: int, marker: bytes, start: Callable[[], object]) -> Delivery:
    """Count messages by their tag, and read until each socket has had the marker.

    All sockets are read into one buffer, behind the end of the socket's previous read: with 28 KB messages the reader
    is the slowest part, and its copies would be all that is measured.
    """
    poll = select.epoll()
    by_fd = {connected.fileno(): connected for connected in sockets}
    counts = dict.fromkeys(by_fd, 0)
    tails = dict.fromkeys(by_fd, bytes(TAIL_SIZE))
    buffer = bytearray(TAIL_SIZE + READ_SIZE)
    fresh = memoryview(buffer)[TAIL_SIZE:]
    size = 0
    for fd in by_fd:
        poll.register(fd, select.EPOLLIN)
    started = time.perf_counter()
    start()
    while by_fd:
        ready = poll.poll(PATIENCE)
        if not ready:
            raise TimeoutError(f"{len(by_fd)} viewers wait for patches that do not come")
        for fd, _ in ready:
            buffer[:TAIL_SIZE] = tails[fd]
            read = by_fd[fd].recv_into(fresh)
            if not read:
                raise ConnectionError("the server closed a viewer")
            size += read
            end = TAIL_SIZE + read
            tails[fd] = bytes(buffer[read:end])
            counts[fd] += buffer.count(TAG, 0, end)
            if counts[fd] >= patches and buffer.find(marker, 0, end) >= 0:
                poll.unregister(fd)
                del by_fd[fd]
    seconds = time.perf_counter() - started
    poll.close()
    return Delivery(seconds, patches * len(counts), size)


class _Mover:
    """One session's slider: a change on its way, or a pause until the next."""

    __slots__ = ("_answered", "_model", "_msgid", "_text", "_value", "_viewer", "fd", "socket", "started")

    def __init__(self, viewer: Viewer) -> None:
        self._viewer = viewer
        self._model = model_named(viewer.document, "control")
        self._value = viewer.sent * 10
        self._msgid = self._text = b""
        self._answered = 0
        self.socket = viewer.socket
        self.fd = viewer.socket.fileno()
        self.started = 0.0

    def move(self, writes: int) -> None:
        self._value += 1
        self._text = b"value is %d." % self._value
        self._answered = 0
        self.started = time.perf_counter()
        self._msgid = self._viewer.set_value(self._model, self._value, writes=writes)

    def take(self, chunk: bytes) -> bool:
        """Whether the changed text and the OK have both arrived, in whole."""
        if not chunk:
            raise ConnectionError("the server closed a session's websocket")
        for message in self._viewer.inbox.feed(chunk):
            if self._msgid in message[0]:
                if b"OK" not in message[0]:
                    raise ConnectionError(f"refused: {message[2]!r}")
                self._answered |= 1
            elif self._text in message[2]:
                self._answered |= 2
        if self._answered != 3:
            return False
        self._answered = 0  # what comes before the next move, a ping, is no answer
        return True


class _Echo:
    """The same exchange with a bare echo server."""

    __slots__ = ("_missing", "_payload", "fd", "socket", "started")

    def __init__(self, connected: socket.socket, size: int) -> None:
        self.socket = connected
        self.fd = connected.fileno()
        self.started = 0.0
        self._payload = b"x" * size
        self._missing = 0

    def move(self, _writes: int) -> None:
        self._missing = len(self._payload)
        self.started = time.perf_counter()
        self.socket.sendall(self._payload)

    def take(self, chunk: bytes) -> bool:
        self._missing -= len(chunk)
        return not self._missing


def move_sliders(group: str, sessions: int, pace: Pace) -> Trips:
    """Move the sliders of the first `sessions` of a group, each as soon as its last change was answered and paused."""
    return _exchange([_Mover(viewer) for viewer in _open[group][:sessions]], pace)


def echo(group: str, size: int, pace: Pace) -> Trips:
    """The physical limit of `move_sliders`."""
    return _exchange([_Echo(connected, size) for connected in _plain[group]], pace)


def _exchange(movers: list[Any], pace: Pace) -> Trips:
    if pace.warmup:
        _rounds(movers, Pace(0, 0, pace.writes), at_least=pace.warmup)
    return _rounds(movers, pace)


def _rounds(movers: list[Any], pace: Pace, at_least: int = 0) -> Trips:
    """Exchange until the time is up; changes that are on their way then are still waited for."""
    by_fd = {mover.fd: mover for mover in movers}
    rounds = dict.fromkeys(by_fd, 0)
    latencies: list[float] = []
    poll = select.epoll()
    for fd in by_fd:
        poll.register(fd, select.EPOLLIN)
    started = time.perf_counter()
    end = started + pace.seconds
    due = [(started + pace.pause * index / len(movers), mover) for index, mover in enumerate(movers)]
    under_way = 0
    while due or under_way:
        now = time.perf_counter()
        while due and due[0][0] <= now:
            _, mover = due.pop(0)
            mover.move(pace.writes)
            under_way += 1
        wait = max(0.0, due[0][0] - time.perf_counter()) if due else PATIENCE
        ready = poll.poll(wait)
        if not ready and not due:
            raise TimeoutError(f"{under_way} changes are not answered")
        for fd, _ in ready:
            mover = by_fd[fd]
            if not mover.take(mover.socket.recv(READ_SIZE)):
                continue
            now = time.perf_counter()
            latencies.append(now - mover.started)
            rounds[fd] += 1
            under_way -= 1
            if now + pace.pause < end or rounds[fd] < at_least:
                due.append((now + pace.pause, mover))
    poll.close()
    return Trips(time.perf_counter() - started, latencies)


def page(port: int, path: str) -> float:
    """Seconds from the GET of a page to its end."""
    started = time.perf_counter()
    get(port, path)
    return time.perf_counter() - started


def first_document(port: int, path: str) -> float:
    """Seconds from the GET of a page to its document, as a browser does it: page, websocket, pull."""
    started = time.perf_counter()
    viewer = _open_page(port, path)
    seconds = time.perf_counter() - started
    viewer.say_goodbye()
    viewer.close()
    return seconds


def open_pages(group: str, port: int, path: str, count: int) -> None:
    """As browsers do, ask for pages, each with a session, and open their websockets, until the group has `count`."""
    viewers = _open.setdefault(group, [])
    while len(viewers) < count:
        viewers.append(_open_page(port, path))


def _open_page(port: int, path: str) -> Viewer:
    """Get a page, and the document over its websocket."""
    found = _TOKEN.search(get(port, path))
    if found is None:
        raise LookupError("the page has no token")
    viewer = Viewer(connect(port, nodelay=True), path, found[1].decode())
    viewer.pull()
    return viewer


def get_pages(port: int, path: str, connections: int, seconds: float) -> float:
    """New sessions per second: pages asked for on new connections, so many at a time."""
    request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
    poll = select.epoll()
    asking: dict[int, tuple[socket.socket, list[bytes]]] = {}

    def ask() -> None:
        connected = connect(port)
        connected.sendall(request)
        asking[connected.fileno()] = (connected, [])
        poll.register(connected.fileno(), select.EPOLLIN)

    started = time.perf_counter()
    done = 0
    for _ in range(connections):
        ask()
    while asking:
        for fd, _ in poll.poll(PATIENCE):
            connected, chunks = asking[fd]
            chunk = connected.recv(READ_SIZE)
            if chunk:
                chunks.append(chunk)
                continue
            if not chunks or not chunks[0].startswith(b"HTTP/1.1 200"):
                raise ConnectionError(f"GET {path}: {chunks[:1]!r}")
            poll.unregister(fd)
            del asking[fd]
            connected.close()
            done += 1
            if time.perf_counter() - started < seconds:
                ask()
    poll.close()
    return done / (time.perf_counter() - started)


def probe(port: int, path: str, every: float, until: Until) -> Probed:
    """Ask for something cheap again and again, over one connection."""
    request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    with connect(port, nodelay=True) as connected:

        def ask(patience: float) -> None:
            connected.settimeout(patience)
            connected.sendall(request)
            if not connected.recv(READ_SIZE).startswith(b"HTTP/1.1 200"):
                raise ConnectionError(f"GET {path} was refused")

        return _ask_until(ask, every, until)


def probe_pages(port: int, path: str, every: float, until: Until) -> Probed:
    """Load pages one after the other, each of a new session over a new connection."""
    return _ask_until(lambda patience: get(port, path, patience), every, until)


def _ask_until(ask: Callable[[float], object], every: float, until: Until) -> Probed:
    deadline = time.perf_counter() + until.patience
    end: float | None = None
    longest = until_gone = 0.0
    while True:
        asked = time.perf_counter()
        if end is None:
            until_gone = longest
            if os.path.getsize(until.gone_file) >= until.sessions:
                end = asked + until.afterwards
        if asked >= (deadline if end is None else end):
            return Probed(longest, until_gone, gone=end is not None)
        try:
            ask(max(1.0, deadline + until.afterwards - asked))
        except TimeoutError:
            return Probed(time.perf_counter() - asked, until_gone, gone=False)
        longest = max(longest, time.perf_counter() - asked)
        time.sleep(every)


COMMANDS: dict[str, Callable[..., Any]] = {
    function.__name__: function
    for function in (
        open_viewers,
        open_plain,
        close_all,
        deliver,
        deliver_plain,
        move_sliders,
        echo,
        first_document,
        page,
        open_pages,
        get_pages,
        probe,
        probe_pages,
    )
}


class Loader:
    """A load generator's process. Used in a `with` block; at its end the process and its connections are gone."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, self._far_end = context.Pipe()
        self._process = context.Process(target=_obey, args=(self._far_end,), daemon=True)

    def __enter__(self) -> Self:
        self._process.start()
        self._far_end.close()  # or the end of the process would go unnoticed
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.join()

    def call(self, command: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run one of `COMMANDS` over there.

        Raises:
            Exception: whatever it raised.
        """
        self.start(command, *args, **kwargs)
        return self.result()

    def start(self, command: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        """Begin one of `COMMANDS`; `result` waits for its end."""
        self._pipe.send((command.__name__, args, kwargs))

    def result(self) -> Any:
        answer = self._pipe.recv()
        if isinstance(answer, BaseException):
            raise answer
        return answer


def _obey(pipe: Connection) -> None:
    while True:
        try:
            name, args, kwargs = pipe.recv()
        except (EOFError, KeyboardInterrupt):
            return
        try:
            pipe.send(COMMANDS[name](*args, **kwargs))
        except KeyboardInterrupt:
            return
        except Exception as problem:
            pipe.send(problem)
