"""Connections that another process accepted: served from the bytes that were read already, or handed back whole."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from support.patience import seconds
from support.peers import in_loop
from tornado.httputil import HTTPHeaders, RequestStartLine
from tornado.iostream import StreamClosedError
from tornado.web import Application, RequestHandler

from aperture.worker.adopt import AdoptedStream, Peer, StickyServer, adopt_socket
from aperture.worker.waiting import Waiting

PEER = Peer(("192.0.2.7", 4711), tls=False)


class Echo(RequestHandler):
    """Says what it was asked, and by whom."""

    def get(self) -> None:
        self.finish(f"{self.request.path} {self.request.remote_ip} {self.request.protocol}")

    def post(self) -> None:
        self.finish(self.request.body)


@dataclass
class HandingBack:
    """Gives back every request for a path under /elsewhere."""

    returned: list[tuple[socket.socket, bytes, Peer]] = field(default_factory=list)
    asked: list[tuple[str, str | None]] = field(default_factory=list)

    def belongs_elsewhere(self, start: RequestStartLine, headers: HTTPHeaders, routed: str | None) -> bool:
        self.asked.append((start.path, routed))
        return start.path.startswith("/elsewhere")

    def hand_back(self, released: socket.socket, head: bytes, peer: Peer) -> None:
        self.returned.append((released, head, peer))


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A connected pair: the browser's end, and the one that is adopted."""
    client, adopted = socket.socketpair()
    client.setblocking(False)
    with client:
        yield client, adopted
        adopted.close()


async def read_answer(client: socket.socket, answers: int = 1) -> bytes:
    """So many answers, as far as they have a length."""
    loop = asyncio.get_running_loop()
    got = b""
    async with asyncio.timeout(seconds(10)):
        while True:
            heads = got.split(b"HTTP/1.1 ")[1:]
            complete = [part for part in heads if _is_complete(part)]
            if len(complete) == answers:
                return got
            more = await loop.sock_recv(client, 65536)
            assert more, got
            got += more


def _is_complete(answer: bytes) -> bool:
    head, blank, body = answer.partition(b"\r\n\r\n")
    size = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0] or 0)
    return bool(blank) and len(body) >= size


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: h\r\nX-Mine: a: b\r\n\r\n".encode()


def serve(adopted: socket.socket, first: bytes, handing_back: HandingBack | None = None, peer: Peer = PEER) -> None:
    server = StickyServer(Application([(r".*", Echo)]), handing_back=handing_back, waiting=Waiting(10.0, 100))
    adopt_socket(adopted)
    server.adopt(AdoptedStream(adopted, first, peer, "routed"))


@in_loop
async def test_a_head_that_was_read_already_is_answered(ends: tuple[socket.socket, socket.socket]) -> None:
    """With the client's own address, and not that of a socket pair."""
    client, adopted = ends
    serve(adopted, get("/page"))
    assert (await read_answer(client)).endswith(b"/page 192.0.2.7 http")


@in_loop
async def test_tls_that_ended_before_is_known(ends: tuple[socket.socket, socket.socket]) -> None:
    """Cookies and redirects depend on it."""
    client, adopted = ends
    serve(adopted, get("/page"), peer=Peer(("192.0.2.7", 4711), tls=True))
    assert (await read_answer(client)).endswith(b"https")


@pytest.mark.parametrize("cut", [1, 20, 50, 60, 70])
@in_loop
async def test_the_rest_of_a_request_is_read_from_the_socket(
    cut: int, ends: tuple[socket.socket, socket.socket]
) -> None:
    """Wherever the first reading ended, in the head or in the body."""
    client, adopted = ends
    request = b"POST /body HTTP/1.1\r\nHost: h\r\nContent-Length: 26\r\n\r\n" + b"abcdefghijklmnopqrstuvwxyz"
    serve(adopted, request[:cut])
    await asyncio.get_running_loop().sock_sendall(client, request[cut:])
    assert (await read_answer(client)).endswith(b"abcdefghijklmnopqrstuvwxyz")


@in_loop
async def test_requests_that_were_read_together_are_all_answered(ends: tuple[socket.socket, socket.socket]) -> None:
    """A proxy may send the next one before the answer to the first."""
    client, adopted = ends
    serve(adopted, get("/one") + get("/two"))
    answers = await read_answer(client, 2)
    assert answers.index(b"/one ") < answers.index(b"/two ")


@in_loop
async def test_the_first_request_is_not_questioned(ends: tuple[socket.socket, socket.socket]) -> None:
    """The gateway has routed it; the ones after it on the same connection were sent by others."""
    client, adopted = ends
    handing_back = HandingBack()
    serve(adopted, get("/elsewhere/first"), handing_back)
    assert b"/elsewhere/first" in await read_answer(client)
    await asyncio.get_running_loop().sock_sendall(client, get("/here"))
    assert b"/here" in await read_answer(client)
    assert handing_back.asked == [("/here", None)]


@in_loop
async def test_a_strangers_request_is_handed_back_whole(ends: tuple[socket.socket, socket.socket]) -> None:
    """The socket, the head, and what followed it: another worker answers as if nothing had happened."""
    client, adopted = ends
    handing_back = HandingBack()
    serve(adopted, get("/here"), handing_back)
    await read_answer(client)
    body = b"POST /elsewhere HTTP/1.1\r\nHost: h\r\nX-Mine: a: b\r\nContent-Length: 4\r\n\r\nbody"
    await asyncio.get_running_loop().sock_sendall(client, body + get("/next"))
    async with asyncio.timeout(seconds(10)):
        while not handing_back.returned:
            await asyncio.sleep(0)
    [(released, head, peer)] = handing_back.returned
    assert peer is PEER
    assert head.startswith(b"POST /elsewhere HTTP/1.1\r\n")
    assert b"X-Mine: a: b\r\n" in head
    with released:
        serve(released, head)
        answers = await read_answer(client, 2)
    assert b"\r\n\r\nbody" in answers
    assert answers.endswith(b"/next 192.0.2.7 http")


@in_loop
async def test_a_released_socket_outlives_its_stream(ends: tuple[socket.socket, socket.socket]) -> None:
    """The stream closes its own descriptor only."""
    client, adopted = ends
    adopt_socket(adopted)
    stream = AdoptedStream(adopted, b"first bytes", PEER, None)
    released, unused = stream.release()
    with released:
        assert unused == b"first bytes"
        assert stream.closed()
        await asyncio.get_running_loop().sock_sendall(client, b"more")
        assert await asyncio.get_running_loop().sock_recv(released, 10) == b"more"
    with pytest.raises(StreamClosedError):
        await stream.read_bytes(1)


def test_sockets_of_the_network_are_set_up() -> None:
    """No delay, keep-alive, and a bound on what stays unacknowledged."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as made:
        adopt_socket(made)
        assert not made.getblocking()
        assert made.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert made.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
