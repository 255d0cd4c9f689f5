"""Who owns what, on a real Redis and on what stands in for one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from support.patience import run
from support.redis import KINDS, RedisServer, bus_on, eventually, fresh_namespace, node_server

from aperture.bus.redis import RedisBus
from aperture.errors import BusDown, Fenced, OwnerUnknown
from aperture.registry import registry as module
from aperture.registry.members import WorkerName
from aperture.registry.registry import Claim, Registry


@pytest.fixture(scope="module", params=KINDS)
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    """A server as a node starts it for itself."""
    with node_server(request.param) as running:
        yield running


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with RedisServer() as running:
        yield running


@asynccontextmanager
async def workers(url: str, count: int, **options: float) -> AsyncIterator[list[Registry]]:
    """So many workers of one cluster, each with a bus of its own."""
    namespace = fresh_namespace()
    async with AsyncExitStack() as stack:
        buses = [await stack.enter_async_context(bus_on(url, namespace)) for _ in range(count)]
        made = [Registry(bus, WorkerName("node", index, "n"), **options) for index, bus in enumerate(buses)]
        for registry in made:
            await registry.renew({})
        yield made


def bus_of(registry: Registry) -> RedisBus:
    bus = registry._bus
    assert isinstance(bus, RedisBus)
    return bus


async def expire(registry: Registry) -> None:
    """Let the worker's lease have ended, as if it had been frozen."""
    await bus_of(registry).command("ZADD", bus_of(registry).names.workers, 1, registry.me)


def test_a_session_has_one_owner(url: str) -> None:
    """The first to claim it; the others learn whose it is, and claiming again changes nothing."""

    async def scenario() -> None:
        async with workers(url, 2) as (one, two):
            claim = await one.claim("s", fresh=True)
            assert claim == Claim(one.me, claim.epoch, True)
            assert await two.claim("s", fresh=False) == Claim(one.me, claim.epoch, False)
            assert await one.claim("s", fresh=False) == claim
            assert await two.owner_of("s") == Claim(one.me, claim.epoch, False)
            assert await one.owner_of("s") == claim
            assert await one.owner_of("another") is None

    run(scenario())


def test_fifty_claims_at_once_have_one_winner(url: str) -> None:
    """Whatever mix of workers and nodes a new id arrives at."""

    async def scenario() -> None:
        async with workers(url, 5) as made:
            for round_ in range(5):
                registries = [Registry(bus_of(made[i % 5]), WorkerName("node", i, f"r{round_}")) for i in range(50)]
                claims = await asyncio.gather(*(one.claim(f"s{round_}", fresh=bool(round_ % 2)) for one in registries))
                assert sum(claim.mine for claim in claims) == 1
                assert len({(claim.owner, claim.epoch) for claim in claims}) == 1

    run(scenario())


def test_a_released_session_is_anybodys_at_a_higher_epoch(url: str) -> None:
    """Even within the same millisecond, and by the same worker."""

    async def scenario() -> None:
        async with workers(url, 2) as (one, two):
            epochs = []
            for number in range(20):
                registry = (one, two)[number % 3 == 0]
                claim = await registry.claim("s", fresh=False)
                assert claim.mine
                epochs.append(claim.epoch)
                await registry.release("s", claim.epoch)
                assert await one.owner_of("s") is None
            assert epochs == sorted(set(epochs))

    run(scenario())


def test_only_the_owner_releases_and_only_at_its_epoch(url: str) -> None:
    """A late release of an earlier life of the session must not end this one."""

    async def scenario() -> None:
        async with workers(url, 2) as (one, two):
            claim = await one.claim("s", fresh=True)
            await two.release("s", claim.epoch)
            await one.release("s", claim.epoch - 1)
            assert await two.owner_of("s") == Claim(one.me, claim.epoch, False)

    run(scenario())


def test_the_sessions_of_a_dead_worker_are_claimed_by_others(url: str) -> None:
    """Its lease has ended; it learns that when it wakes up, and is refused."""

    async def scenario() -> None:
        async with workers(url, 2) as (one, two):
            mine = await one.claim("s", fresh=True)
            kept = await one.claim("kept", fresh=True)
            await expire(one)
            assert await two.living([one.me, two.me]) == {two.me}
            assert await two.owner_of("s") is None
            taken = await two.claim("s", fresh=False)
            assert taken.mine
            assert taken.epoch > mine.epoch
            with pytest.raises(Fenced):
                await one.append("s", mine.epoch, 1, 1, b"late")
            assert await one.renew({"s": mine.epoch, "kept": kept.epoch}) == {"s"}
            assert await one.renew({"kept": kept.epoch}) == set()
            assert await two.living([one.me, two.me]) == {one.me, two.me}
            assert await two.claim("kept", fresh=False) == Claim(one.me, kept.epoch, False)

    run(scenario())


def test_a_session_that_was_rebuilt_and_ended_elsewhere_is_lost_all_the_same(url: str) -> None:
    """A sleeper finds no other in its place, and must still not go on."""

    async def scenario() -> None:
        async with workers(url, 2) as (one, two):
            mine = await one.claim("s", fresh=True)
            await expire(one)
            taken = await two.claim("s", fresh=False)
            await two.release("s", taken.epoch)
            with pytest.raises(Fenced):
                await one.append("s", mine.epoch, 1, 1, b"late")
            assert await one.renew({"s": mine.epoch}) == {"s"}

    run(scenario())


def test_an_owner_that_slept_and_was_not_missed_goes_on(url: str) -> None:
    """Its lease ended, but no worker asked for its session."""

    async def scenario() -> None:
        async with workers(url, 2) as (one, two):
            mine = await one.claim("s", fresh=True)
            await expire(one)
            await one.append("s", mine.epoch, 1, 1, b"late")
            assert await one.renew({"s": mine.epoch}) == set()
            assert not (await two.claim("s", fresh=False)).mine

    run(scenario())


def test_a_withdrawn_worker_leaves_everything_to_others_at_once(url: str) -> None:
    """A rolling restart must not wait for leases."""

    async def scenario() -> None:
        async with workers(url, 2) as (one, two):
            claims = {f"s{number}": await one.claim(f"s{number}", fresh=True) for number in range(10)}
            await one.withdraw()
            assert await two.living([one.me]) == set()
            for session_id, claim in claims.items():
                taken = await two.claim(session_id, fresh=False)
                assert taken.mine
                assert taken.epoch > claim.epoch
            assert await one.renew({}) == set()
            assert await two.living([one.me]) == set()
            with pytest.raises(Fenced):
                await one.claim("new", fresh=True)

    run(scenario())


def test_a_thousand_sessions_are_renewed_in_a_few_commands(url: str) -> None:
    """The heartbeat's price does not grow with a command per session."""

    async def scenario() -> None:
        async with workers(url, 2) as (one, two):
            claims = await asyncio.gather(*(one.claim(f"s{number}", fresh=True) for number in range(1000)))
            await expire(one)
            stolen = await two.claim("s7", fresh=False)
            assert stolen.mine
            before = bus_of(one).commands_sent
            held = {f"s{number}": claim.epoch for number, claim in enumerate(claims)}
            assert await one.renew(held) == {"s7"}
            assert bus_of(one).commands_sent - before <= 4

    run(scenario())


def test_what_is_released_during_a_heartbeat_stays_released(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The heartbeat was begun with a list in which the session still was."""
    monkeypatch.setattr(module, "BATCH", 1)

    async def scenario() -> None:
        async with workers(url, 2) as (one, two):
            held = {name: (await one.claim(name, fresh=True)).epoch for name in ("a", "b", "c")}
            beating = asyncio.create_task(one.renew(held))
            await asyncio.sleep(0)
            await one.release("c", held["c"])
            await beating
            assert (await two.claim("c", fresh=False)).mine

    run(scenario())


def test_what_a_dead_cluster_leaves_behind_goes_away(url: str) -> None:
    """Every key has an end of its own."""

    async def scenario() -> None:
        async with workers(url, 1) as (one,):
            claim = await one.claim("s", fresh=True)
            released = await one.claim("r", fresh=True)
            await one.append("s", claim.epoch, 1, 1, b"x")
            await one.release("r", released.epoch)
            await one.renew({"s": claim.epoch})
            bus = bus_of(one)
            keys = await bus.command("KEYS", f"aperture:{bus.names.namespace}:*")
            assert len(keys) >= 6
            for key in keys:
                kept = 86_400_000 if key.decode() == bus.names.session("s") else 60_000
                assert 0 < await bus.command("PTTL", key) <= kept, key

    run(scenario())


def test_a_late_heartbeat_is_noticed(url: str) -> None:
    """A process that was stopped finds out before it does anything else."""

    async def scenario() -> None:
        async with workers(url, 1, lease=0.2) as (one,):
            assert not one.frozen
            await asyncio.sleep(0.25)
            assert one.frozen
            await one.renew({})
            assert not one.frozen

    run(scenario())


def test_a_claim_whose_answer_was_lost_is_given_up(url: str) -> None:
    """Redis takes the session for this worker's, which knows nothing of it; so does a release that failed."""

    async def scenario() -> None:
        async with workers(url, 2) as (one, two):
            claiming = asyncio.create_task(one.claim("s", fresh=True))
            await asyncio.sleep(0)
            claiming.cancel()
            released = await one.claim("r", fresh=True)
            releasing = asyncio.create_task(one.release("r", released.epoch))
            again = await one.claim("again", fresh=True)
            releasing.cancel()
            await asyncio.gather(claiming, releasing, return_exceptions=True)
            await one.renew({"again": again.epoch})
            assert (await two.claim("s", fresh=False)).mine
            assert (await two.claim("r", fresh=False)).mine
            assert not (await two.claim("again", fresh=False)).mine

    run(scenario())


# Redis comes back empty


async def emptied(server: RedisServer, made: list[Registry]) -> None:
    """Redis goes away and comes back with nothing in it, and every worker is connected again."""
    server.kill()
    await eventually(lambda: not any(bus_of(registry).up for registry in made))
    server.start()
    await eventually(lambda: all(bus_of(registry).up for registry in made))


def test_claims_are_put_back_when_redis_comes_back_empty(server: RedisServer) -> None:
    """By the heartbeat, at the epochs they had; and by a patch that comes before it."""

    async def scenario() -> None:
        async with workers(server.url, 2) as made:
            one, two = made
            held = {name: (await one.claim(name, fresh=True)).epoch for name in ("a", "b")}
            await emptied(server, made)
            await one.append("b", held["b"], 1, 1, b"x")
            assert await one.renew(held) == set()
            for name, epoch in held.items():
                assert await two.claim(name, fresh=False) == Claim(one.me, epoch, False)
            fresh = await two.claim("new", fresh=True)
            assert fresh.epoch > max(held.values())

    run(scenario())


def test_an_owner_prevails_over_what_a_redis_has_saved_before(server: RedisServer) -> None:
    """It comes back with an earlier owner, and with patches of that one: epochs tell who is of the past."""

    async def scenario() -> None:
        async with workers(server.url, 3) as made:
            one, two, three = made
            before = {name: (await one.claim(name, fresh=True)).epoch for name in ("a", "b")}
            for name, epoch in before.items():
                await one.append(name, epoch, 1, 7, b"of the past")
            await asyncio.to_thread(server.save)
            for name, epoch in before.items():
                await one.release(name, epoch)
            held = {name: (await two.claim(name, fresh=False)).epoch for name in before}
            server.kill()
            await eventually(lambda: not any(bus_of(registry).up for registry in made))
            server.start(saved=True)
            await eventually(lambda: all(bus_of(registry).up for registry in made))
            await two.append("a", held["a"], 1, 1, b"of today")
            assert await two.renew(held) == set()
            assert await one.renew(before) == set(before)
            for name, epoch in held.items():
                assert await three.claim(name, fresh=False) == Claim(two.me, epoch, False)
                with pytest.raises(Fenced):
                    await one.append(name, before[name], 8, 8, b"late")
            await two.append("b", held["b"], 1, 1, b"of today")
            assert [await two.read(name, 0) for name in held] == [[b"of today"]] * 2

    run(scenario())


def test_an_emptied_redis_gives_away_nothing_that_may_have_an_owner(server: RedisServer) -> None:
    """A claim waits for the old owner's heartbeat, and then names it."""

    async def scenario() -> None:
        async with workers(server.url, 2) as made:
            one, two = made
            mine = await one.claim("s", fresh=True)
            await emptied(server, made)
            claiming = asyncio.create_task(two.claim("s", fresh=False))
            await asyncio.sleep(0.3)
            assert not claiming.done()
            assert (await two.claim("new", fresh=True)).mine
            await one.renew({"s": mine.epoch})
            assert await claiming == Claim(one.me, mine.epoch, False)

    run(scenario())


def test_a_patch_before_the_heartbeat_gives_nothing_away(server: RedisServer) -> None:
    """It puts the claim back, but not the lease: its owner is not taken for dead."""

    async def scenario() -> None:
        async with workers(server.url, 2) as made:
            one, two = made
            mine = await one.claim("s", fresh=True)
            await emptied(server, made)
            await one.append("s", mine.epoch, 1, 1, b"x")
            claiming = asyncio.create_task(two.claim("s", fresh=False))
            with pytest.raises(OwnerUnknown):
                await two.owner_of("s")
            assert not claiming.done()
            assert await one.renew({"s": mine.epoch}) == set()
            assert await claiming == Claim(one.me, mine.epoch, False)
            assert await two.owner_of("s") == Claim(one.me, mine.epoch, False)

    run(scenario())


def test_an_emptied_redis_does_not_say_that_a_session_has_no_owner(server: RedisServer) -> None:
    """Not before all owners have had the time to put their claims back."""

    async def scenario() -> None:
        async with workers(server.url, 2, grace=1.0) as made:
            one, two = made
            await emptied(server, made)
            with pytest.raises(OwnerUnknown):
                await two.owner_of("s")
            await one.renew({})
            with pytest.raises(OwnerUnknown):
                await two.owner_of("s")
            assert (await two.claim("s", fresh=False)).mine  # takes as long as the grace
            assert await one.owner_of("another") is None

    run(scenario())


def test_an_emptied_redis_does_not_say_that_a_worker_is_dead(server: RedisServer) -> None:
    """It has no lease of anybody who has not come back yet; after the grace, of nobody who is alive."""

    async def scenario() -> None:
        async with workers(server.url, 2, grace=1.0) as made:
            one, two = made
            await emptied(server, made)
            assert await two.living([one.me]) == {one.me}
            await two.renew({})
            assert await two.living([one.me, two.me]) == {one.me, two.me}
            await two.claim("s", fresh=False)  # takes as long as the grace
            assert await two.living([one.me, two.me]) == {two.me}
            await one.renew({})
            assert await two.living([one.me, two.me]) == {one.me, two.me}

    run(scenario())


def test_a_newcomer_waits_with_those_who_know_better(server: RedisServer) -> None:
    """It has never seen another Redis, but a living worker has."""

    async def scenario() -> None:
        async with workers(server.url, 1) as made:
            await emptied(server, made)
            await made[0].renew({})
            newcomer = Registry(bus_of(made[0]), WorkerName("new", 0, "n"))
            claiming = asyncio.create_task(newcomer.claim("s", fresh=False))
            await asyncio.sleep(0.3)
            assert not claiming.done()
            claiming.cancel()

    run(scenario())


def test_a_redis_that_was_paused_does_not_say_that_an_owner_is_dead(url: str) -> None:
    """When no heartbeat came for a lease, the first who asks learns that it is unknown."""

    async def scenario() -> None:
        async with workers(url, 2) as (one, two):
            await one.claim("s", fresh=True)
            bus = bus_of(two)
            for worker in (one, two):
                await bus.command("ZADD", bus.names.workers, 1000, worker.me)
            with pytest.raises(OwnerUnknown):
                await two.owner_of("s")
            await two.renew({})
            assert await two.owner_of("s") is not None

    run(scenario())


def test_after_the_grace_an_unknown_session_is_given_away(server: RedisServer) -> None:
    """Its owner, if there was one, is dead."""

    async def scenario() -> None:
        async with workers(server.url, 2, grace=0.5) as made:
            await emptied(server, made)
            claiming = asyncio.create_task(made[1].claim("s", fresh=False))
            await asyncio.sleep(0.2)
            assert not claiming.done()
            assert (await claiming).mine

    run(scenario())


def test_nobody_waits_in_a_cluster_that_has_just_been_started(server: RedisServer) -> None:
    """Pages that were open before are back at once."""

    async def scenario() -> None:
        async with workers(server.url, 4) as made:
            assert (await asyncio.wait_for(made[3].claim("old", fresh=False), 3)).mine

    run(scenario())


def test_without_redis_everything_says_so(server: RedisServer) -> None:
    """Nothing hangs and nothing is made up."""

    async def scenario() -> None:
        async with workers(server.url, 1) as (one,):
            server.kill()
            await eventually(lambda: not bus_of(one).up)
            for asked in (
                one.claim("s", fresh=True),
                one.release("s", 1),
                one.renew({"s": 1}),
                one.owner_of("s"),
                one.living([one.me]),
                one.append("s", 1, 1, 1, b""),
                one.read("s", 0),
                one.withdraw(),
            ):
                with pytest.raises(BusDown):
                    await asked

    run(scenario())


@pytest.mark.parametrize("command", [("SET", "x"), ("RPUSH", "x"), ("ZADD", "1", "x")], ids=["text", "list", "set"])
def test_what_others_write_over_a_claim_costs_no_session(server: RedisServer, command: tuple[str, ...]) -> None:
    """Its owner's heartbeat puts the claim back, at its epoch; until then no other worker takes the session."""

    async def scenario() -> None:
        async with workers(server.url, 2) as (one, two):
            claims = {key: (await one.claim(key, fresh=True)).epoch for key in ("s", "t")}
            name, *content = command
            bus = bus_of(one)
            await bus.command("DEL", bus.names.session("s"))
            await bus.command(name, bus.names.session("s"), *content)
            with pytest.raises(OwnerUnknown):
                await two.claim("s", fresh=False)
            with pytest.raises(OwnerUnknown):
                await two.owner_of("s")
            assert await one.renew(claims) == set()
            for key, epoch in claims.items():
                assert await two.claim(key, fresh=False) == Claim(one.me, epoch, False)

    run(scenario())


def test_what_others_write_over_the_leases_lets_a_worker_leave(url: str) -> None:
    """As with a Redis that is down, which its end is ready for."""

    async def scenario() -> None:
        async with workers(url, 1) as (one,):
            bus = bus_of(one)
            await bus.command("SET", bus.names.workers, "x")
            with pytest.raises(BusDown):
                await one.claim("s", fresh=True)
            with pytest.raises(BusDown):
                await one.withdraw()

    run(scenario())
