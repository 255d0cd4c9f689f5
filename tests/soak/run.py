"""One run: people come, faults strike, everything is compared again and again, and people go."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import uvloop
from soak.calm import Calm, Footprint
from soak.census import Census
from soak.crowd import RECOVER_SECONDS, Crowd, until
from soak.faults import FAULTS, Nothing, faults_for, strike
from soak.history import History
from soak.ledger import Losses
from soak.plan import Plan
from soak.publications import Publications
from soak.schedule import Step, draw, is_alone
from soak.site import Site

__all__ = ["TWO", "Outcome", "soak"]

BETWEEN_CALMS = 60.0
"""Seconds."""

TWO = "two at once"
"""What recovery from a step with two faults is noted as."""


@dataclass(slots=True)
class Outcome:
    """Of one run."""

    plan: Plan
    census: Census
    history: History
    losses: Losses
    played: list[Step] = field(default_factory=list)
    footprints: list[list[Footprint]] = field(default_factory=list)
    log: str = ""
    seconds: float = 0.0

    def has_failed(self) -> bool:
        """Whether a rule was broken so far."""
        return bool(self.history.violations)


def soak(plan: Plan, steps: Iterable[Step] | None = None) -> Outcome:
    """Run one.

    Args:
        plan: of it.
        steps: to play instead of those that the seed draws; the run ends with the last of them.
    """
    history = History()
    outcome = Outcome(plan, Census(), history, Losses(plan.durability != "ack"))
    with tempfile.TemporaryDirectory(prefix="soak-") as folder, Site(plan, Path(folder)) as site:
        try:
            uvloop.run(_Run(site, outcome).play(steps))
        finally:
            outcome.log = site.log()
            outcome.seconds = history.now()
    return outcome


class _Run:
    def __init__(self, site: Site, outcome: Outcome) -> None:
        self._site = site
        self._outcome = outcome
        self._census = outcome.census
        self._history = outcome.history
        self._crowd = Crowd(site, outcome.census, outcome.history, outcome.losses)
        self._calm = Calm(self._crowd)
        self._publications = Publications(str(site.server.socket_path), self._crowd.sessions, outcome.history)
        self._chance = Random(f"{outcome.plan.seed} renewals")

    async def play(self, steps: Iterable[Step] | None) -> None:
        plan = self._outcome.plan
        endless = steps is None
        drawn = draw(plan.seed, faults_for(self._site), plan.nodes) if steps is None else iter(steps)
        watching = asyncio.ensure_future(self._publications.watch())
        try:
            await self._crowd.arrive()
            await self._calm.check()
            deadline, calm = self._history.now() + plan.minutes * 60, self._history.now()
            for step in drawn:
                if self._outcome.has_failed() or (endless and self._history.now() > deadline):
                    break
                await self._play_one(step)
                if not self._outcome.has_failed() and self._history.now() - calm > BETWEEN_CALMS:
                    await self._recover()
                    await self._calm.check()
                    await self._crowd.renew(self._chance)
                    calm = self._history.now()
            if not self._outcome.has_failed():
                await self._recover()
                await self._calm.check()
        finally:
            await self._crowd.leave()
            watching.cancel()
            self._census.read_along = self._publications.seen
        for ended in await asyncio.gather(watching, return_exceptions=True):
            if isinstance(ended, Exception):
                raise ended  # a mistake of the soak itself
        if not self._outcome.has_failed():
            await self._calm.nothing_left()
        self._calm.read_runs()
        self._outcome.footprints = self._calm.footprints

    async def _play_one(self, step: Step) -> None:
        if is_alone(step):
            await self._recover()
        self._outcome.played.append(step)
        self._history.note("site", "step", step.name, step.faults, step.lasts)
        seeds = Random(step.seed)
        async with asyncio.TaskGroup() as striking:
            for name, node in step.faults:
                striking.create_task(self._strike(name, node, Random(seeds.getrandbits(32)), step.lasts))
        self._history.note("site", "healed", step.name)
        self._crowd.check_lives()
        if step.recover:
            await self._recover(step.name if len(step.faults) == 1 else TWO)
        await asyncio.sleep(step.rest)

    async def _strike(self, name: str, node: int, chance: Random, lasts: float) -> None:
        self._outcome.losses.disturbed.append(self._history.now())
        try:
            await strike(FAULTS[name], self._site, node, chance, lasts)
        except Nothing:
            self._census.skipped[name] += 1
        else:
            self._census.faults[name] += 1
        self._outcome.losses.disturbed.append(self._history.now())

    async def _recover(self, kind: str = "") -> None:
        """Wait until everybody has made a change that was acknowledged; of a kind of fault, note how long each took."""
        healed = self._history.now()
        waiting = set(self._crowd.people())

        def all_work() -> bool:
            for person in [person for person in waiting if person.away or person.worked >= healed]:
                waiting.discard(person)
                if kind and not person.away:
                    self._census.recovered(kind, self._history.now() - healed)
            return not waiting

        if not await until(all_work, RECOVER_SECONDS):
            for person in waiting:
                what = f"{person.who} has had no answer for {self._history.now() - person.worked_at:.1f} s"
                self._history.violate("recovery", person.ledger.session, what)
