"""A document's timed callbacks on a running loop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from support.clock import in_fake_time, now

from aperture.client.loop_timers import LoopTimers


@dataclass(frozen=True)
class Once:
    id: str
    callback: Callable[[], object]
    timeout: int = 0


@dataclass(frozen=True)
class Periodic:
    id: str
    callback: Callable[[], object]
    period: int


@in_fake_time
async def test_each_runs_when_its_time_has_come() -> None:
    """One that is added later and due earlier, too, also from another thread."""
    timers = LoopTimers("name")
    ran: dict[str, float] = {}

    def note(name: str) -> Callable[[], None]:
        return lambda: ran.update({name: now()})

    timers.agenda.add(Once("late", note("late"), 3000))
    timers.agenda.add(Once("early", note("early"), 1000))
    await asyncio.to_thread(timers.agenda.add, Once("of a thread", note("of a thread"), 2000))
    await asyncio.sleep(5)
    assert ran == {"early": 1, "of a thread": 2, "late": 3}


@in_fake_time
async def test_a_periodic_one_never_runs_twice_at_a_time() -> None:
    """Its own time counts against its period; another one runs beside it."""
    timers = LoopTimers("name")
    begun: list[float] = []
    others: list[float] = []

    async def work() -> None:
        begun.append(now())
        await asyncio.sleep(1.5 if len(begun) == 1 else 0.25)

    timers.agenda.add(Periodic("slow", work, 1000))
    timers.agenda.add(Once("other", lambda: others.append(now()), 1200))
    await asyncio.sleep(4)
    timers.close()
    assert begun == [1, 2.5, 3.5]
    assert others == [1.2]


@in_fake_time
async def test_one_that_fails_stays_scheduled(caplog: pytest.LogCaptureFixture) -> None:
    """The log names the session."""
    timers = LoopTimers("name")
    runs: list[float] = []

    def fail() -> None:
        runs.append(now())
        raise ValueError("of the program's")

    timers.agenda.add(Periodic("failing", fail, 1000))
    with caplog.at_level(logging.ERROR):
        await asyncio.sleep(2.5)
    timers.close()
    assert runs == [1, 2]
    assert caplog.text.count("timed callback failed: session name..., it stays scheduled") == 2


@in_fake_time
async def test_the_end_stops_all_but_the_caller() -> None:
    """A callback may close its session, and goes on."""
    timers = LoopTimers("name")
    done: list[str] = []

    async def wait() -> None:
        await asyncio.Event().wait()

    async def end() -> None:
        timers.close()
        timers.close()
        await asyncio.sleep(1)
        done.append("the caller")

    timers.agenda.add(Once("waiting", wait))
    timers.agenda.add(Once("ending", end, 1000))
    timers.agenda.add(Once("never", lambda: done.append("never"), 1500))
    await asyncio.sleep(1)
    waiting = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    await asyncio.sleep(3)
    assert done == ["the caller"]
    assert any(task.cancelled() for task in waiting)
