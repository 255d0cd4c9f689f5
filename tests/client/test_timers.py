"""When a document's timed callbacks are due."""

from __future__ import annotations

from dataclasses import dataclass

from aperture.client.timers import Agenda


@dataclass(frozen=True)
class Once:
    id: str
    timeout: int = 0

    def callback(self) -> None:
        """Never called here."""


@dataclass(frozen=True)
class Periodic:
    id: str
    period: int

    def callback(self) -> None:
        """Never called here."""


class World:
    """An agenda, the time, and how often something may have become due earlier."""

    def __init__(self) -> None:
        self.now = 100.0
        self.changes = 0
        self.agenda = Agenda(lambda: self.now, self._changed)

    def _changed(self) -> None:
        self.changes += 1

    def due(self) -> list[str]:
        return [entry.id for entry in self.agenda.take_due()]


def test_each_is_due_when_its_time_has_come_and_once() -> None:
    """The next tick at once, a timeout after its milliseconds, the longest due first."""
    world = World()
    world.agenda.add(Once("later", 250))
    world.agenda.add(Once("now"))
    assert world.changes == 2
    assert world.agenda.next_due() == 100
    assert world.due() == ["now"]
    assert world.agenda.next_due() == 100.25
    world.now = 101
    assert world.due() == ["later"]
    assert world.agenda.next_due() is None


def test_a_periodic_one_is_not_due_while_it_runs() -> None:
    """Its own time counts against the period, and one that takes longer is due at once."""
    world = World()
    ticking = Periodic("ticking", 1000)
    world.agenda.add(ticking)
    world.now = 101
    assert world.due() == ["ticking"]
    assert world.agenda.next_due() is None
    world.now = 101.4
    world.agenda.finished(ticking, 101)
    assert world.agenda.next_due() == 102
    world.now = 102
    assert world.due() == ["ticking"]
    world.now = 110
    world.agenda.finished(ticking, 102)
    assert world.agenda.next_due() == 110


def test_what_is_removed_does_not_come_back() -> None:
    """Neither before it is due, nor while it runs, nor with all the others."""
    world = World()
    first, second, third = Once("first"), Periodic("second", 10), Periodic("third", 10)
    for entry in (first, second, third):
        world.agenda.add(entry)
    world.agenda.remove(first)
    world.agenda.remove(first)
    world.now += 1
    assert world.due() == ["second", "third"]
    world.agenda.remove(second)
    world.agenda.finished(second, world.now)
    world.agenda.finished(third, world.now)
    world.now += 1
    assert world.due() == ["third"]
    world.agenda.clear()
    world.agenda.finished(third, world.now)
    assert world.agenda.next_due() is None
