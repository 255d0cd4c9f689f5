"""When garbage is collected, with a clock and a memory of the test's own and a collector that is only watched."""

from __future__ import annotations

import pytest

from aperture.worker import collector as module
from aperture.worker.collector import (
    GROWTH,
    MIN_GROWTH,
    QUIET,
    ROUTINE_SHARE,
    SESSION_BYTES,
    URGENT_SHARE,
    YOUNG_COLLECTIONS,
    GarbageCollector,
    LeftToPython,
)

PAUSE = 0.125
ROUTINE = PAUSE / ROUTINE_SHARE
URGENT = PAUSE / URGENT_SHARE
MB = 1024 * 1024


class World:
    """Time that passes when a test says so, and memory that is what a test says; stands in for the `gc` module, too."""

    def __init__(self) -> None:
        self.now = 0.0
        self.memory = 100 * MB
        self.calls: list[object] = []
        self.left = self.memory
        """What a collection leaves."""

    def collect(self, generation: int = 2) -> int:
        self.calls.append(f"collect {generation}")
        self.now += PAUSE
        self.memory = self.left
        return 0

    def freeze(self) -> None:
        self.calls.append("freeze")

    def get_threshold(self) -> tuple[int, int, int]:
        return 700, 10, 10

    def set_threshold(self, *threshold: int) -> None:
        self.calls.append(threshold)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    world = World()
    monkeypatch.setattr(module, "gc", world)
    return world


@pytest.fixture
def collector(world: World) -> GarbageCollector:
    """One that has just collected, at time 0, and knows what that costs."""
    collector = GarbageCollector(lambda: world.now, lambda: world.memory)
    collector.collect(10)
    world.calls.clear()
    world.now = 0.0
    collector._last_collection = 0.0
    return collector


def test_what_lives_before_the_first_session_is_set_aside_and_python_starts_no_full_collection(
    world: World, collector: GarbageCollector
) -> None:
    """Garbage goes first: what is set aside stays. Python collects what is young as often as ever."""
    collector.start()
    assert world.calls == [(700, 10, YOUNG_COLLECTIONS), "collect 2", "freeze"]


def test_in_a_program_nothing_is_touched(world: World) -> None:
    """Its garbage is its own."""
    collector = LeftToPython(lambda: world.now, lambda: world.memory)
    collector.start()
    world.now, world.memory = 1e6, 10_000 * MB
    collector.session_discarded()
    assert not collector.is_due(10, connections=0)
    assert world.calls == []


def test_one_discarded_session_is_enough_when_it_is_quiet_and_nobody_is_connected(
    world: World, collector: GarbageCollector
) -> None:
    """Without viewers the pause is not noticed; a connected one might."""
    world.now = URGENT
    assert not collector.is_due(10, connections=0)
    collector.session_discarded()
    assert not collector.is_due(10, connections=0), "others may be about to go"
    world.now += QUIET
    assert collector.is_due(10, connections=0)
    assert not collector.is_due(10, connections=1)
    collector.activity()
    assert not collector.is_due(10, connections=0)


@pytest.mark.parametrize("left", [100 * MB, 1000 * MB])
def test_growth_makes_it_due_however_busy_the_worker_is(world: World, collector: GarbageCollector, left: int) -> None:
    """By half of what the last collection left, or by 64 MB in a small worker; one byte less is not enough."""
    world.memory = world.left = left
    collector.collect(10)
    world.now += URGENT
    collector.activity()
    limit = left + max(MIN_GROWTH, int(left * GROWTH))
    world.memory = limit - 1
    assert not collector.is_due(10, connections=1)
    world.memory = limit
    assert collector.is_due(10, connections=1)


def test_half_of_that_growth_is_enough_at_a_quiet_moment(world: World, collector: GarbageCollector) -> None:
    """So that fewer pauses fall into busy ones."""
    world.now = URGENT + QUIET
    world.memory += MIN_GROWTH // 2
    assert collector.is_due(10, connections=1)
    collector.activity()
    assert not collector.is_due(10, connections=1)


def test_pauses_take_a_hundredth_of_the_time_at_most(world: World, collector: GarbageCollector) -> None:
    """However fast memory grows, and whichever session has gone."""
    world.memory *= 100
    collector.session_discarded()
    assert URGENT > QUIET
    world.now = URGENT - 0.01
    assert not collector.is_due(10, connections=0)
    world.now = URGENT
    assert collector.is_due(10, connections=0)


def test_a_busy_worker_collects_as_a_matter_of_routine(world: World, collector: GarbageCollector) -> None:
    """Memory may not grow because it was never given back, and yet be full of garbage."""
    world.now = ROUTINE - 0.01
    collector.activity()
    assert not collector.is_due(10, connections=1)
    world.now = ROUTINE
    assert collector.is_due(10, connections=1)


def test_the_pause_that_routine_waits_for_is_that_of_the_sessions_of_now(
    world: World, collector: GarbageCollector
) -> None:
    """What the last one took with a few of them says nothing of many."""
    world.now = ROUTINE
    collector.activity()
    assert not collector.is_due(20, connections=1)
    world.now = 2 * ROUTINE
    assert collector.is_due(20, connections=1)


def test_a_crowd_of_ordinary_sessions_is_no_growth(world: World, collector: GarbageCollector) -> None:
    """300 pages that are opened at once are as many megabytes that no collection would free."""
    world.now = URGENT
    collector.activity()
    world.memory += 300 * SESSION_BYTES
    assert not collector.is_due(310, connections=300)
    world.memory += MIN_GROWTH
    assert collector.is_due(310, connections=300)


def test_an_idle_worker_is_left_alone(world: World, collector: GarbageCollector) -> None:
    """Nothing has happened in it that could have left garbage."""
    world.now = 1e6
    assert not collector.is_due(10, connections=0)


def test_memory_is_bounded_though_nothing_is_given_back_and_it_is_never_quiet(
    world: World, collector: GarbageCollector
) -> None:
    """An app throws 1 MB away each second; the system keeps what the process once had: the worst case."""
    garbage = worst = 0
    for _ in range(20_000):
        world.now += 1
        collector.activity()
        garbage += MB
        worst = max(worst, garbage)
        world.memory = world.left = max(world.memory, 100 * MB + garbage)
        if collector.is_due(10, connections=1):
            collector.collect(10)
            garbage = 0
    assert worst <= (ROUTINE + 2) * MB
    assert world.memory <= 100 * MB + worst


def test_a_collection_starts_the_count_anew(world: World, collector: GarbageCollector) -> None:
    """What is left is what growth is measured from."""
    collector.session_discarded()
    world.now, world.memory = URGENT, 300 * MB
    world.left = 200 * MB
    assert collector.is_due(10, connections=0)
    collector.collect(10)
    assert world.calls == ["collect 2"]
    world.now += URGENT
    assert not collector.is_due(10, connections=0)
    world.memory = 299 * MB
    collector.activity()
    assert not collector.is_due(10, connections=1)
    world.memory = 300 * MB
    assert collector.is_due(10, connections=1)
