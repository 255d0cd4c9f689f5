"""Random histories of claims, releases, deaths, heartbeats and losses of Redis' memory, against a model in Python."""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from support.redis import fresh_namespace, loop_with_bus, node_server

from aperture.bus.redis import RedisBus
from aperture.errors import Fenced
from aperture.registry.members import WorkerName
from aperture.registry.registry import Registry

WORKERS = 3
workers = st.integers(0, WORKERS - 1)
sessions = st.sampled_from("ab")


class Machine(RuleBasedStateMachine):
    """The model knows who owns what, and what each worker believes; a worker never checks before it acts."""

    loop: ClassVar[asyncio.AbstractEventLoop]
    bus: ClassVar[RedisBus]

    def __init__(self) -> None:
        super().__init__()
        self.bus.names = type(self.bus.names)(fresh_namespace())
        # Without a wait: what the grace is for has tests of its own, and here time stands still.
        self.registries = [Registry(self.bus, WorkerName("n", i, "m"), grace=0) for i in range(WORKERS)]
        self.alive: set[int] = set()
        self.owners: dict[str, tuple[int, int]] = {}
        self.believed: list[dict[str, int]] = [{} for _ in range(WORKERS)]
        self.epochs: dict[str, int] = {}
        self.sequences: dict[str, int] = {}
        for worker in range(WORKERS):
            self.heartbeat(worker)

    def ask(self, coroutine: Any) -> Any:
        return self.loop.run_until_complete(coroutine)

    @rule(worker=workers, session=sessions, fresh=st.booleans())
    def claim(self, worker: int, session: str, fresh: bool) -> None:
        claim = self.ask(self.registries[worker].claim(session, fresh=fresh))
        owner = self.owners.get(session)
        if owner is not None and (owner[0] == worker or owner[0] in self.alive):
            assert (claim.owner, claim.epoch) == (self.registries[owner[0]].me, owner[1])
        else:
            assert claim.mine
            assert claim.epoch > self.epochs.get(session, 0)
            self.owners[session] = (worker, claim.epoch)
            self.epochs[session] = claim.epoch
            self.alive.add(worker)
        assert claim.mine == (self.owners[session][0] == worker)
        if claim.mine:
            self.believed[worker][session] = claim.epoch

    @rule(worker=workers, session=sessions)
    def release(self, worker: int, session: str) -> None:
        epoch = self.believed[worker].pop(session, None)
        if epoch is not None:
            self.ask(self.registries[worker].release(session, epoch))
            if self.owners.get(session) == (worker, epoch):
                del self.owners[session]

    @rule(worker=workers)
    def expire(self, worker: int) -> None:
        self.ask(self.bus.command("ZADD", self.bus.names.workers, 1, self.registries[worker].me))
        self.alive.discard(worker)

    @rule(worker=workers)
    def heartbeat(self, worker: int) -> None:
        lost = self.ask(self.registries[worker].renew(self.believed[worker]))
        held = self.believed[worker]
        assert lost == {session for session, epoch in held.items() if self.owners.get(session) != (worker, epoch)}
        for session in lost:
            del held[session]
        self.alive.add(worker)

    @rule(worker=workers, session=sessions)
    def append(self, worker: int, session: str) -> None:
        epoch = self.believed[worker].get(session)
        if epoch is None:
            return
        number = self.sequences[session] = self.sequences.get(session, 0) + 1
        appending = self.registries[worker].append(session, epoch, number, number, b"%d %d" % (epoch, number))
        if self.owners.get(session) == (worker, epoch):
            self.ask(appending)
            assert self.ask(self.registries[worker].read(session, number - 1)) == [b"%d %d" % (epoch, number)]
        else:
            with pytest.raises(Fenced):
                self.ask(appending)

    @rule()
    def lose_memory(self) -> None:
        """Everybody alive has a heartbeat before anything else happens, which is what the grace is for."""
        self.ask(self.bus.command("FLUSHALL"))
        # Epochs run ahead of the clock by the claims of one millisecond; a real restart takes longer than that.
        self.ask(asyncio.sleep(0.05))
        sleeping = {worker for worker in range(WORKERS) if worker not in self.alive}
        self.alive = set()
        for session, (worker, _) in list(self.owners.items()):
            if worker in sleeping:
                del self.owners[session]  # forgotten; it may put its claim back when it wakes up
        for worker in range(WORKERS):
            if worker not in sleeping:
                self.heartbeat(worker)
        # What sleepers believe may come true again; the model has them drop it, as one that finds itself frozen does.
        for worker in sleeping:
            self.believed[worker].clear()

    @invariant()
    def owners_are_as_the_model_says(self) -> None:
        for session in "ab":
            owner = self.owners.get(session)
            found = self.ask(self.registries[0].owner_of(session))
            if owner is None or owner[0] not in self.alive:
                assert found is None
            else:
                assert (found.owner, found.epoch) == (self.registries[owner[0]].me, owner[1])


def test_every_history_agrees_with_the_model() -> None:
    """One owner at a time, epochs that grow, and nothing published by anybody else."""
    with node_server("redis-server") as url, loop_with_bus(url) as (Machine.loop, Machine.bus):
        run_state_machine_as_test(Machine, settings=settings(max_examples=60, stateful_step_count=40))
