"""Many deadlines with one timer, on a loop whose clock the test moves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

from aperture.deadlines import Deadlines


class FakeTimer:
    """A timer that can be cancelled."""

    def __init__(self, due_at: float, call: Callable[[], None]) -> None:
        self.due_at = due_at
        self.call = call
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class FakeLoop:
    """As much of a loop as deadlines use."""

    def __init__(self) -> None:
        self.now = 0.0
        self.timers: list[FakeTimer] = []

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: Callable[[], None]) -> FakeTimer:
        self.timers.append(FakeTimer(when, callback))
        return self.timers[-1]

    def advance(self, now: float) -> None:
        """Move the clock, and run what is due."""
        self.now = now
        for timer in [timer for timer in self.timers if timer.due_at <= now]:
            self.timers.remove(timer)
            if not timer.cancelled:
                timer.call()


def deadlines(loop: FakeLoop, due: list[str]) -> Deadlines[str]:
    """Deadlines of ten seconds that note what was due."""
    return Deadlines(cast(asyncio.AbstractEventLoop, cast(Any, loop)), 10.0, due.append)


def test_items_are_due_in_order_and_only_then() -> None:
    """Each item has its own time, counted from when it was added."""
    loop, due = FakeLoop(), list[str]()
    waiting = deadlines(loop, due)
    waiting.add("a")
    loop.now = 4.0
    waiting.add("b")
    loop.advance(10.0)
    assert due == ["a"]
    loop.advance(14.0)
    assert due == ["a", "b"]
    assert len(waiting) == 0


def test_there_is_one_timer_for_any_number_of_items() -> None:
    """Ten thousand silent connections cost the loop one timer."""
    loop, due = FakeLoop(), list[str]()
    waiting = deadlines(loop, due)
    for number in range(10_000):
        waiting.add(str(number))
    assert len(loop.timers) == 1
    loop.advance(10.0)
    assert len(due) == 10_000
    assert loop.timers == []


def test_a_discarded_item_is_never_due() -> None:
    """What is done in time is not called late, and the timer goes on for the rest."""
    loop, due = FakeLoop(), list[str]()
    waiting = deadlines(loop, due)
    waiting.add("a")
    loop.now = 1.0
    waiting.add("b")
    assert waiting.discard("a")
    assert not waiting.discard("a")
    loop.advance(10.0)
    loop.advance(11.0)
    assert due == ["b"]


def test_the_oldest_can_be_taken_and_all_can_be_cleared() -> None:
    """`pop_oldest` makes room, `clear` ends all."""
    loop, due = FakeLoop(), list[str]()
    waiting = deadlines(loop, due)
    for item in "abc":
        waiting.add(item)
    assert waiting.pop_oldest() == "a"
    assert waiting.clear() == ["b", "c"]
    assert waiting.pop_oldest() is None
    loop.advance(100.0)
    assert due == []
