"""What people do, drawn by their own seeds."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from soak.person import Away, Person

__all__ = ["OPERATIONS", "Operation", "live_on"]

BURST = 5
"""Changes that are sent before the first is answered."""

Act = Callable[[Person], Awaitable["Away | None"]]


@dataclass(frozen=True, slots=True)
class Operation:
    """One kind.

    Args:
        name: in reports.
        share: how often it is drawn, of 10,000.
        leaves: whether its person misses something.
        act: returns why its person leaves, if that is what it does.
    """

    name: str
    share: int
    act: Act
    leaves: bool = False


async def _change(person: Person) -> None:
    await person.change()


async def _burst(person: Person) -> None:
    """Several, on the heels of each other; each counts."""
    for _ in range(BURST):
        await person.change()
    person.census.operations["change"] += BURST - 1


async def _note(person: Person) -> None:
    await person.write_note()


async def _pull(person: Person) -> None:
    await person.pull()


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
    Operation("change", 7500, _change),
    Operation("burst", 1000, _burst),
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
            person.census.operations[operation.name] += 1
            if away is not None:
                return away
            await person.answered.wait()
            await asyncio.sleep(person.chance.uniform(0, pause))

    return act
