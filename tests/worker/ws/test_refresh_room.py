"""`aperture.worker.ws.refresh_room`: what slow viewers are sent together is bounded, and each has its turn."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import partial

from support.peers import in_loop

from aperture.worker.ws.refresh_room import RefreshRoom

MB = 1024 * 1024


@dataclass(eq=False)
class Slow:
    """A viewer that is behind."""

    expected: int = MB
    behind: bool = True


class Hall:
    """A room for so many viewers of 1 MB each, and who was let in."""

    def __init__(self, places: int) -> None:
        self.room = RefreshRoom(places * MB)
        self.let_in: list[Slow] = []

    async def enter(self, *viewers: Slow) -> None:
        for viewer in viewers:
            self.room.enter(viewer, partial(self.let_in.append, viewer))
        await asyncio.sleep(0)

    async def leave(self, viewer: Slow) -> None:
        self.room.leave(viewer)
        await asyncio.sleep(0)


@in_loop
async def test_who_comes_when_it_is_full_waits() -> None:
    """And is let in when another has read what it was sent, in the order of their coming."""
    hall, (a, b, c, d) = Hall(2), [Slow() for _ in range(4)]
    await hall.enter(a, b, c, d)
    assert hall.let_in == [a, b]
    await hall.leave(b)
    assert hall.let_in == [a, b, c]
    await hall.leave(b)
    assert hall.let_in == [a, b, c]
    await hall.leave(a)
    assert hall.let_in == [a, b, c, d]


@in_loop
async def test_what_waits_now_counts() -> None:
    """A document that is larger than was expected takes the room of several; a small one counts, too."""
    hall, (large, small, third) = Hall(4), [Slow(expected=1) for _ in range(3)]
    await hall.enter(large)
    large.expected = 5 * MB
    await hall.enter(small)
    assert hall.let_in == [large]
    large.expected = MB
    await hall.enter(third)
    assert hall.let_in == [large, small, third]


@in_loop
async def test_one_alone_is_let_in_however_large() -> None:
    """Else it would never be sent its document."""
    hall, huge = Hall(1), Slow(expected=100 * MB)
    await hall.enter(huge)
    assert hall.let_in == [huge]


@in_loop
async def test_who_is_closed_meanwhile_keeps_no_place() -> None:
    """Neither in the room nor in the queue before it."""
    hall, (a, b, c) = Hall(1), [Slow() for _ in range(3)]
    await hall.enter(a, b, c)
    await hall.leave(b)
    await hall.leave(a)
    assert hall.let_in == [a, c]


@in_loop
async def test_who_has_caught_up_meanwhile_keeps_no_place() -> None:
    """By pulling the document: it is called, as it may wait, and wants no room."""
    hall, (a, b, c) = Hall(1), [Slow() for _ in range(3)]
    await hall.enter(a, b, c)
    b.behind = False
    await hall.leave(a)
    await asyncio.sleep(0)
    assert hall.let_in == [a, b, c]


@in_loop
async def test_who_asks_again_is_told_once() -> None:
    """What was to be called before is not."""
    hall, (a, b) = Hall(1), (Slow(), Slow())
    await hall.enter(a, b, b)
    await hall.leave(a)
    assert hall.let_in == [a, b]
