"""What is kept of a session: what was written is what is read, by its owner alone, whole or not at all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
from support.patience import POLL, run, seconds
from support.redis import KINDS, RedisServer, bus_on, fresh_namespace, node_server

from aperture.bus.redis import RedisBus
from aperture.errors import BusDown, Fenced, StoredStateBroken, TooLarge
from aperture.registry.members import WorkerName
from aperture.registry.registry import Registry
from aperture.registry.snapshots import ENTRY_OVERHEAD, SnapshotStore, StoredState

SESSION_KEY = "/app\tsession"
LONG = 600.0
"""Seconds; longer than any test."""
LARGEST = 100_000


@pytest.fixture(scope="module", params=KINDS)
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    """A server as a node starts it for itself."""
    with node_server(request.param) as running:
        yield running


@dataclass(frozen=True, slots=True)
class Worker:
    """One that may own sessions, and keeps them."""

    bus: RedisBus
    registry: Registry
    keeping: SnapshotStore

    @classmethod
    def on(cls, bus: RedisBus, index: int = 0, lifetime: float = LONG) -> Worker:
        me = WorkerName("node", index, "n")
        return cls(bus, Registry(bus, me, grace=0), SnapshotStore(bus, me, lifetime=lifetime, max_snapshot=LARGEST))

    async def claim(self, session_key: str = SESSION_KEY) -> int:
        claim = await self.registry.claim(session_key, fresh=True)
        assert claim.mine
        return claim.epoch

    async def die(self) -> None:
        """As the others see it; this object goes on as a frozen worker does."""
        await self.bus.command("ZADD", self.bus.names.workers, 1, self.registry.me)


@asynccontextmanager
async def worker_on(url: str, lifetime: float = LONG) -> AsyncIterator[tuple[Worker, int]]:
    """A worker that owns the session, and its epoch."""
    async with bus_on(url, fresh_namespace()) as bus:
        worker = Worker.on(bus, lifetime=lifetime)
        yield worker, await worker.claim()


def entry(number: int) -> bytes:
    return b"entry %d\r\n\x00\xff" % number


def entries(first: int, last: int) -> tuple[bytes, ...]:
    return tuple(entry(number) for number in range(first, last + 1))


def test_what_was_kept_is_loaded(url: str) -> None:
    """Bytes of any kind, and by any worker."""

    async def scenario() -> None:
        async with worker_on(url) as (worker, epoch):
            keeping = worker.keeping
            assert await keeping.load(SESSION_KEY) is None
            assert not await keeping.exists(SESSION_KEY)
            await keeping.begin(SESSION_KEY, epoch, b"\x00origin\xff", b"\r\nsnapshot")
            assert await keeping.load(SESSION_KEY) == StoredState(b"\x00origin\xff", epoch, b"\r\nsnapshot", 0, ())
            assert await keeping.exists(SESSION_KEY)
            await keeping.add(SESSION_KEY, epoch, 1, 3, entries(1, 3))
            await keeping.add(SESSION_KEY, epoch, 4, 4, [b""])
            await keeping.add(SESSION_KEY, epoch, 5, 500, entries(5, 500))
            kept = await Worker.on(worker.bus, 1).keeping.load(SESSION_KEY)
            assert kept is not None
            assert kept.entries == (*entries(1, 3), b"", *entries(5, 500))
            assert (kept.epoch, kept.snapshot, kept.sequence, kept.last) == (epoch, b"\r\nsnapshot", 0, 500)
            assert await keeping.load("/app\tother") is None
            assert keeping.broken_loads == 0

    run(scenario())


def test_a_snapshot_takes_the_place_of_what_is_in_it(url: str) -> None:
    """Of part of the journal, of all of it, and of more than was ever added to it."""

    async def scenario() -> None:
        async with worker_on(url) as (worker, epoch):
            keeping = worker.keeping
            await keeping.begin(SESSION_KEY, epoch, b"o", b"s0")
            await keeping.add(SESSION_KEY, epoch, 1, 10, entries(1, 10))
            await keeping.snapshot(SESSION_KEY, epoch, 7, b"s7")
            assert await keeping.load(SESSION_KEY) == StoredState(b"o", epoch, b"s7", 7, entries(8, 10))
            await keeping.snapshot(SESSION_KEY, epoch, 10, b"s10")
            assert await keeping.load(SESSION_KEY) == StoredState(b"o", epoch, b"s10", 10, ())
            await keeping.add(SESSION_KEY, epoch, 11, 12, entries(11, 12))
            await keeping.snapshot(SESSION_KEY, epoch, 20, b"s20")
            assert await keeping.add(SESSION_KEY, epoch, 11, 20, entries(11, 20)) == 0
            await keeping.add(SESSION_KEY, epoch, 21, 21, entries(21, 21))
            assert await keeping.load(SESSION_KEY) == StoredState(b"o", epoch, b"s20", 20, entries(21, 21))

    run(scenario())


def test_the_journal_tells_its_size(url: str) -> None:
    """So that its writer knows when a snapshot is due."""

    async def scenario() -> None:
        async with worker_on(url) as (worker, epoch):
            keeping = worker.keeping
            await keeping.begin(SESSION_KEY, epoch, b"o", b"s")
            assert await keeping.add(SESSION_KEY, epoch, 1, 2, [b"x" * 100, b"y" * 1000]) == 1100 + 2 * ENTRY_OVERHEAD
            assert await keeping.add(SESSION_KEY, epoch, 3, 3, [b""]) == 1100 + 3 * ENTRY_OVERHEAD
            await keeping.snapshot(SESSION_KEY, epoch, 1, b"s")
            assert await keeping.add(SESSION_KEY, epoch, 4, 3, []) == 1000 + 2 * ENTRY_OVERHEAD
            assert await keeping.size(SESSION_KEY) > 1000
            await keeping.forget(SESSION_KEY, epoch)
            assert await keeping.size(SESSION_KEY) == 0

    run(scenario())


def test_what_is_repeated_changes_nothing(url: str) -> None:
    """After a lost answer it is not known whether it was done, so it is done again."""

    async def scenario() -> None:
        async with worker_on(url) as (worker, epoch):
            keeping = worker.keeping
            for _ in range(2):
                await keeping.begin(SESSION_KEY, epoch, b"o", b"s0")
            sizes = [await keeping.add(SESSION_KEY, epoch, 1, 5, entries(1, 5)) for _ in range(2)]
            assert sizes[0] == sizes[1]
            assert await keeping.add(SESSION_KEY, epoch, 2, 3, entries(2, 3)) == sizes[0]
            await keeping.add(SESSION_KEY, epoch, 4, 7, entries(4, 7))
            for _ in range(2):
                await keeping.snapshot(SESSION_KEY, epoch, 3, b"s3")
            await keeping.snapshot(SESSION_KEY, epoch, 2, b"too late")
            await keeping.add(SESSION_KEY, epoch, 1, 7, entries(1, 7))
            assert await keeping.load(SESSION_KEY) == StoredState(b"o", epoch, b"s3", 3, entries(4, 7))
            for _ in range(2):
                await keeping.forget(SESSION_KEY, epoch)
            assert await keeping.load(SESSION_KEY) is None

    run(scenario())


def test_a_hole_is_refused(url: str) -> None:
    """And so is what continues nothing; what is there stays as it was."""

    async def scenario() -> None:
        async with worker_on(url) as (worker, epoch):
            keeping = worker.keeping
            with pytest.raises(StoredStateBroken):
                await keeping.add(SESSION_KEY, epoch, 1, 1, entries(1, 1))
            with pytest.raises(StoredStateBroken):
                await keeping.snapshot(SESSION_KEY, epoch, 1, b"s")
            assert await keeping.load(SESSION_KEY) is None
            await keeping.begin(SESSION_KEY, epoch, b"o", b"s0")
            with pytest.raises(StoredStateBroken):
                await keeping.add(SESSION_KEY, epoch, 2, 2, entries(2, 2))
            await keeping.add(SESSION_KEY, epoch, 1, 2, entries(1, 2))
            with pytest.raises(StoredStateBroken):
                await keeping.add(SESSION_KEY, epoch, 4, 5, entries(4, 5))
            assert await keeping.load(SESSION_KEY) == StoredState(b"o", epoch, b"s0", 0, entries(1, 2))

    run(scenario())


def test_a_session_that_goes_on_is_kept_from_where_it_is(url: str) -> None:
    """When Redis has lost everything; numbers do not begin again."""

    async def scenario() -> None:
        async with worker_on(url) as (worker, epoch):
            keeping = worker.keeping
            await keeping.begin(SESSION_KEY, epoch, b"o", b"s0")
            await keeping.add(SESSION_KEY, epoch, 1, 5, entries(1, 5))
            await worker.bus.command("FLUSHALL")
            with pytest.raises(StoredStateBroken):
                await keeping.add(SESSION_KEY, epoch, 6, 6, entries(6, 6))
            await keeping.begin(SESSION_KEY, epoch, b"o", b"s6", sequence=6)
            await keeping.add(SESSION_KEY, epoch, 6, 7, entries(6, 7))
            assert await keeping.load(SESSION_KEY) == StoredState(b"o", epoch, b"s6", 6, entries(7, 7))

    run(scenario())


def test_only_the_owner_writes(url: str) -> None:
    """Neither a stranger nor the owner at an earlier epoch changes anything."""

    async def scenario() -> None:
        async with worker_on(url) as (worker, epoch):
            await worker.keeping.begin(SESSION_KEY, epoch, b"o", b"s0")
            await worker.keeping.add(SESSION_KEY, epoch, 1, 1, entries(1, 1))
            stranger = Worker.on(worker.bus, 1).keeping
            for keeping, at in ((stranger, epoch), (stranger, epoch - 1), (worker.keeping, epoch - 1)):
                for attempt in (
                    keeping.begin(SESSION_KEY, at, b"no", b"no"),
                    keeping.begin(SESSION_KEY, at, b"no", b"x" * (LARGEST + 1)),
                    keeping.add(SESSION_KEY, at, 2, 2, [b"no"]),
                    keeping.snapshot(SESSION_KEY, at, 1, b"no"),
                    keeping.forget(SESSION_KEY, at),
                ):
                    with pytest.raises(Fenced):
                        await attempt
            assert await worker.keeping.load(SESSION_KEY) == StoredState(b"o", epoch, b"s0", 0, entries(1, 1))

    run(scenario())


def test_an_owner_writes_over_what_a_redis_has_saved_before(url: str) -> None:
    """It was set back to another owner, at a lower epoch: nothing can be added to that, and all begins anew."""

    async def scenario() -> None:
        async with worker_on(url) as (worker, epoch):
            await worker.keeping.begin(SESSION_KEY, epoch, b"o", b"s0")
            later = Worker.on(worker.bus, 1).keeping
            with pytest.raises(StoredStateBroken):
                await later.add(SESSION_KEY, epoch + 1, 1, 1, entries(1, 1))
            await later.begin(SESSION_KEY, epoch + 1, b"o", b"s7", sequence=7)
            assert await later.load(SESSION_KEY) == StoredState(b"o", epoch + 1, b"s7", 7, ())

    run(scenario())


def test_the_next_owner_finds_what_the_last_one_kept(url: str) -> None:
    """From its claim on nothing changes any more, and it must begin anew before it adds anything."""

    async def scenario() -> None:
        async with worker_on(url) as (old, epoch):
            await old.keeping.begin(SESSION_KEY, epoch, b"o", b"s0")
            await old.keeping.add(SESSION_KEY, epoch, 1, 2, entries(1, 2))
            await old.die()
            new = Worker.on(old.bus, 1)
            next_epoch = await new.claim()
            with pytest.raises(Fenced):
                await old.keeping.add(SESSION_KEY, epoch, 3, 3, entries(3, 3))
            assert await new.keeping.load(SESSION_KEY) == StoredState(b"o", epoch, b"s0", 0, entries(1, 2))
            with pytest.raises(StoredStateBroken):
                await new.keeping.add(SESSION_KEY, next_epoch, 3, 3, entries(3, 3))
            await new.keeping.begin(SESSION_KEY, next_epoch, b"o", b"rebuilt")
            await new.keeping.add(SESSION_KEY, next_epoch, 1, 1, entries(1, 1))
            with pytest.raises(Fenced):
                await old.keeping.forget(SESSION_KEY, epoch)
            assert await new.keeping.load(SESSION_KEY) == StoredState(b"o", next_epoch, b"rebuilt", 0, entries(1, 1))

    run(scenario())


def test_a_sleeper_is_refused_even_when_redis_has_forgotten_the_claims(url: str) -> None:
    """What is kept remembers that there was a later owner; an owner that only Redis forgot goes on."""

    async def scenario() -> None:
        async with worker_on(url) as (old, epoch):
            await old.keeping.begin(SESSION_KEY, epoch, b"o", b"s0")
            await old.die()
            new = Worker.on(old.bus, 1)
            next_epoch = await new.claim()
            await new.keeping.begin(SESSION_KEY, next_epoch, b"o", b"new")
            await new.bus.command("DEL", new.bus.names.session(SESSION_KEY))
            for attempt in (
                old.keeping.begin(SESSION_KEY, epoch, b"no", b"no"),
                old.keeping.add(SESSION_KEY, epoch, 1, 1, [b"no"]),
                old.keeping.snapshot(SESSION_KEY, epoch, 1, b"no"),
                old.keeping.forget(SESSION_KEY, epoch),
            ):
                with pytest.raises(Fenced):
                    await attempt
            await new.keeping.add(SESSION_KEY, next_epoch, 1, 1, entries(1, 1))
            assert await new.keeping.load(SESSION_KEY) == StoredState(b"o", next_epoch, b"new", 0, entries(1, 1))

    run(scenario())


def test_two_who_take_each_other_for_dead_never_mix(url: str) -> None:
    """Both write all the time while the session goes back and forth; what is loaded is always of one of them."""

    async def live(worker: Worker, rounds: int, held: list[StoredState]) -> None:
        for _ in range(rounds):
            await worker.bus.command("DEL", worker.bus.names.workers)  # everybody is taken for dead
            claim = await worker.registry.claim(SESSION_KEY, fresh=True)
            epoch = claim.epoch
            try:
                await worker.keeping.begin(SESSION_KEY, epoch, b"o", b"%d" % epoch)
                for number in range(1, 20):
                    await worker.keeping.add(SESSION_KEY, epoch, number, number, [b"%d %d" % (epoch, number)])
                    if number % 7 == 0:
                        await worker.keeping.snapshot(SESSION_KEY, epoch, number, b"%d" % epoch)
            except Fenced:
                pass  # the other has it, which was the point
            kept = await worker.keeping.load(SESSION_KEY)
            if kept is not None:  # neither has begun
                held.append(kept)
        assert worker.keeping.broken_loads == 0

    async def scenario() -> None:
        namespace = fresh_namespace()
        async with bus_on(url, namespace) as one, bus_on(url, namespace) as other:
            held: list[StoredState] = []
            await asyncio.gather(live(Worker.on(one, 0), 30, held), live(Worker.on(other, 1), 30, held))
            assert len({kept.epoch for kept in held}) > 2
            for kept in held:
                numbers = range(kept.sequence + 1, kept.last + 1)
                assert kept.snapshot == b"%d" % kept.epoch
                assert kept.entries == tuple(b"%d %d" % (kept.epoch, number) for number in numbers)

    run(scenario())


def test_too_large_a_snapshot_leaves_nothing(url: str) -> None:
    """A session is not rebuilt as it was before it grew; smaller again, it is kept again."""

    async def scenario() -> None:
        async with worker_on(url) as (worker, epoch):
            keeping = worker.keeping
            await keeping.begin(SESSION_KEY, epoch, b"o", b"x" * LARGEST)
            await keeping.add(SESSION_KEY, epoch, 1, 1, entries(1, 1))
            with pytest.raises(TooLarge, match=str(LARGEST)):
                await keeping.snapshot(SESSION_KEY, epoch, 1, b"x" * (LARGEST + 1))
            assert await keeping.load(SESSION_KEY) is None
            with pytest.raises(StoredStateBroken):
                await keeping.add(SESSION_KEY, epoch, 2, 2, entries(2, 2))
            await keeping.begin(SESSION_KEY, epoch, b"o", b"s2", sequence=2)
            with pytest.raises(TooLarge):
                await keeping.begin(SESSION_KEY, epoch, b"o", b"x" * (LARGEST + 1), sequence=3)
            assert await keeping.load(SESSION_KEY) is None
            names = worker.bus.names
            assert await worker.bus.command("EXISTS", names.stored(SESSION_KEY), names.journal(SESSION_KEY)) == 0

    run(scenario())


async def _expired(worker: Worker) -> None:
    """Return once Redis has let go of the session."""
    names = worker.bus.names
    async with asyncio.timeout(seconds(10)):
        while await worker.bus.command("EXISTS", names.stored(SESSION_KEY), names.journal(SESSION_KEY)):
            await asyncio.sleep(POLL)


def test_what_nobody_touches_expires(url: str) -> None:
    """All of it, whichever call was the last."""

    async def scenario() -> None:
        async with worker_on(url, lifetime=0.05) as (worker, epoch):
            keeping = worker.keeping
            await keeping.begin(SESSION_KEY, epoch, b"o", b"s0")
            await _expired(worker)
            patient = Worker.on(worker.bus).keeping
            for last in ("add", "snapshot", "touch"):
                await patient.begin(SESSION_KEY, epoch, b"o", b"s0")
                await patient.add(SESSION_KEY, epoch, 1, 1, entries(1, 1))
                if last == "add":
                    await keeping.add(SESSION_KEY, epoch, 2, 2, entries(2, 2))
                elif last == "snapshot":
                    await keeping.snapshot(SESSION_KEY, epoch, 0, b"s0")
                else:
                    assert await keeping.touch([SESSION_KEY]) == set()
                await _expired(worker)
                assert await keeping.load(SESSION_KEY) is None

    run(scenario())


def test_a_touch_keeps_sessions_for_another_lifetime(url: str) -> None:
    """Hundreds in one go; it tells which of them have to be kept anew."""

    async def scenario() -> None:
        async with bus_on(url, fresh_namespace()) as bus:
            short, long = Worker.on(bus, lifetime=60), Worker.on(bus)
            session_keys = [f"/app\t{number}" for number in range(600)]
            for session_key in session_keys[:-2]:
                epoch = await short.claim(session_key)
                await short.keeping.begin(session_key, epoch, b"o", b"s")
                await short.keeping.add(session_key, epoch, 1, 1, entries(1, 1))
            await bus.command("DEL", bus.names.journal(session_keys[3]))
            assert await long.keeping.touch(session_keys) == {session_keys[3], *session_keys[-2:]}
            for session_key in (session_keys[0], session_keys[597]):
                for key in (bus.names.stored(session_key), bus.names.journal(session_key)):
                    assert await bus.command("PTTL", key) > 60_000
            assert await long.keeping.touch([]) == set()

    run(scenario())


def test_a_touch_leaves_alone_what_is_another_workers(url: str) -> None:
    """A worker that lost a session unnoticed neither keeps it alive nor learns of its state."""

    async def scenario() -> None:
        async with worker_on(url, lifetime=60) as (worker, epoch):
            await worker.keeping.begin(SESSION_KEY, epoch, b"o", b"s")
            other = Worker.on(worker.bus, 1)
            assert await other.keeping.touch([SESSION_KEY]) == set()
            assert await worker.bus.command("PTTL", worker.bus.names.stored(SESSION_KEY)) <= 60_000

    run(scenario())


def test_a_redis_without_memory_refuses_and_keeps_nothing_wrong() -> None:
    """What was kept before stays whole; what cannot be begun is not there."""

    async def scenario(url: str) -> None:
        async with worker_on(url) as (worker, epoch):
            keeping = worker.keeping
            await keeping.begin(SESSION_KEY, epoch, b"o", b"s0")
            await keeping.add(SESSION_KEY, epoch, 1, 1, entries(1, 1))
            await worker.bus.command("CONFIG", "SET", "maxmemory", 1)
            with pytest.raises(BusDown, match="full"):
                await keeping.add(SESSION_KEY, epoch, 2, 2, entries(2, 2))
            with pytest.raises(BusDown, match="full"):
                await keeping.snapshot(SESSION_KEY, epoch, 1, b"s1")
            assert await keeping.load(SESSION_KEY) == StoredState(b"o", epoch, b"s0", 0, entries(1, 1))
            with pytest.raises(BusDown, match="full"):
                await keeping.begin(SESSION_KEY, epoch, b"o", b"s2", sequence=2)
            assert await keeping.load(SESSION_KEY) is None
            await worker.bus.command("CONFIG", "SET", "maxmemory", 0)
            await keeping.begin(SESSION_KEY, epoch, b"o", b"s3", sequence=3)
            assert await keeping.load(SESSION_KEY) == StoredState(b"o", epoch, b"s3", 3, ())
            assert keeping.broken_loads == 0

    with RedisServer({"maxmemory-policy": "noeviction"}) as server:
        run(scenario(server.url))
