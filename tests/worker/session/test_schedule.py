"""A session's clock, on a clock of the test's own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Any

import pytest
from support.clock import in_fake_time, now

from aperture.metrics import AppTally
from aperture.worker.session.schedule import Schedule

_ids = count()


@dataclass
class Tick:
    """A next-tick callback as Bokeh makes it."""

    callback: Callable[[], Any]
    id: str = field(default_factory=lambda: f"c{next(_ids)}")


@dataclass
class Timeout(Tick):
    timeout: int = 0


@dataclass
class Periodic(Tick):
    period: int = 0


async def call(callback: Callable[[], Any]) -> None:
    result = callback()
    if result is not None:
        await result


@in_fake_time
async def test_each_kind_runs_in_its_time() -> None:
    """Next ticks at once, timeouts once, periodic ones again and again, and not before their first period is over."""
    ran: list[tuple[str, float]] = []

    def note(name: str) -> Callable[[], None]:
        return lambda: ran.append((name, round(now(), 3)))

    schedule = Schedule(call, AppTally.unread("/"))
    schedule.add(Timeout(note("timeout"), timeout=250))
    schedule.add(Periodic(note("periodic"), period=100))
    schedule.add(Tick(note("tick")))
    await asyncio.sleep(0.35)
    schedule.close()
    assert ran == [("tick", 0.0), ("periodic", 0.1), ("periodic", 0.2), ("timeout", 0.25), ("periodic", 0.3)]


@in_fake_time
async def test_next_ticks_run_in_the_order_in_which_they_were_added() -> None:
    """As they always have in Bokeh."""
    ran: list[int] = []
    schedule = Schedule(call, AppTally.unread("/"))
    for number in range(5):
        schedule.add(Tick(lambda number=number: ran.append(number)))  # type: ignore[misc]
    await asyncio.sleep(0.001)
    assert ran == [0, 1, 2, 3, 4]


@in_fake_time
async def test_a_periodic_callback_never_overlaps_itself() -> None:
    """One that takes longer than its period runs again as soon as it is done; the period counts from its start."""
    spans: list[tuple[float, float]] = []

    async def slow() -> None:
        started = now()
        await asyncio.sleep(0.15 if len(spans) < 2 else 0.04)
        spans.append((round(started, 3), round(now(), 3)))

    schedule = Schedule(call, AppTally.unread("/"))
    schedule.add(Periodic(slow, period=100))
    await asyncio.sleep(0.62)
    schedule.close()
    assert spans == [(0.1, 0.25), (0.25, 0.4), (0.4, 0.44), (0.5, 0.54), (0.6, 0.64)][: len(spans)]
    assert len(spans) >= 4


@in_fake_time
async def test_removed_callbacks_do_not_run() -> None:
    """Of each kind; removing twice is harmless."""
    ran: list[int] = []
    schedule = Schedule(call, AppTally.unread("/"))
    for callback in (
        Tick(lambda: ran.append(1)),
        Timeout(lambda: ran.append(2), timeout=10),
        Periodic(lambda: ran.append(3), period=10),
    ):
        schedule.add(callback)
        schedule.remove(callback)
        schedule.remove(callback)
    await asyncio.sleep(1)
    assert ran == []


@in_fake_time
async def test_a_periodic_callback_that_removes_itself_was_run_for_the_last_time() -> None:
    """It is let finish, and does not come again."""
    ran: list[float] = []
    schedule = Schedule(call, AppTally.unread("/"))

    def once() -> None:
        ran.append(now())
        schedule.remove(periodic)

    periodic = Periodic(once, period=10)
    schedule.add(periodic)
    await asyncio.sleep(1)
    assert len(ran) == 1


@pytest.mark.parametrize("kind", [Tick, partial(Timeout, timeout=10), partial(Periodic, period=10)])
@in_fake_time
async def test_one_that_is_removed_while_it_waits_for_the_lock_does_not_run(kind: Callable[..., Tick]) -> None:
    """As when the callback that holds the document removes it: to its author it is gone."""
    lock = asyncio.Lock()
    ran: list[float] = []

    async def locked(callback: Callable[[], Any]) -> None:
        async with lock:
            await call(callback)

    schedule = Schedule(locked, AppTally.unread("/"))
    callback = kind(lambda: ran.append(now()))
    async with lock:
        schedule.add(callback)
        await asyncio.sleep(0.05)  # it is its turn, and it waits
        schedule.remove(callback)
    await asyncio.sleep(1)
    assert ran == []


@in_fake_time
async def test_closing_ends_everything() -> None:
    """Callbacks that wait do not run; one that runs is let finish."""
    ran: list[str] = []

    async def slow() -> None:
        await asyncio.sleep(0.05)
        ran.append("finished")

    schedule = Schedule(call, AppTally.unread("/"))
    schedule.add(Tick(slow))
    schedule.add(Timeout(lambda: ran.append("timeout"), timeout=20))
    schedule.add(Periodic(lambda: ran.append("periodic"), period=20))
    await asyncio.sleep(0.01)
    schedule.close()
    schedule.add(Tick(lambda: ran.append("late")))
    await asyncio.sleep(1)
    assert ran == ["finished"]


@in_fake_time
async def test_closing_leaves_no_timer_behind() -> None:
    """A timer that is an hour away would keep the session's objects alive for an hour."""
    schedule = Schedule(call, AppTally.unread("/"))
    schedule.add(Timeout(lambda: None, timeout=3_600_000))
    schedule.add(Periodic(lambda: None, period=3_600_000))
    await asyncio.sleep(0.01)
    schedule.close()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    loop = asyncio.get_running_loop()
    assert [timer for timer in loop._scheduled if not timer.cancelled()] == []  # type: ignore[attr-defined]
    assert asyncio.all_tasks() == {asyncio.current_task()}


@in_fake_time
async def test_a_callback_is_added_once() -> None:
    """Twice is a mistake, until it has run."""
    schedule = Schedule(call, AppTally.unread("/"))
    tick = Tick(lambda: None)
    schedule.add(tick)
    with pytest.raises(ValueError, match="added already"):
        schedule.add(tick)
    await asyncio.sleep(0.001)
    schedule.add(tick)


@in_fake_time
async def test_threads_may_add_and_remove() -> None:
    """What they add runs on the loop's thread."""
    threads: list[object] = []
    schedule = Schedule(call, AppTally.unread("/"))
    dropped = Timeout(lambda: threads.append("dropped"), timeout=10)

    def act() -> None:
        schedule.add(Tick(lambda: threads.append(threading.current_thread())))
        schedule.add(dropped)
        schedule.remove(dropped)

    thread = threading.Thread(target=act)
    thread.start()
    thread.join()
    await asyncio.sleep(0.1)
    assert threads == [threading.current_thread()]
