"""The open websockets of a worker, and their end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from support.peers import in_loop

from aperture.protocol.closing import SERVICE_RESTART
from aperture.worker.ws.sockets import OpenSockets


class Socket:
    """A websocket as far as its end is concerned; it answers a close when a test says so.

    Args:
        sockets: where it is counted.
    """

    def __init__(self, sockets: OpenSockets, *, answers: bool = True) -> None:
        self.codes: list[int | None] = []
        self.pings = 0
        self.pinged: Callable[[Socket], object] = lambda socket: None
        self._sockets = sockets
        self._answers = answers

    def keep_alive(self) -> None:
        self.pings += 1
        self.pinged(self)

    def close(self, code: int | None = None, reason: str | None = None) -> None:
        self.codes.append(code)
        if self._answers:
            asyncio.get_running_loop().call_soon(self._sockets.remove, self)


@in_loop
async def test_sockets_are_counted() -> None:
    """Each once, and one that is not there is not missed."""
    sockets = OpenSockets()
    one, other = Socket(sockets), Socket(sockets)
    for socket in (one, other, one):
        sockets.add(socket)
    assert len(sockets) == 2
    assert set(sockets) == {one, other}
    for _ in range(2):
        sockets.remove(one)
    assert list(sockets) == [other]


@in_loop
async def test_open_sockets_are_pinged_again_and_again() -> None:
    """All of them, also more than have their turn at once, and none that has ended."""
    sockets = OpenSockets()
    opened = [Socket(sockets) for _ in range(250)]
    ended, last = opened[100], opened[-1]
    pings: asyncio.Queue[Socket] = asyncio.Queue()
    last.pinged = pings.put_nowait
    for socket in opened:
        sockets.add(socket, 0.001)
    sockets.remove(ended)
    for _ in range(3):
        await pings.get()
    assert ended.pings == 0
    assert {min(socket.pings, 2) for socket in opened if socket is not ended} == {2}


@in_loop
async def test_no_timer_is_left_behind() -> None:
    """Of a worker without websockets, or one that closes."""
    sockets = OpenSockets()
    socket = Socket(sockets)
    for _ in range(2):
        sockets.add(socket, 60)
        assert sockets._pinging is not None
        sockets.remove(socket)
        assert sockets._pinging is None
    sockets.add(socket)
    assert sockets._pinging is None


@in_loop
async def test_all_are_closed_and_waited_for() -> None:
    """With 1012, and until the last has answered."""
    sockets = OpenSockets()
    opened = [Socket(sockets) for _ in range(3)]
    for socket in opened:
        sockets.add(socket)
    await sockets.close_all(60)
    assert [socket.codes for socket in opened] == [[SERVICE_RESTART]] * 3
    assert len(sockets) == 0


@in_loop
async def test_peers_that_do_not_answer_are_not_waited_for_longer() -> None:
    """The time given is an upper bound, here none at all."""
    sockets = OpenSockets()
    silent = Socket(sockets, answers=False)
    sockets.add(silent)
    await sockets.close_all(0)
    assert silent.codes == [SERVICE_RESTART]
    assert len(sockets) == 1


@in_loop
async def test_one_that_opens_meanwhile_is_closed_at_once() -> None:
    """It was in the middle of its handshake when the others were closed."""
    sockets = OpenSockets()
    await sockets.close_all(60)
    late = Socket(sockets)
    sockets.add(late)
    assert late.codes == [SERVICE_RESTART]
