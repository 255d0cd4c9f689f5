"""The worker's side of its pair with the gateway; the test is the gateway."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
from msgspec.structs import replace
from support.patience import seconds
from support.peers import in_loop
from tornado.httputil import HTTPHeaders, RequestStartLine

from aperture.wire.accounts import Load, SessionRow
from aperture.wire.endpoint import Endpoint, datagram_pair
from aperture.wire.node_messages import (
    Adopt,
    Claimed,
    Crowded,
    Describe,
    Extensions,
    ExtensionsAre,
    HandBack,
    Hello,
    LoadReport,
    NodeMessage,
    Released,
    SessionsAre,
)
from aperture.wire.seats import WorkerSeat
from aperture.worker.adopt import AdoptedStream, Peer
from aperture.worker.gateway_link import GatewayLink

GENERATION = 3


@dataclass
class Desk:
    """A link, and the gateway's end of its pair."""

    gateway: Endpoint
    link: GatewayLink
    adopted: list[AdoptedStream] = field(default_factory=list)
    sessions: list[SessionRow] = field(default_factory=list)

    async def receive(self, count: int = 1) -> list[tuple[NodeMessage, socket.socket | None]]:
        """The next messages from the worker."""
        got: list[tuple[NodeMessage, socket.socket | None]] = []
        async with asyncio.timeout(seconds(10)):
            while len(got) < count:
                got += self.gateway.receive(count - len(got))
                await asyncio.sleep(0)
        return got

    async def messages(self, count: int = 1) -> list[NodeMessage]:
        return [message for message, _ in await self.receive(count)]

    async def until(self, condition: Any) -> None:
        async with asyncio.timeout(seconds(10)):
            while not condition():
                await asyncio.sleep(0)


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ends = datagram_pair()
    yield ends
    for end in ends:
        end.close()


def desk_of(pair: tuple[socket.socket, socket.socket]) -> Desk:
    """Must be called in a running loop, which the link belongs to."""
    seat = WorkerSeat(index=1, generation=GENERATION, link=pair[1], lifeline=-1, booted=lambda: None)
    link = GatewayLink(
        seat,
        adopt=lambda stream: desk.adopted.append(stream),
        describe=lambda: desk.sessions,
        owns=lambda session_id: session_id == "mine",
        creates=lambda path: path == "/app",
    )
    desk = Desk(Endpoint(pair[0]), link)
    return desk


def adopt(generation: int = GENERATION, session_id: str | None = "s", number: int = 1) -> Adopt:
    return Adopt(generation, b"GET /app HTTP/1.1\r\n\r\n", ("192.0.2.7", 4711), True, session_id, number)


@in_loop
async def test_it_says_hello_and_takes_connections(pair: tuple[socket.socket, socket.socket]) -> None:
    """With the bytes, the peer and the session that the gateway found."""
    desk = desk_of(pair)
    desk.link.open()
    [hello] = await desk.messages()
    assert isinstance(hello, Hello)
    assert (hello.worker, hello.generation) == (1, GENERATION)
    client, passed = socket.socketpair()
    with client:
        desk.gateway.send(adopt(), passed)
        await desk.until(lambda: desk.adopted)
        [stream] = desk.adopted
        assert stream.peer == Peer(("192.0.2.7", 4711), True)
        assert stream.session_id == "s"
        async with asyncio.timeout(seconds(10)):
            assert await stream.read_until(b"\r\n\r\n") == b"GET /app HTTP/1.1\r\n\r\n"
        stream.close()
    desk.link.report(Load(1, 2, 0.5, 4))
    assert await desk.messages() == [LoadReport(Load(1, 2, 0.5, 4), 1)]
    desk.link.stop_adopting()


@in_loop
async def test_a_connection_that_came_without_its_socket_is_reported_once(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    """Its number, so that the gateway does not wait for it; and that there was no room, so that it sends no more."""
    desk = desk_of(pair)
    desk.link.open()
    await desk.messages()
    pair[0].send(adopt(number=17).pack())
    load = LoadReport(Load(0, 0, 0.0, 0), 17)
    while True:
        desk.link.report(Load(0, 0, 0.0, 0))
        [reported] = await desk.messages()
        if reported != LoadReport(Load(0, 0, 0.0, 0), 0):
            break
    assert reported == replace(load, exhausted=True)
    desk.link.report(Load(0, 0, 0.0, 0))
    assert await desk.messages() == [load]
    desk.link.stop_adopting()


@in_loop
async def test_what_was_meant_for_its_predecessor_goes_back(pair: tuple[socket.socket, socket.socket]) -> None:
    """The session may have been given to another worker meanwhile; the connection is whole."""
    desk = desk_of(pair)
    desk.link.open()
    await desk.messages()
    client, passed = socket.socketpair()
    with client:
        desk.gateway.send(adopt(GENERATION - 1), passed)
        [(message, returned)] = await desk.receive()
        assert message == HandBack(b"GET /app HTTP/1.1\r\n\r\n", ("192.0.2.7", 4711), True)
        assert returned is not None
        with returned:
            client.sendall(b"x")
            assert returned.recv(1) == b"x"
    assert desk.adopted == []
    desk.link.stop_adopting()


@in_loop
async def test_it_tells_a_new_gateway_everything(pair: tuple[socket.socket, socket.socket]) -> None:
    """In parts that fit a datagram, though the ids be as long as they may; the last part says so."""
    desk = desk_of(pair)
    desk.sessions = [SessionRow(f"{number:0512}", "/app", 1, 2, 0, 1.5) for number in range(450)]
    desk.sessions += [SessionRow("\N{TURTLE}" * 256, "/\N{TURTLE}" * 128, 1, 2, 0, 1.5) for _ in range(450)]
    desk.link.open()
    await desk.messages()
    desk.gateway.send(Describe(7))
    assert isinstance((await desk.messages())[0], Hello)
    listed: list[SessionRow] = []
    parts = 0
    is_last = False
    while not is_last:
        [part] = await desk.messages()
        assert isinstance(part, SessionsAre)
        assert part.request == 7
        listed += part.sessions
        parts += 1
        is_last = part.last
    assert listed == desk.sessions
    assert parts > 1
    desk.sessions = []
    desk.gateway.send(Describe(8))
    assert (await desk.messages(2))[1] == SessionsAre(8, (), True)
    desk.link.stop_adopting()


@in_loop
async def test_a_message_that_fails_does_not_cost_its_neighbours(
    pair: tuple[socket.socket, socket.socket], caplog: pytest.LogCaptureFixture
) -> None:
    """Connections behind it in the same batch are adopted, and the failure is in the log."""
    desk = desk_of(pair)
    desk.sessions = [cast("SessionRow", None)]
    client, passed = socket.socketpair()
    with client:
        desk.gateway.send(Describe(7))
        desk.gateway.send(adopt(), passed)
        desk.link.open()
        await desk.until(lambda: desk.adopted)
        desk.adopted[0].close()
    assert "acting on a Describe from the gateway failed" in caplog.text
    desk.link.stop_adopting()


@in_loop
async def test_it_tells_a_new_gateway_what_is_crowded(pair: tuple[socket.socket, socket.socket]) -> None:
    """Behind the sessions, which the gateway has to know as this worker's, and only what still is."""
    desk = desk_of(pair)
    desk.link.open()
    for session_id, crowded in (("one", True), ("two", True), ("one", False), ("three", False)):
        desk.link.say_crowded(session_id, crowded)
    await desk.messages(5)
    desk.gateway.send(Describe(7))
    assert (await desk.messages(3))[1:] == [SessionsAre(7, (), True), Crowded("two", True)]
    desk.link.stop_adopting()


@in_loop
async def test_claims_come_before_what_follows_them(pair: tuple[socket.socket, socket.socket]) -> None:
    """A claim is done when the gateway's end has it, also when the pair was full."""
    desk = desk_of(pair)
    desk.link.open()
    await desk.messages()
    await desk.link.announce("a")
    desk.link.retract("a")
    assert await desk.messages(2) == [Claimed(("a",)), Released(("a",))]
    sent = 0
    while desk.link._endpoint.queued == 0:
        desk.link.retract("x" * 1000)
        sent += 1
    desk.link.report(Load(1, 1, 0.0, 0))
    claiming = asyncio.create_task(desk.link.announce("b"))
    await asyncio.sleep(0)
    assert not claiming.done()
    messages = await desk.messages(sent + 1)
    assert messages[-1] == Claimed(("b",))
    assert not any(isinstance(message, LoadReport) for message in messages)
    async with asyncio.timeout(seconds(10)):
        await claiming
    desk.link.stop_adopting()


@in_loop
async def test_extensions_are_exchanged(pair: tuple[socket.socket, socket.socket]) -> None:
    """Each question gets its own answer, in whatever order they come; a late one is dropped."""
    desk = desk_of(pair)
    desk.link.open()
    await desk.messages()
    first = asyncio.create_task(desk.link.share_extensions({"a": "/a"}))
    second = asyncio.create_task(desk.link.share_extensions({"b": "/b"}))
    given_up = asyncio.create_task(desk.link.share_extensions({"c": "/c"}))
    questions = await desk.messages(3)
    given_up.cancel()
    for question in reversed(questions):
        assert isinstance(question, Extensions)
        desk.gateway.send(ExtensionsAre(question.request, {**question.dirs, "all": b"/all"}))
    async with asyncio.timeout(seconds(10)):
        assert await first == {"a": "/a", "all": "/all"}
        assert await second == {"b": "/b", "all": "/all"}
    desk.link.stop_adopting()


@in_loop
async def test_after_its_last_connection_it_takes_no_more(pair: tuple[socket.socket, socket.socket]) -> None:
    """What comes then stays in the pair, where the supervisor finds it."""
    desk = desk_of(pair)
    desk.link.open()
    await desk.messages()
    for _ in range(2):
        desk.link.stop_adopting()
    client, passed = socket.socketpair()
    with client:
        desk.gateway.send(adopt(), passed)
        for _ in range(10):
            await asyncio.sleep(0)
        assert desk.adopted == []
        [(message, found)] = Endpoint(pair[1]).receive()
        assert isinstance(message, Adopt)
        assert found is not None
        found.close()


@in_loop
async def test_a_stray_message_is_logged_and_its_socket_closed(
    pair: tuple[socket.socket, socket.socket], caplog: pytest.LogCaptureFixture
) -> None:
    """It is a mistake of ours, and no reason to stop serving."""
    desk = desk_of(pair)
    desk.link.open()
    await desk.messages()
    client, passed = socket.socketpair()
    with client:
        desk.gateway.send(HandBack(b"", None, False), passed)
        await desk.until(lambda: "HandBack" in caplog.text)
        assert client.recv(1) == b""
    desk.link.stop_adopting()


@pytest.mark.parametrize(
    ("method", "target", "routed", "elsewhere"),
    [
        ("GET", "/app?bokeh-session-id=mine", None, False),
        ("GET", "/app?bokeh-session-id=other", None, True),
        ("GET", "/app?bokeh-session-id=other", "other", False),
        ("GET", "/app", None, True),
        ("GET", "/app?a=1", None, True),
        ("POST", "/app", None, False),
        ("GET", "/static/js/bokeh.js", None, False),
        ("GET", "http://[/app", None, False),
        ("GET", "*", None, False),
    ],
)
@in_loop
async def test_which_requests_are_for_others(
    method: str, target: str, routed: str | None, elsewhere: bool, pair: tuple[socket.socket, socket.socket]
) -> None:
    """Sessions that are not here, and new ones, which go to the least loaded worker."""
    link = desk_of(pair).link
    assert link.belongs_elsewhere(RequestStartLine(method, target, "HTTP/1.1"), HTTPHeaders(), routed) == elsewhere
