"""What is compared while nobody changes anything: documents, counters, and what the nodes have taken of the machine."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from soak.counters import compare_counters
from soak.crowd import RECOVER_SECONDS, Crowd, until
from soak.person import Person
from soak.wire import ENDINGS
from support.patience import seconds

__all__ = ["Calm", "Footprint"]

CONVERGE_SECONDS = 20
MAY_OPEN = 64
"""Descriptors of a node, beyond those that it had at first: connections move from node to node."""


@dataclass(frozen=True, slots=True)
class Footprint:
    """What a node has of the machine.

    Args:
        at: seconds of the run.
        memory: bytes of each process.
        descriptors: of all processes together.
    """

    at: float
    memory: dict[int, int]
    descriptors: int


class Calm:
    """The comparisons of one run.

    Args:
        crowd: everybody.
    """

    def __init__(self, crowd: Crowd) -> None:
        self._crowd = crowd
        self._site = crowd.site
        self._history = crowd.history
        self._lines_read = 0
        self.footprints: list[list[Footprint]] = [[] for _ in self._site.nodes]

    async def check(self) -> None:
        """Compare all there is to compare; people keep still meanwhile, but for a while in which they are counted."""
        self._crowd.census.calms += 1
        if not await self._settle():
            return
        await self._converge()
        if self._site.plan.counters:
            await compare_counters(self._crowd)
        await self._look_at_nodes()
        self.read_runs()
        self._crowd.go_on()

    async def _settle(self) -> bool:
        self._crowd.hold()
        if await until(self._crowd.is_still, RECOVER_SECONDS):
            return True
        for person in self._crowd.people():
            if not person.idle:
                what = "waits for an answer" if person.replica is not None else "is not back"
                self._history.violate("recovery", person.ledger.session, f"{person.who} {what}")
        if not self._history.violations:
            self._history.violate("recovery", "", "a bokeh.client does not come back")
        return False

    # Documents

    async def _converge(self) -> None:
        """Everybody has what the owner has. What was left open may come meanwhile."""
        for gathering in self._crowd.gatherings:
            people = gathering.people
            if not await until(lambda people=people: _agree(people, self._seats), CONVERGE_SECONDS):  # type: ignore[misc]
                self._history.violate("converge", gathering.ledger.session, _differences(people, self._seats))
                continue
            shown = _dump(people[0], self._seats)
            self._pull(people)
            await until(self._crowd.is_still, RECOVER_SECONDS)
            if not await until(lambda people=people: _agree(people, self._seats), CONVERGE_SECONDS):  # type: ignore[misc]
                self._history.violate("converge", gathering.ledger.session, _differences(people, self._seats))
            elif _dump(people[0], self._seats) != shown and not gathering.ledger.has_open():
                what = f"people see {shown}, and pull {_dump(people[0], self._seats)}"
                self._history.violate("converge", gathering.ledger.session, what)

    @property
    def _seats(self) -> int:
        return self._site.plan.seats

    def _pull(self, people: list[Person]) -> None:
        for person in people:
            try:
                person.pull()
            except ENDINGS as problem:  # it comes back, and pulls
                person.ledger.note(person.who, "no pull", repr(problem)[:120])

    # Nodes

    async def _look_at_nodes(self) -> None:
        """No process too many, no descriptor that is not given back."""
        wanted = self._site.plan.workers + 2
        for number, node in enumerate(self._site.nodes):
            pids = await self._processes(number, wanted)
            if len(pids) != wanted:
                self._history.violate("leaks", "", f"node {number} has {len(pids)} processes, {wanted} are wanted")
            memory = {pid: resident_bytes(pid) for pid in pids}
            footprint = Footprint(self._history.now(), memory, sum(map(_descriptors, pids)))
            first = (self.footprints[number] or [footprint])[0]
            if footprint.descriptors > first.descriptors + MAY_OPEN:
                what = f"node {number} has {footprint.descriptors} descriptors open, {first.descriptors} at first"
                self._history.violate("leaks", "", what)
            self.footprints[number].append(footprint)
            assert node.process.poll() is None, f"node {number} has ended by itself:\n{node.log()[-3000:]}"

    async def _processes(self, number: int, wanted: int) -> list[int]:
        pids: list[int] = []
        for _ in range(100):  # a worker that was replaced may still be on its way out
            pids = await self._site.aside(self._site.nodes[number].processes)
            if len(pids) == wanted:
                break
            await asyncio.sleep(seconds(0.2))
        return pids

    def read_runs(self) -> None:
        """What the app's code has written since the last look."""
        lines = self._site.runs.read_text().splitlines()
        for line in lines[self._lines_read :]:
            session, epoch, _ = line.split()
            if session in self._crowd.ledgers:
                self._crowd.ledgers[session].ran(int(epoch))
        self._lines_read = len(lines)

    async def nothing_left(self) -> None:
        """Everybody has gone: sessions can be ended, and nothing stays of them in Redis.

        Of one that had lost its owner before, and that nobody has asked for since, what is stored expires by itself.
        """
        ended: list[str] = []
        for number in range(len(self._site.nodes)):
            ended += await self._site.aside(self._site.order_sessions, number, "end")

        def left() -> list[str]:
            with self._site.redis() as client:
                return [
                    key.decode()
                    for kind in ("kept", "journal")
                    for key in client.scan_iter(f"aperture:*:{kind}:*")
                    if client.pttl(key) == -1 or any(session in key.decode() for session in ended)
                ]

        remains = await self._site.aside(left)
        for _ in range(100):
            if not remains:
                return
            await asyncio.sleep(seconds(0.2))
            remains = await self._site.aside(left)
        self._history.violate("leaks", "", f"Redis still has {len(remains)} keys of sessions: {remains[:3]}")


def _dump(person: Person, seats: int) -> dict[str, Any] | None:
    return None if person.replica is None else person.replica.dump(seats)


def _agree(people: list[Person], seats: int) -> bool:
    first, *others = (_dump(person, seats) for person in people)
    return first is not None and all(dump == first for dump in others)


def _differences(people: list[Person], seats: int) -> str:
    """Only what is not the same: a log has fifty rows."""
    dumps = [_dump(person, seats) or {} for person in people]
    parts = {part for dump in dumps for part in dump if any(other.get(part) != dump[part] for other in dumps)}
    return "; ".join(f"{part}: {[dump.get(part) for dump in dumps]}" for part in sorted(parts)) or "nothing in common"


def resident_bytes(pid: int) -> int:
    """Memory of a process; 0 if it is gone."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096
    except OSError:
        return 0


def _descriptors(pid: int) -> int:
    try:
        return len(list(Path(f"/proc/{pid}/fd").iterdir()))
    except OSError:
        return 0
