"""What people do, drawn by their own seeds."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from soak.person import Away, Person

__all__ = ["OPERATIONS", "Operation", "live_on"]

BURST = 5
"""Messages that are sent before the first is answered."""

FLURRY = (2, 40)
"""Changes in one message."""

PART = 12
"""Changes in one message of a burst, at most."""

Act = Callable[[Person], Awaitable["Away | None"]]


@dataclass(frozen=True, slots=True)
class Operation:
    """One kind.

    Args:
        name: in reports.
        share: how often it is drawn, of 10,000.
        leaves: whether its person misses something.
        counts: whether it is one; else it counts its changes by itself.
        act: returns why its person leaves, if that is what it does.
    """

    name: str
    share: int
    act: Act
    leaves: bool = False
    counts: bool = True


async def _change(person: Person) -> None:
    person.change()


async def _burst(person: Person) -> None:
    """Several messages, on the heels of each other; each change counts."""
    for _ in range(BURST):
        _move(person, person.chance.randint(1, PART))


async def _flurry(person: Person) -> None:
    """Several in one message, as BokehJS sends what changes within one turn; each counts."""
    _move(person, person.chance.randint(*FLURRY))


def _move(person: Person, times: int) -> None:
    person.change(times)
    person.census.operations["change in a flurry"] += times


async def _note(person: Person) -> None:
    person.write_note()


async def _pull(person: Person) -> None:
    person.pull()


async def _stall(person: Person) -> None:
    """Read nothing for a while, as a page whose script is busy."""
    person.reading.clear()
    person.away = True
    await asyncio.sleep(person.chance.uniform(0.2, 3))
    person.away = False
    person.reading.set()


async def _leave(person: Person) -> Away:
    """Close the page in good order, and open it again."""
    return Away(person.chance.uniform(0, 1))


async def _vanish(person: Person) -> Away:
    """The cable is pulled, and put back."""
    if person.wire is not None:
        person.wire.drop()
    return Away(person.chance.uniform(0, 2))


async def _late(person: Person) -> Away:
    """As above, but the token has expired meanwhile."""
    if person.wire is not None:
        person.wire.drop()
    return Away(person.chance.uniform(6, 12))


OPERATIONS = (
    Operation("change", 2500, _change),
    Operation("burst", 2500, _burst, counts=False),
    Operation("flurry", 3500, _flurry, counts=False),
    Operation("note", 1200, _note),
    Operation("pull", 250, _pull),
    Operation("stall", 15, _stall, leaves=True),
    Operation("leave", 15, _leave, leaves=True),
    Operation("vanish", 15, _vanish, leaves=True),
    Operation("late", 5, _late, leaves=True),
)


def live_on(pause: float) -> Callable[[Person], Awaitable[Away]]:
    """One operation after another, each when all before it are answered.

    Args:
        pause: seconds between two, at most.
    """
    shares = [operation.share for operation in OPERATIONS]

    async def act(person: Person) -> Away:
        while True:
            await person.gate.wait()
            (operation,) = person.chance.choices(OPERATIONS, shares)
            if person.steady and operation.leaves:
                continue
            person.ledger.note(person.who, operation.name)
            away = await operation.act(person)
            if operation.counts:
                person.census.operations[operation.name] += 1
            if away is not None:
                return away
            await person.answered.wait()
            await asyncio.sleep(person.chance.uniform(0, pause))

    return act
