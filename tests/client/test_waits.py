"""How the tasks of one session wait for its connection."""

from __future__ import annotations

import asyncio

import pytest
from support.clock import in_fake_time, now

from aperture.client.waits import Waits
from aperture.errors import ServerSilent


@in_fake_time
async def test_every_waiter_wakes_at_one_event() -> None:
    """And waits anew for the next."""
    waits = Waits(10)
    woken: list[str] = []

    async def wait(name: str, times: int) -> None:
        for _ in range(times):
            await waits.next_event()
            woken.append(name)

    tasks = [asyncio.create_task(wait("once", 1)), asyncio.create_task(wait("twice", 2))]
    await asyncio.sleep(0)
    waits.happened()
    waits.happened()  # no one is back yet: this one is for nothing
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert sorted(woken) == ["once", "twice"]
    waits.happened()
    await asyncio.gather(*tasks)
    assert woken.count("twice") == 2


@in_fake_time
async def test_a_wait_is_bounded_by_the_timeout() -> None:
    """The error says what the server has not done."""
    waits = Waits(10)
    with pytest.raises(ServerSilent, match="the server did not answer within 10 s"):
        async with waits.bounded("the server did not answer"):
            await waits.next_event()
    assert now() == 10


@in_fake_time
async def test_time_without_a_connection_does_not_count() -> None:
    """Of waits that have begun before, and of those that begin meanwhile; afterwards each has the whole timeout."""
    waits = Waits(10)

    async def wait() -> float:
        with pytest.raises(ServerSilent):
            async with waits.bounded("the server did not answer"):
                await asyncio.Event().wait()
        return now()

    before = asyncio.create_task(wait())
    await asyncio.sleep(9)
    waits.suspend()
    meanwhile = asyncio.create_task(wait())
    await asyncio.sleep(91)
    assert not before.done()
    assert not meanwhile.done()
    waits.restart()
    assert list(await asyncio.gather(before, meanwhile)) == [110, 110]


@in_fake_time
async def test_losing_and_regaining_the_connection_are_events() -> None:
    """A task that waits for a connection looks again."""
    waits = Waits(10)
    for change in (waits.suspend, waits.restart):
        waiting = asyncio.create_task(waits.next_event())
        await asyncio.sleep(0)
        change()
        await waiting


@in_fake_time
async def test_a_timeout_of_the_blocks_own_is_not_the_servers() -> None:
    """It goes through as it is."""
    waits = Waits(10)
    with pytest.raises(TimeoutError, match="mine"):
        async with waits.bounded("the server did not answer"):
            raise TimeoutError("mine")
