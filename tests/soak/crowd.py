"""Everybody: the sessions of a site and their people, who can be asked to keep still."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random

from soak.caller import Caller
from soak.census import Census
from soak.history import History
from soak.ledger import Ledger, Losses
from soak.operations import live_on
from soak.person import Person
from soak.site import APP, Site
from support.cluster import session_of
from support.patience import POLL, seconds
from support.wire import page_token

__all__ = ["RECOVER_SECONDS", "Crowd", "Gathering", "until"]

ARRIVE_SECONDS = 60

RECOVER_SECONDS = 90
"""In which everybody must be back, when nothing is wrong any more: BokehJS has tried five times by then."""


async def until(condition: Callable[[], bool], nominal: float) -> bool:
    """Let people go on until it holds; whether it did in time."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds(nominal)
    while not condition():
        if loop.time() > deadline:
            return False
        await asyncio.sleep(POLL)
    return True


@dataclass(slots=True)
class Gathering:
    """One session, with those who look at it."""

    ledger: Ledger
    people: list[Person]
    lives: list[asyncio.Task[None]]
    caller: Caller | None

    async def leave(self) -> None:
        """All go, in good order.

        Raises:
            Exception: what somebody's life has ended with.
        """
        for person in self.people:
            person.stop()
        if self.caller is not None:
            await self.caller.stop()
        for life in self.lives:
            life.cancel()
        for outcome in await asyncio.gather(*self.lives, return_exceptions=True):
            if isinstance(outcome, Exception):
                raise outcome


class Crowd:
    """All gatherings of a run.

    Args:
        site: where they are.
        census: counts what they do.
        history: notes it.
        losses: of acknowledged changes.
    """

    def __init__(self, site: Site, census: Census, history: History, losses: Losses) -> None:
        self.site = site
        self.census = census
        self.history = history
        self.losses = losses
        self.gatherings: list[Gathering] = []
        self.ledgers: dict[str, Ledger] = {}
        """Of all sessions that there have been."""
        self._opened = 0

    def people(self) -> Iterator[Person]:
        """All of them."""
        for gathering in self.gatherings:
            yield from gathering.people

    def sessions(self) -> list[str]:
        """The ids of those that there are."""
        return [gathering.ledger.session for gathering in self.gatherings]

    async def arrive(self) -> None:
        """Open as many sessions as are planned, and wait until everybody is there."""
        while len(self.gatherings) < self.site.plan.sessions:
            self.gatherings.append(await self._gather())
        if not await until(lambda: all(person.replica is not None for person in self.people()), ARRIVE_SECONDS):
            self.history.violate("recovery", "", "somebody could not arrive")

    async def renew(self, chance: Random) -> None:
        """Some session's people leave for good, and another session is opened."""
        gone = self.gatherings.pop(chance.randrange(len(self.gatherings)))
        await gone.leave()
        await self.arrive()

    async def leave(self) -> None:
        """Everybody goes."""
        while self.gatherings:
            await self.gatherings.pop().leave()

    async def _gather(self) -> Gathering:
        plan, number = self.site.plan, self._opened
        self._opened += 1
        nodes = self.site.nodes
        token = await self.site.aside(page_token, nodes[number % len(nodes)].app_url(APP))
        session = session_of(token)
        ledger = self.ledgers[session] = Ledger(session, plan.seats + 1, self.history, self.losses)
        urls, act = [node.ws_url(APP) for node in nodes], live_on(plan.pause)
        clock, weak = self.history.now, self.site.is_weak
        people = [
            Person(urls, token, who, ledger, self.census, self._draws(number, who), act, clock, weak)
            for who in range(plan.seats)
        ]
        lives = [asyncio.ensure_future(person.live()) for person in people]
        caller = None
        if number % plan.sessions < plan.callers:
            pages = [node.app_url(APP) for node in nodes]
            caller = Caller(pages, session, plan.seats, ledger, self.census, self._draws(number, plan.seats), weak)
            caller.start()
        return Gathering(ledger, people, lives, caller)

    def _draws(self, session: int, who: int) -> Random:
        return Random(f"{self.site.plan.seed} {session} {who}")

    # Stillness

    def hold(self) -> None:
        """Nobody changes anything any more; what is under way is answered."""
        for person in self.people():
            person.gate.clear()
        for gathering in self.gatherings:
            if gathering.caller is not None:
                gathering.caller.gate.clear()

    def go_on(self, *, steady: bool = False) -> None:
        """Everybody may change things again; where steady, without stalling or leaving."""
        for gathering in self.gatherings:
            if gathering.caller is not None and not steady:
                gathering.caller.gate.set()
        for person in self.people():
            person.steady = steady
            person.gate.set()

    def is_still(self) -> bool:
        """Whether everybody has the document, and nothing is under way."""
        callers = (gathering.caller for gathering in self.gatherings)
        return all(person.idle for person in self.people()) and not any(caller and caller.busy for caller in callers)

    def check_lives(self) -> None:
        """Raise what somebody's life has ended with: a mistake of the soak itself."""
        for gathering in self.gatherings:
            for life in gathering.lives:
                if life.done() and not life.cancelled():
                    life.result()
