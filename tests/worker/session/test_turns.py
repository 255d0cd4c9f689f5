"""`aperture.worker.session.turns`: heavy work does not come in one piece."""

from __future__ import annotations

import asyncio
import itertools

from support.patience import run

from aperture.worker.session.turns import Turns


def test_a_lone_caller_does_not_wait() -> None:
    """A task that comes alone goes on without giving the event loop a turn."""

    async def scenario() -> None:
        turns = Turns()
        task = asyncio.current_task()
        assert task is not None
        coroutine = turns.take()
        try:
            coroutine.send(None)
        except StopIteration:
            return
        raise AssertionError("it waited")

    run(scenario())


def test_a_crowd_goes_one_by_one_with_others_in_between() -> None:
    """Between two of those that came together the event loop attends to everything else, and their order holds."""

    async def scenario() -> list[str]:
        turns, seen = Turns(), []

        async def work(name: str) -> None:
            await turns.take()
            seen.append(name)

        async def another_task() -> None:
            while len(seen) < 8:
                seen.append("-")
                await asyncio.sleep(0)

        async with asyncio.TaskGroup() as group:
            for name in "abcd":
                group.create_task(work(name))
            group.create_task(another_task())
        return seen

    seen = run(scenario())
    assert [name for name in seen if name != "-"] == list("abcd")
    assert not any(one != "-" and other != "-" for one, other in itertools.pairwise(seen)), seen


def test_who_was_cancelled_keeps_nobody_waiting() -> None:
    """A turn that is not taken goes to the next."""

    async def scenario() -> None:
        turns = Turns()
        await turns.take()
        waiting = [asyncio.create_task(turns.take()) for _ in range(3)]
        await asyncio.sleep(0)
        waiting[0].cancel()
        waiting[1].cancel()
        async with asyncio.timeout(5):
            await waiting[2]
            await turns.take()

    run(scenario())
