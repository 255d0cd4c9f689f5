"""When garbage is collected, on a clock of the test's own and with a collector that is only watched."""

from __future__ import annotations

import pytest

from aperture.worker.session import collector as module
from aperture.worker.session.collector import GONE_WHILE_CONNECTED, QUIET, GarbageCollector


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class WatchedGc:
    """Stands in for the `gc` module."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def collect(self, generation: int = 2) -> int:
        self.calls.append(f"collect {generation}")
        return 0

    def freeze(self) -> None:
        self.calls.append("freeze")

    def unfreeze(self) -> None:
        self.calls.append("unfreeze")


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> WatchedGc:
    gc = WatchedGc()
    monkeypatch.setattr(module, "gc", gc)
    return gc


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def collector(watched: WatchedGc, clock: Clock) -> GarbageCollector:
    return GarbageCollector(clock)


def discard(collector: GarbageCollector, count: int) -> None:
    for _ in range(count):
        collector.session_discarded()


def test_a_new_session_is_set_aside_without_a_full_collection(watched: WatchedGc, collector: GarbageCollector) -> None:
    """What its creation left behind is young; a full collection would visit every other session."""
    collector.session_created()
    assert watched.calls == ["collect 1", "freeze"]


def test_nothing_is_due_until_a_session_has_gone(collector: GarbageCollector, clock: Clock) -> None:
    """However quiet it is."""
    clock.now = 1000
    assert not collector.is_due(connections=0)


def test_one_discarded_session_is_enough_when_nobody_is_connected(collector: GarbageCollector, clock: Clock) -> None:
    """Nobody notices the pause."""
    clock.now = QUIET
    discard(collector, 1)
    assert collector.is_due(connections=0)
    assert not collector.is_due(connections=1)


def test_many_are_needed_while_somebody_is_connected(collector: GarbageCollector, clock: Clock) -> None:
    """One below the mark is not enough."""
    clock.now = QUIET
    discard(collector, GONE_WHILE_CONNECTED - 1)
    assert not collector.is_due(connections=1)
    discard(collector, 1)
    assert collector.is_due(connections=1)


def test_it_waits_for_a_quiet_moment(collector: GarbageCollector, clock: Clock) -> None:
    """Somebody who has just sent something is waiting for the answer."""
    discard(collector, GONE_WHILE_CONNECTED)
    clock.now = 100
    collector.activity()
    clock.now = 100 + QUIET - 0.1
    assert not collector.is_due(connections=0)
    clock.now = 100 + QUIET
    assert collector.is_due(connections=0)


def test_a_collection_covers_what_was_set_aside_and_starts_the_count_anew(
    watched: WatchedGc, collector: GarbageCollector, clock: Clock
) -> None:
    """The living are set aside again afterwards."""
    clock.now = QUIET
    discard(collector, 1)
    collector.collect()
    assert watched.calls == ["unfreeze", "collect 2", "freeze"]
    assert not collector.is_due(connections=0)
