"""Random histories of keeping, losing and damaging sessions, by several workers, against a model in Python."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from support.redis import KINDS, fresh_namespace, loop_with_bus, node_server

from aperture.bus.bus import Script
from aperture.bus.redis import RedisBus
from aperture.errors import Fenced, StoredStateBroken, TooLarge
from aperture.registry.members import WorkerName
from aperture.registry.registry import Registry
from aperture.registry.snapshots import ENTRY_OVERHEAD, SnapshotStore, StoredState

WORKERS = 2
LARGEST = 20
workers = st.integers(0, WORKERS - 1)
sessions = st.sampled_from("ab")
contents = st.binary(max_size=LARGEST + 2)

ATTEMPT = Script("redis.pcall(unpack(ARGV)) return 1")
"""A command that may fail; the stand-in would close the connection for that."""


@dataclass
class Model:
    """What Redis should hold of one session; `damaged` if something else has written to it since."""

    origin: bytes
    epoch: int
    snapshot: bytes
    base: int
    entries: list[bytes] = field(default_factory=list)
    damaged: bool = False

    @property
    def last(self) -> int:
        return self.base + len(self.entries)

    @property
    def size(self) -> int:
        return sum(map(len, self.entries)) + ENTRY_OVERHEAD * len(self.entries)

    def kept(self) -> StoredState:
        return StoredState(self.origin, self.epoch, self.snapshot, self.base, tuple(self.entries))


class Machine(RuleBasedStateMachine):
    """A worker that has lost a session goes on as if it had not; one that owns it may also miscount."""

    loop: ClassVar[asyncio.AbstractEventLoop]
    bus: ClassVar[RedisBus]

    def __init__(self) -> None:
        super().__init__()
        self.bus.names = type(self.bus.names)(fresh_namespace())
        names = [WorkerName("n", i, "m") for i in range(WORKERS)]
        self.registries = [Registry(self.bus, name, grace=0) for name in names]
        self.keepings = [SnapshotStore(self.bus, name, lifetime=600, max_snapshot=LARGEST) for name in names]
        self.owners: dict[str, tuple[int, int]] = {}
        self.believed: dict[tuple[int, str], int] = {}
        self.models: dict[str, Model] = {}

    def ask(self, coroutine: Any) -> Any:
        return self.loop.run_until_complete(coroutine)

    def is_owner(self, worker: int, session: str) -> bool:
        return self.owners[session] == (worker, self.believed[worker, session])

    @rule(worker=workers, session=sessions)
    def take_over(self, worker: int, session: str) -> None:
        """Its owner is taken for dead."""
        self.ask(self.bus.command("DEL", self.bus.names.workers))
        claim = self.ask(self.registries[worker].claim(session, fresh=True))
        if claim.mine:
            self.owners[session] = (worker, claim.epoch)
            self.believed[worker, session] = claim.epoch

    @precondition(lambda self: self.believed)
    @rule(data=st.data(), origin=contents, snapshot=contents, sequence=st.integers(0, 9))
    def begin(self, data: st.DataObject, origin: bytes, snapshot: bytes, sequence: int) -> None:
        (worker, session), epoch = data.draw(st.sampled_from(sorted(self.believed.items())))
        beginning = self.keepings[worker].begin(session, epoch, origin, snapshot, sequence=sequence)
        if not self.is_owner(worker, session):
            with pytest.raises(Fenced):
                self.ask(beginning)
        elif len(snapshot) > LARGEST:
            with pytest.raises(TooLarge):
                self.ask(beginning)
            self.models.pop(session, None)
        else:
            self.ask(beginning)
            self.models[session] = Model(origin, epoch, snapshot, sequence)

    @precondition(lambda self: self.believed)
    @rule(data=st.data(), offset=st.integers(-4, 2), entries=st.lists(contents, max_size=4))
    def add(self, data: st.DataObject, offset: int, entries: list[bytes]) -> None:
        (worker, session), epoch = data.draw(st.sampled_from(sorted(self.believed.items())))
        model = self.models.get(session)
        first = max(0, 1 + offset + (0 if model is None else model.last))
        adding = self.keepings[worker].add(session, epoch, first, first + len(entries) - 1, entries)
        if not self.is_owner(worker, session):
            with pytest.raises(Fenced):
                self.ask(adding)
        elif model is None or model.epoch != epoch or first > model.last + 1:
            with pytest.raises(StoredStateBroken):
                self.ask(adding)
        elif self.carried_out(adding, model):
            model.entries += entries[model.last + 1 - first :]

    @precondition(lambda self: self.believed)
    @rule(data=st.data(), offset=st.integers(-4, 2), snapshot=contents)
    def snapshot(self, data: st.DataObject, offset: int, snapshot: bytes) -> None:
        (worker, session), epoch = data.draw(st.sampled_from(sorted(self.believed.items())))
        model = self.models.get(session)
        sequence = max(0, offset + (0 if model is None else model.last))
        writing = self.keepings[worker].snapshot(session, epoch, sequence, snapshot)
        if not self.is_owner(worker, session):
            with pytest.raises(Fenced):
                self.ask(writing)
        elif len(snapshot) > LARGEST:
            with pytest.raises(TooLarge):
                self.ask(writing)
            self.models.pop(session, None)
        elif model is None or model.epoch != epoch:
            with pytest.raises(StoredStateBroken):
                self.ask(writing)
        elif self.carried_out(writing, model) and sequence >= model.base:
            del model.entries[: sequence - model.base]
            model.snapshot, model.base = snapshot, sequence

    def carried_out(self, writing: Any, model: Model) -> bool:
        """What is damaged may be refused, and nothing else."""
        try:
            self.ask(writing)
        except StoredStateBroken:
            assert model.damaged
            return False
        return True

    @precondition(lambda self: self.believed)
    @rule(data=st.data())
    def forget(self, data: st.DataObject) -> None:
        (worker, session), epoch = data.draw(st.sampled_from(sorted(self.believed.items())))
        forgetting = self.keepings[worker].forget(session, epoch)
        if not self.is_owner(worker, session):
            with pytest.raises(Fenced):
                self.ask(forgetting)
        else:
            self.ask(forgetting)
            self.models.pop(session, None)

    @precondition(lambda self: self.models)
    @rule(data=st.data(), worker=workers)
    def touch(self, data: st.DataObject, worker: int) -> None:
        lacking = self.ask(self.keepings[worker].touch(["a", "b"]))
        for session in "ab":
            model = self.models.get(session)
            if self.owners.get(session, (worker, 0))[0] != worker:
                assert session not in lacking
            elif model is None:
                assert session in lacking
            elif session in lacking:
                assert model.damaged

    @precondition(lambda self: any(not model.damaged for model in self.models.values()))
    @rule(data=st.data())
    def damage(self, data: st.DataObject) -> None:
        """Once at a time: two that fit each other can make what looks whole."""
        session = data.draw(st.sampled_from(sorted(key for key, model in self.models.items() if not model.damaged)))
        kept, journal = self.bus.names.stored(session), self.bus.names.journal(session)
        part = data.draw(st.sampled_from(["origin", "snapshot", "epoch", "sequence", "last", "snapshot_sum"]))
        commands = [
            ("HDEL", kept, part),
            ("HSET", kept, part, data.draw(st.sampled_from(["", "1", "3", "x", "-1"]))),
            ("LPOP", journal),
            ("RPOP", journal),
            ("LTRIM", journal, 1, 1),
            ("DEL", journal),
            ("DEL", kept),
            ("SET", journal, "text"),
            ("SET", kept, "text"),
        ]
        self.ask(self.bus.run(ATTEMPT, [], data.draw(st.sampled_from(commands))))
        self.models[session].damaged = True

    @invariant()
    def what_is_loaded_is_what_the_model_holds(self) -> None:
        for session in "ab":
            model = self.models.get(session)
            found = self.ask(self.keepings[0].load(session))
            if model is None:
                assert found is None
            elif model.damaged:
                assert found in (None, model.kept())
            else:
                assert found == model.kept()

    @invariant()
    def the_size_is_told_as_the_model_has_it(self) -> None:
        for session, (worker, epoch) in self.owners.items():
            model = self.models.get(session)
            if model is not None and model.epoch == epoch and not model.damaged:
                assert self.ask(self.keepings[worker].add(session, epoch, 1, 0, [])) == model.size


@pytest.mark.parametrize("kind", KINDS)
def test_every_history_agrees_with_the_model(kind: str) -> None:
    """Nothing is loaded that its owner has not kept, in full, and no other keeps anything."""
    examples = 100 if kind == "redis-server" else 10
    with node_server(kind) as url, loop_with_bus(url) as (Machine.loop, Machine.bus):
        run_state_machine_as_test(Machine, settings=settings(max_examples=examples, stateful_step_count=40))
