"""What connections may hold of a worker that serves them: places, time for a first head, and bodies."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import pytest
from support.patience import seconds
from support.peers import in_loop
from tornado.web import RequestHandler, stream_request_body

from aperture.worker import waiting as waiting_module
from aperture.worker.adopt import AdoptedStream, ListeningServer, Peer, StickyServer, adopt_socket
from aperture.worker.http.access_log import LoggedApplication
from aperture.worker.http.bodies import Bodies
from aperture.worker.waiting import Waiting

LARGE = 16_000_000
GET = b"GET /upload HTTP/1.1\r\nHost: h\r\n\r\n"


class Upload(RequestHandler):
    """A handler of an app."""

    def get(self) -> None:
        self.finish("here")

    def post(self) -> None:
        self.finish(str(len(self.request.body)))


@stream_request_body
class Stream(RequestHandler):
    """One that keeps nothing of what it is sent."""

    def prepare(self) -> None:
        self.size = 0

    def data_received(self, chunk: bytes) -> None:
        self.size += len(chunk)

    def post(self) -> None:
        self.finish(str(self.size))


class Large(RequestHandler):
    """One whose answer is far more than sockets hold."""

    def get(self) -> None:
        self.finish(b"x" * LARGE)


@dataclass
class Desk:
    """A server, and clients of it."""

    stack: ExitStack
    bodies: Bodies = field(default_factory=lambda: Bodies(4_000_000))
    waiting: Waiting = field(default_factory=lambda: Waiting(0.05, 100))

    def __post_init__(self) -> None:
        routes: list[Any] = [
            ("/upload", Upload),
            ("/stream", Stream),
            ("/large", Large),
        ]
        self.application = LoggedApplication(routes, bodies=self.bodies, log_function=lambda handler: None)
        self.server = StickyServer(self.application, waiting=self.waiting)

    def connect(self, first: bytes) -> socket.socket:
        client, adopted = socket.socketpair()
        self.stack.enter_context(client)
        self.stack.callback(adopted.close)
        client.setblocking(False)
        adopt_socket(adopted)
        self.server.adopt(AdoptedStream(adopted, first, Peer(None, False), None))
        return client


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Heads are looked for more often than in earnest."""
    monkeypatch.setattr(waiting_module, "LOOK_INTERVAL", 0.01)


async def read_until(client: socket.socket, end: bytes) -> bytes:
    """What comes, up to these bytes; with none of them, up to the connection's end."""
    loop, got = asyncio.get_running_loop(), b""
    async with asyncio.timeout(seconds(10)):
        while not (end and got.endswith(end)):
            more = await loop.sock_recv(client, 65536)
            if not more:
                break
            got += more
    return got


async def read_exactly(client: socket.socket, size: int) -> None:
    async with asyncio.timeout(seconds(20)):
        while size:
            more = len(await asyncio.get_running_loop().sock_recv(client, size))
            assert more, "the connection has ended"
            size -= more


async def send(client: socket.socket, *parts: bytes) -> None:
    async with asyncio.timeout(seconds(10)):
        for part in parts:
            await asyncio.get_running_loop().sock_sendall(client, part)


async def until(condition: Any) -> None:
    async with asyncio.timeout(seconds(10)):
        while not condition():
            await asyncio.sleep(0)


def post(path: str, size: int) -> bytes:
    return f"POST {path} HTTP/1.1\r\nHost: h\r\nContent-Length: {size}\r\n\r\n".encode()


@in_loop
async def test_above_their_number_the_longest_idle_is_closed(stack: ExitStack) -> None:
    """Those that have begun to send something stay."""
    desk = Desk(stack, waiting=Waiting(60.0, 3))
    sending = desk.connect(post("/upload", 5))
    idle = [desk.connect(GET) for _ in range(2)]
    for client in idle:
        await read_until(client, b"here")
    await until(lambda: len(desk.waiting) == 3)
    another = desk.connect(GET)
    await read_until(another, b"here")
    assert await read_until(idle[0], b"") == b""
    await send(sending, b"12345")
    assert (await read_until(sending, b"5")).startswith(b"HTTP/1.1 200 ")
    await send(idle[1], GET)
    await read_until(idle[1], b"here")


@in_loop
async def test_a_connection_that_was_accepted_here_has_as_long_for_its_first_head(stack: ExitStack) -> None:
    """Where there is no gateway, silence counts, too."""
    desk = Desk(stack)
    server = ListeningServer(desk.application, waiting=desk.waiting)
    server.listen(0, "127.0.0.1")
    [listening] = server._sockets.values()
    client = stack.enter_context(socket.create_connection(listening.getsockname()))
    client.setblocking(False)
    assert (await read_until(client, b"")).startswith(b"HTTP/1.1 408 ")
    server.stop()


@in_loop
async def test_a_peer_that_takes_nothing_of_an_answer_is_closed(
    stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the answer held is free then; one that takes a little now and then gets all of it."""
    monkeypatch.setattr(waiting_module, "STALL_TIME", seconds(0.5))
    desk, loop = Desk(stack), asyncio.get_running_loop()
    slow, stalled = (desk.connect(GET.replace(b"/upload", b"/large")) for _ in range(2))
    taken = 0
    async with asyncio.timeout(seconds(20)):
        while len(desk.server._connections) > 1:
            taken += len(await loop.sock_recv(slow, 2048))
            await asyncio.sleep(0.01)
    rest = await read_until(stalled, b"")
    assert rest.startswith(b"HTTP/1.1 200 ")
    assert len(rest) < LARGE / 2
    assert taken < LARGE / 2
    await read_exactly(slow, LARGE + rest.index(b"\r\n\r\n") + 4 - taken)


@in_loop
async def test_bodies_whose_last_byte_is_withheld_do_not_shut_others_out(stack: ExitStack) -> None:
    """Above the bound on all of them together, the connection that sent nothing for the longest time is closed."""
    desk = Desk(stack)
    withheld = [desk.connect(post("/upload", 1_000_001)) for _ in range(4)]
    for count, client in enumerate(withheld, 1):
        await send(client, b"x" * 1_000_000)
        await until(lambda count=count: desk.bodies.total == count * 1_000_000)
    honest = desk.connect(post("/upload", 1_000_000))
    await send(honest, b"x" * 1_000_000)
    assert (await read_until(honest, b"1000000")).startswith(b"HTTP/1.1 200 ")
    assert await read_until(withheld[0], b"") == b""
    assert desk.bodies.total == 3_000_000
    await send(withheld[3], b"x")
    assert (await read_until(withheld[3], b"1000001")).startswith(b"HTTP/1.1 200 ")


@in_loop
async def test_what_a_handler_takes_in_pieces_is_not_held_against_it(stack: ExitStack) -> None:
    """It may be more than all bodies together that are kept."""
    client = Desk(stack, bodies=Bodies(1000)).connect(post("/stream", 2_000_000))
    await send(client, b"x" * 2_000_000)
    assert (await read_until(client, b"2000000")).startswith(b"HTTP/1.1 200 ")
