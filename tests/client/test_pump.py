"""What a blocking call does while it waits: it takes what has arrived, and runs what is due."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

import pytest

from aperture.client.connect_options import ClientOptions
from aperture.client.incoming import Item, Overrun
from aperture.client.pump import Pump
from aperture.errors import LoopBlocked, ServerSilent


class Once:
    """A next-tick callback, as Bokeh makes it."""

    id = "once"
    timeout = 0

    def __init__(self, callback: Callable[[], object]) -> None:
        self.callback = callback


class Periodic:
    """A periodic one, which is always due."""

    id = "periodic"
    period = 0

    def __init__(self, callback: Callable[[], object]) -> None:
        self.callback = callback


OPTIONS = ClientOptions(websocket_url="ws://server/app/ws", session_id="session-of-a-test")


class World:
    """A pump, and what it has taken."""

    def __init__(self, loop: asyncio.AbstractEventLoop | None = None) -> None:
        self.taken: list[Item] = []
        self.pump = Pump(OPTIONS, loop, self.taken.append)


def test_a_wait_takes_what_has_arrived_until_its_condition_holds() -> None:
    """One item after the other, in their order; the rest stays."""
    world = World()
    items = [Overrun() for _ in range(3)]
    for item in items:
        world.pump.inbox.put(item)
    world.pump.wait(lambda: len(world.taken) == 2, "did not answer")
    assert list(map(id, world.taken)) == list(map(id, items[:2]))
    world.pump.take_all()
    assert list(map(id, world.taken)) == list(map(id, items))


def test_a_wait_that_is_fulfilled_takes_nothing() -> None:
    """Not even what is there already."""
    world = World()
    world.pump.inbox.put(Overrun())
    world.pump.wait(lambda: True, "did not answer")
    assert world.taken == []


def test_a_server_that_does_not_answer_is_named() -> None:
    """With what it has not done, and the time it had; on an event loop, with the likely cause."""
    world = World()
    with pytest.raises(ServerSilent, match=r"ws://server/app/ws did not answer within 0 s"):
        world.pump.wait(lambda: False, "did not answer", 0)

    async def on_a_loop() -> None:
        world.pump.wait(lambda: False, "did not answer", 0)

    with pytest.raises(LoopBlocked, match="blocks the event loop that runs in this thread"):
        asyncio.run(on_a_loop())


def test_callbacks_wait_for_the_first_document() -> None:
    """They may use the session that the first call is still to return."""
    world = World()
    ran: list[int] = []
    world.pump.agenda.add(Once(lambda: ran.append(1)))
    world.pump.turn(0)
    assert ran == []
    world.pump.runs_callbacks = True
    world.pump.turn(0)
    world.pump.turn(0)
    assert ran == [1]


def test_a_wait_ends_for_a_callback_that_is_added_meanwhile() -> None:
    """Without an item: the agenda wakes the inbox."""
    world = World()
    world.pump.runs_callbacks = True
    ran: list[int] = []
    world.pump.agenda.add(Once(lambda: ran.append(1)))
    world.pump.wait(lambda: bool(ran), "did not run")
    assert ran == [1]


def test_a_callback_that_fails_stays_scheduled(caplog: pytest.LogCaptureFixture) -> None:
    """If it is periodic; the call goes on, and the log names the session."""
    world = World()
    world.pump.runs_callbacks = True
    runs: list[int] = []

    def fail() -> None:
        runs.append(1)
        raise ValueError("of the program's")

    world.pump.agenda.add(Periodic(fail))
    with caplog.at_level(logging.ERROR):
        world.pump.wait(lambda: len(runs) == 2, "did not run twice")
    assert "timed callback failed: session session-..., it stays scheduled" in caplog.text


@pytest.mark.parametrize("own_loop", [False, True])
def test_async_callbacks_run_to_their_end(*, own_loop: bool) -> None:
    """On the caller's loop, where it gave one that does not run, and on a new one elsewhere."""
    loop = asyncio.new_event_loop() if own_loop else None
    try:
        world = World(loop)
        world.pump.runs_callbacks = True
        loops: list[asyncio.AbstractEventLoop] = []

        def begin() -> Awaitable[None]:
            async def run() -> None:
                await asyncio.sleep(0)
                loops.append(asyncio.get_running_loop())

            return run()

        world.pump.agenda.add(Once(begin))
        world.pump.wait(lambda: bool(loops), "did not run")
        assert (loops[0] is loop) == own_loop
    finally:
        if loop is not None:
            loop.close()


def test_the_callers_loop_runs_while_a_call_waits() -> None:
    """The server may be on it: here what arrives is put there by a task of that loop."""
    loop = asyncio.new_event_loop()
    try:
        world = World(loop)
        item = Overrun()
        loop.call_soon(world.pump.inbox.put, item)
        world.pump.wait(lambda: bool(world.taken), "did not answer")
        assert world.taken[0] is item
    finally:
        loop.close()


def test_the_callers_loop_runs_although_something_waits_already() -> None:
    """A flood of messages must not starve a server on it."""
    loop = asyncio.new_event_loop()
    try:
        world = World(loop)
        served: list[int] = []
        for _ in range(3):
            world.pump.inbox.put(Overrun())
        loop.call_soon(served.append, 1)
        world.pump.turn(None)
        assert (len(world.taken), served) == (1, [1])
    finally:
        loop.close()
