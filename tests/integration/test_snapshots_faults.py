"""What is kept may be damaged, evicted or overwritten: then it is nothing, and its session can be kept anew."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterator

import pytest
from support.patience import run
from support.redis import KINDS, RedisServer, bus_on, eventually, fresh_namespace, node_server

from aperture.bus.redis import RedisBus
from aperture.errors import BusDown, StoredStateBroken
from aperture.registry.members import WorkerName
from aperture.registry.registry import Registry
from aperture.registry.snapshots import SnapshotStore, StoredState

SESSION_KEY = "/app\tsession"
ME = WorkerName("node", 0, "n")
PARTS = ("format", "epoch", "origin", "origin_sum", "sequence", "snapshot", "snapshot_sum", "last")
OLD = (b"old origin", b"old snapshot", [b"entry one", b"entry two", b"entry three"])

Damage = Callable[[RedisBus, str, str], Awaitable[object]]


@pytest.fixture(scope="module", params=KINDS)
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    """A server as a node starts it for itself."""
    with node_server(request.param) as running:
        yield running


def part_becomes(name: str, change: Callable[[bytes], bytes]) -> Damage:
    async def damage(bus: RedisBus, kept: str, journal: str) -> None:
        await bus.command("HSET", kept, name, change(await bus.command("HGET", kept, name)))

    return damage


def command(*words: str | int | bytes) -> Damage:
    """One command, with `kept` and `journal` for the keys."""

    async def damage(bus: RedisBus, kept: str, journal: str) -> None:
        named = {"kept": kept, "journal": journal}
        await bus.command(*(named.get(word, word) if isinstance(word, str) else word for word in words))

    return damage


def replaced_by(key: str, *words: str) -> Damage:
    """Another type of key."""

    async def damage(bus: RedisBus, kept: str, journal: str) -> None:
        name = kept if key == "kept" else journal
        await bus.command("DEL", name)
        await bus.command(words[0], name, *words[1:])

    return damage


async def exchanged(bus: RedisBus, kept: str, journal: str) -> None:
    first, second, *_ = await bus.command("LRANGE", journal, 0, -1)
    await bus.command("LSET", journal, 0, second)
    await bus.command("LSET", journal, 1, first)


async def cut_short(bus: RedisBus, kept: str, journal: str) -> None:
    entry = await bus.command("LINDEX", journal, 1)
    await bus.command("LSET", journal, 1, entry[:-1])


# Numbers above all, for Lua takes more texts for one than Python does; the unit tests change every byte.
CHANGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda value: b"",
    "garbage": lambda value: b"\xff\x00garbage",
    "nan": lambda value: b"nan",
}

DAMAGES: dict[str, Damage] = {
    **{f"{name}-{how}": part_becomes(name, change) for name in PARTS for how, change in CHANGES.items()},
    **{f"{name}-missing": command("HDEL", "kept", name) for name in PARTS},
    "hash-missing": command("DEL", "kept"),
    "hash-text": replaced_by("kept", "SET", "text"),
    "hash-list": replaced_by("kept", "RPUSH", "a", "b"),
    "hash-set": replaced_by("kept", "SADD", "a", "b"),
    "hash-strange": replaced_by("kept", "HSET", "a", "b"),
    "journal-missing": command("DEL", "journal"),
    "journal-text": replaced_by("journal", "SET", "text"),
    "journal-hash": replaced_by("journal", "HSET", "a", "b"),
    "journal-stream": replaced_by("journal", "XADD", "*", "a", "b"),
    "journal-strange": replaced_by("journal", "RPUSH", "a", "b", "c"),
    "journal-headless": command("LPOP", "journal"),
    "journal-tailless": command("RPOP", "journal"),
    "journal-longer": command("RPUSH", "journal", "more"),
    "journal-empty-entry": command("LSET", "journal", 1, ""),
    "journal-garbage": command("LSET", "journal", 1, b"\xff" * 100),
    "journal-exchanged": exchanged,
    "journal-cut-short": cut_short,
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_nothing_and_is_healed_by_keeping_anew(url: str, name: str, caplog: pytest.LogCaptureFixture) -> None:
    """One line in the log; whatever its owner goes on to write, nothing wrong is ever read."""

    async def scenario() -> None:
        async with bus_on(url, fresh_namespace()) as bus:
            epoch = (await Registry(bus, ME, grace=0).claim(SESSION_KEY, fresh=True)).epoch
            keeping = SnapshotStore(bus, ME, lifetime=600, max_snapshot=1000)
            origin, snapshot, entries = OLD
            await keeping.begin(SESSION_KEY, epoch, origin, snapshot)
            await keeping.add(SESSION_KEY, epoch, 1, 3, entries)
            await DAMAGES[name](bus, bus.names.stored(SESSION_KEY), bus.names.journal(SESSION_KEY))
            assert await keeping.load(SESSION_KEY) is None
            assert keeping.broken_loads == 1
            assert [record.levelno for record in caplog.records] == [logging.WARNING]
            for attempt in (
                keeping.add(SESSION_KEY, epoch, 4, 4, [b"four"]),
                keeping.add(SESSION_KEY, epoch, 2, 4, [b"x"] * 3),
            ):
                try:
                    await attempt
                except StoredStateBroken:
                    assert await keeping.load(SESSION_KEY) is None
            assert await keeping.touch([SESSION_KEY]) <= {SESSION_KEY}
            assert await keeping.size(SESSION_KEY) >= 0
            assert await keeping.load(SESSION_KEY) is None
            await keeping.begin(SESSION_KEY, epoch, b"o", b"new", sequence=4)
            await keeping.add(SESSION_KEY, epoch, 5, 5, [b"five"])
            assert await keeping.load(SESSION_KEY) == StoredState(b"o", epoch, b"new", 4, (b"five",))

    caplog.set_level(logging.WARNING)
    run(scenario())


@pytest.mark.parametrize("name", [name for name in DAMAGES if name.startswith(("hash", "journal", "last"))])
def test_a_snapshot_makes_nothing_wrong_of_damage(url: str, name: str) -> None:
    """It is refused, or what is loaded is that snapshot and all that follows it; also after a forgetting."""

    async def scenario() -> None:
        async with bus_on(url, fresh_namespace()) as bus:
            epoch = (await Registry(bus, ME, grace=0).claim(SESSION_KEY, fresh=True)).epoch
            keeping = SnapshotStore(bus, ME, lifetime=600, max_snapshot=1000)
            origin, snapshot, entries = OLD
            for sequence in (1, 3, 9):
                await keeping.begin(SESSION_KEY, epoch, origin, snapshot)
                await keeping.add(SESSION_KEY, epoch, 1, 3, entries)
                await DAMAGES[name](bus, bus.names.stored(SESSION_KEY), bus.names.journal(SESSION_KEY))
                try:
                    await keeping.snapshot(SESSION_KEY, epoch, sequence, b"later")
                except StoredStateBroken:
                    assert await keeping.load(SESSION_KEY) is None
                else:
                    rest = tuple(entries[sequence:])
                    whole = StoredState(origin, epoch, b"later", sequence, rest)
                    assert await keeping.load(SESSION_KEY) in (None, whole)
                await keeping.forget(SESSION_KEY, epoch)
                assert await bus.command("EXISTS", bus.names.stored(SESSION_KEY), bus.names.journal(SESSION_KEY)) == 0

    run(scenario())


COUNTABLE = (
    "journal-missing",
    "journal-headless",
    "journal-tailless",
    "journal-longer",
    "journal-text",
    "journal-hash",
)


@pytest.mark.parametrize("name", [*COUNTABLE, *(name for name in DAMAGES if name.startswith("hash"))])
def test_the_owner_learns_of_a_loss_when_it_writes_or_touches(url: str, name: str) -> None:
    """Redis may evict a key at any time; its owner still has the document, and can keep it anew while it lives."""

    async def scenario() -> None:
        async with bus_on(url, fresh_namespace()) as bus:
            epoch = (await Registry(bus, ME, grace=0).claim(SESSION_KEY, fresh=True)).epoch
            keeping = SnapshotStore(bus, ME, lifetime=600, max_snapshot=1000)
            origin, snapshot, entries = OLD
            await keeping.begin(SESSION_KEY, epoch, origin, snapshot)
            await keeping.add(SESSION_KEY, epoch, 1, 3, entries)
            assert await keeping.touch([SESSION_KEY]) == set()
            await DAMAGES[name](bus, bus.names.stored(SESSION_KEY), bus.names.journal(SESSION_KEY))
            assert await keeping.touch([SESSION_KEY]) == {SESSION_KEY}
            with pytest.raises(StoredStateBroken):
                await keeping.add(SESSION_KEY, epoch, 4, 4, [b"four"])
            with pytest.raises(StoredStateBroken):
                await keeping.snapshot(SESSION_KEY, epoch, 4, b"later")

    run(scenario())


def test_one_damaged_session_does_not_keep_others_from_being_touched(url: str) -> None:
    """They share a call; even the registry's own entry of that session may be anything."""

    async def scenario() -> None:
        async with bus_on(url, fresh_namespace()) as bus:
            registry = Registry(bus, ME, grace=0)
            keeping, lasting = (SnapshotStore(bus, ME, lifetime=t, max_snapshot=1000) for t in (60, 600))
            for session_key in ("a", "b", "c"):
                await keeping.begin(session_key, (await registry.claim(session_key, fresh=True)).epoch, b"o", b"s")
            await replaced_by("kept", "SET", "text")(bus, bus.names.stored("a"), "")
            await replaced_by("kept", "SET", "text")(bus, bus.names.session("b"), "")
            await lasting.touch(["a", "b", "c"])
            assert await bus.command("PTTL", bus.names.stored("c")) > 60_000

    run(scenario())


def test_a_redis_that_comes_back_empty_is_kept_in_again() -> None:
    """Meanwhile calls say that it is down; afterwards a touch tells what has to be kept anew."""

    async def scenario(server: RedisServer) -> None:
        async with bus_on(server.url, fresh_namespace()) as bus:
            registry = Registry(bus, ME, grace=0)
            epoch = (await registry.claim(SESSION_KEY, fresh=True)).epoch
            keeping = SnapshotStore(bus, ME, lifetime=600, max_snapshot=1000)
            await keeping.begin(SESSION_KEY, epoch, b"o", b"s0")
            server.kill()
            await eventually(lambda: not bus.up)
            for attempt in (
                keeping.begin(SESSION_KEY, epoch, b"o", b"s0"),
                keeping.begin(SESSION_KEY, epoch, b"o", b"x" * 1001),
                keeping.add(SESSION_KEY, epoch, 1, 1, [b"1"]),
                keeping.snapshot(SESSION_KEY, epoch, 1, b"s1"),
                keeping.forget(SESSION_KEY, epoch),
                keeping.load(SESSION_KEY),
                keeping.touch([SESSION_KEY]),
                keeping.size(SESSION_KEY),
            ):
                with pytest.raises(BusDown):
                    await attempt
            server.start()
            await eventually(lambda: bus.up)
            assert await keeping.touch([SESSION_KEY]) == {SESSION_KEY}
            with pytest.raises(StoredStateBroken):
                await keeping.add(SESSION_KEY, epoch, 1, 1, [b"1"])
            # Before the heartbeat has put the claim back, and after.
            await keeping.begin(SESSION_KEY, epoch, b"o", b"s1", sequence=1)
            assert await registry.renew({SESSION_KEY: epoch}) == set()
            await keeping.add(SESSION_KEY, epoch, 2, 2, [b"2"])
            assert await keeping.load(SESSION_KEY) == StoredState(b"o", epoch, b"s1", 1, (b"2",))
            assert await keeping.touch([SESSION_KEY]) == set()
            assert keeping.broken_loads == 0

    with RedisServer() as server:
        run(scenario(server))
