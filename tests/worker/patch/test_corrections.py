"""When everyone is sent the value of what two viewers have been changing at once, on a clock of the test's own."""

from __future__ import annotations

import asyncio

import pytest
from support.clock import in_fake_time, now

from aperture.worker.patch.contention import Key
from aperture.worker.patch.corrections import PAUSE, Corrections

ONE: Key = ("p1", "value")
OTHER: Key = ("p2", "value")


class Desk:
    """Corrections, and when which places were corrected."""

    def __init__(self) -> None:
        self.made: list[tuple[float, set[Key]]] = []
        self.corrections = Corrections(self._correct)

    async def _correct(self, keys: set[Key]) -> None:
        self.made.append((round(now(), 3), keys))


@in_fake_time
async def test_places_are_corrected_together_when_the_contest_pauses() -> None:
    """Not while it goes on, however long; each place once."""
    desk = Desk()
    for key in [ONE, OTHER, ONE, ONE, OTHER] * 4:
        desk.corrections.expect({key})
        await asyncio.sleep(PAUSE * 0.8)
    last = now() - PAUSE * 0.8
    assert desk.made == []
    await asyncio.sleep(10)
    [(at, places)] = desk.made
    assert at == pytest.approx(last + PAUSE, abs=0.002)
    assert places == {ONE, OTHER}


@in_fake_time
async def test_a_contest_that_begins_anew_is_corrected_anew() -> None:
    """The first correction settles only what was before it."""
    desk = Desk()
    for _ in range(2):
        desk.corrections.expect({ONE})
        await asyncio.sleep(1)
    assert [keys for _, keys in desk.made] == [{ONE}, {ONE}]


@in_fake_time
async def test_where_nothing_is_contested_nothing_is_corrected() -> None:
    """Nor is a timer started for it; uncontested changes do not put a correction off either."""
    desk = Desk()
    desk.corrections.expect(set())
    await asyncio.sleep(1)
    assert desk.made == []
    desk.corrections.expect({ONE})
    await asyncio.sleep(PAUSE * 0.8)
    desk.corrections.expect(set())
    await asyncio.sleep(PAUSE * 0.4)
    assert len(desk.made) == 1


@in_fake_time
async def test_what_was_taken_is_not_corrected_again() -> None:
    """The caller that takes the places corrects them itself."""
    desk = Desk()
    desk.corrections.expect({ONE})
    assert desk.corrections.take() == {ONE}
    assert desk.corrections.take() == set()
    await asyncio.sleep(1)
    assert desk.made == []


@in_fake_time
async def test_closing_forgets_everything() -> None:
    """No viewer is left to be corrected, now or later. Idempotent."""
    desk = Desk()
    desk.corrections.expect({ONE})
    for _ in range(2):
        desk.corrections.close()
    desk.corrections.expect({ONE})
    await asyncio.sleep(1)
    assert desk.made == []
