"""When a child that died is started again."""

from __future__ import annotations

from aperture.gateway.supervise.backoff import Backoff


def test_the_first_death_is_answered_at_once_and_the_next_ones_later_and_later() -> None:
    """The delay doubles to its limit while the child cannot boot."""
    backoff = Backoff()
    delays = [backoff.delay(0.0) for _ in range(10)]
    assert delays == [0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]


def test_what_had_served_is_back_within_seconds() -> None:
    """It works until it is killed: by its size, by an operator, by a test."""
    backoff = Backoff()
    delays = [backoff.delay(1.0) for _ in range(6)]
    assert delays == [0.0, 0.5, 1.0, 2.0, 2.0, 2.0]


def test_a_healthy_minute_makes_a_fresh_start() -> None:
    """Old trouble is forgotten."""
    backoff = Backoff()
    for _ in range(5):
        backoff.delay(0.0)
    assert backoff.delay(60.0) == 0.0
    assert backoff.delay(0.0) == 0.5


def test_a_death_that_is_not_soon_is_answered_at_once() -> None:
    """Only what happens right after the boot looks like happening again."""
    backoff = Backoff()
    backoff.delay(0.0)
    assert backoff.delay(20.0) == 0.0


def test_failing_for_weeks_stays_at_the_longest_delay() -> None:
    """The delay's arithmetic has no end of its own."""
    backoff = Backoff()
    delays = [backoff.delay(0.0) for _ in range(5000)]
    assert delays[-1] == 30.0
