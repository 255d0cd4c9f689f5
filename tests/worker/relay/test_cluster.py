"""Clusters over one made-up Redis: entering, calling, losing and leaving."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from bokeh.document import Document
from bokeh.models.widgets import Div, Slider
from support.clock import in_fake_time, now
from support.outboxes import PlayedOutbox
from support.relay_bus import FakeRedis
from support.relay_world import SESSION, Client, Worker, World, world_of

from aperture.errors import OwnedElsewhere, OwnerGone
from aperture.wire.envelopes import Probe
from aperture.wire.session_key import session_key_of
from aperture.worker.relay.audience import SessionAudience
from aperture.worker.relay.edge_side import CALL_TIME
from aperture.worker.relay.heartbeat import ROLL_CALL
from aperture.worker.session.early import Making

APP = "/app"


def app(document: Document) -> None:
    document.add_root(Slider(start=0, end=1000, value=1, name="slider"))
    document.add_root(Div(text="", name="shown"))


def slide(value: int) -> Any:
    return lambda document: next(r for r in document.roots if r.name == "slider").update(value=value)


async def connected(world: World, *workers: int) -> list[Client]:
    """The first one's worker becomes the owner."""
    await world.start()
    clients = [world.client(worker) for worker in workers]
    for client in clients:
        await client.connect()
    await asyncio.sleep(1)
    assert all(client.is_equal for client in clients)
    return clients


def shown(world: World) -> object:
    """The value of the owner's slider."""
    slider = world.session.document.roots[0]
    assert isinstance(slider, Slider)
    return slider.value


def audience_of(worker: Worker) -> SessionAudience:
    assert worker.session is not None
    assert isinstance(worker.session.fanout.audience, SessionAudience)
    return worker.session.fanout.audience


@in_fake_time
async def test_one_session_whoever_asks() -> None:
    """Many workers at once: the app's code runs once, and one of them owns it."""
    with world_of(app, 4) as world:
        await world.start()
        clients = [world.client(index % 4) for index in range(20)]
        await asyncio.gather(*(client.connect() for client in clients))
        await asyncio.sleep(1)
        assert world.created == 1
        assert all(client.is_equal for client in clients)
        await world.stop()


@in_fake_time
async def test_a_page_says_anywhere_that_it_has_its_scripts() -> None:
    """Long before its code would run without a word; no word makes a session."""
    with world_of(app) as world:
        await world.start()
        here, there, _ = world.workers
        await there.access.loaded(there.arrival(), "visitor")
        await here.access.loaded(here.arrival(), "visitor")
        assert (world.created, here.store.ids()) == (0, set())
        making = await here.store.begin(replace(here.arrival(), early=True))
        assert isinstance(making, Making)
        with here.departures.leaving("visitor"), there.departures.leaving("visitor"):
            await there.access.loaded(there.arrival(), "visitor")
            await asyncio.sleep(0.1)
            assert making.held, "its worker has not sent all to this visitor"
        with there.departures.leaving("visitor"):
            await asyncio.sleep(0.1)
            assert not making.held
        await asyncio.sleep(0.1)
        assert world.created == 1
        await there.access.loaded(there.arrival(), "visitor")
        await here.access.loaded(here.arrival(), "visitor")
        assert world.created == 1
        await world.stop()


@in_fake_time
async def test_a_patch_costs_one_call_however_many_look_on() -> None:
    """Viewers here, there and everywhere."""
    with world_of(app) as world:
        clients = await connected(world, 0, 0, 1, 1, 1, 2, 2)
        before = world.redis.commands["append"]
        clients[0].change(slide(5))
        await asyncio.sleep(0.1)
        assert world.redis.commands["append"] == before + 1
        assert [client.types[-1] for client in clients] == ["OK", *["PATCH-DOC"] * 6]
        assert all(client.is_equal for client in clients)
        await world.stop()


@in_fake_time
async def test_a_session_without_edges_costs_the_bus_nothing() -> None:
    """Before there was one, and after."""
    with world_of(app) as world:
        here, there = await connected(world, 0, 1)
        there.leave()
        await asyncio.sleep(1)
        here.change(slide(5))
        await asyncio.sleep(0.01)
        before = world.owner.bus.commands_sent
        for value in range(6, 20):
            here.change(slide(value))
        await asyncio.sleep(0.001)
        assert world.owner.bus.commands_sent == before
        await world.stop()


@in_fake_time
async def test_subscriptions_last_as_long_as_connections() -> None:
    """One for all of them; and a gateway of another node learns where the session is looked at."""
    with world_of(app) as world:
        _, one, other = await connected(world, 0, 1, 1)
        edge = world.workers[1]
        assert len(edge.bus.subscriptions) == 2
        assert edge.routes == [f"+{SESSION}"]
        one.leave()
        await asyncio.sleep(0.1)
        assert len(edge.bus.subscriptions) == 2
        other.leave()
        await asyncio.sleep(0.1)
        assert edge.bus.subscriptions == [edge.bus.names.inbox(edge.name)]
        assert edge.routes == [f"+{SESSION}", f"-{SESSION}"]
        assert edge.is_idle
        assert world.session.connection_count == 1
        await world.stop()


@pytest.mark.parametrize("from_browser", [True, False])
@in_fake_time
async def test_the_owner_knows_whether_a_page_comes_back(from_browser: bool) -> None:
    """A browser with a token of an earlier owner has the document; a client that is not one has never had it."""
    with world_of(app) as world:
        await connected(world, 0)
        world.session.pages.inherited = True
        caller = world.workers[1]
        came = replace(caller.arrival(), from_browser=from_browser)
        viewer = await caller.edges.enter(world.owner.name, came, Box())
        known = audience_of(world.owner).find(caller.name, viewer.connection)
        assert known is not None
        assert known.inline_pulls is from_browser
        viewer.leave()
        await world.stop()


@in_fake_time
async def test_pages_are_rendered_by_the_owner() -> None:
    """By a call."""
    with world_of(app) as world:
        await connected(world, 0)
        caller = world.workers[1]
        body = await caller.edges.render(world.owner.name, caller.arrival(), "page", {})
        assert body == f"page of {SESSION}".encode()
        with pytest.raises(OwnerGone):
            await caller.edges.render(world.owner.name, caller.arrival("another"), "page", {})
        assert caller.cluster.idle
        await world.stop()


@in_fake_time
async def test_owners_that_do_not_answer() -> None:
    """No call waits longer than its time, and not at all if no worker listens."""
    with world_of(app) as world:
        await connected(world, 0)
        owner, caller = world.owner, world.workers[1]
        started = now()
        with pytest.raises(OwnerGone):
            await caller.edges.enter("node/9/gone", caller.arrival(), Box())
        with pytest.raises(OwnerGone):
            await caller.edges.render("node/9/gone", caller.arrival(), "page", {})
        assert now() - started < 1
        owner.bus._delivers[owner.bus.names.inbox(owner.name)] = lambda payload: None
        for attempt in (
            caller.edges.enter(owner.name, caller.arrival(), Box()),
            caller.edges.render(owner.name, caller.arrival(), "page", {}),
        ):
            started = now()
            with pytest.raises(OwnerGone):
                await attempt
            assert now() - started < CALL_TIME + 0.1
        await asyncio.sleep(0.1)
        assert caller.is_idle
        await world.stop()


class Box(PlayedOutbox):
    """An outbox that is not read."""

    closed: tuple[int, str] | None = None

    def send(self, run: Any) -> None:
        raise AssertionError("nothing was asked for")

    def close(self, code: int, reason: str) -> None:
        self.closed = (code, reason)


@in_fake_time
async def test_a_bus_that_breaks_during_the_entry_leaves_nothing() -> None:
    """The subscription was not made."""
    with world_of(app, redis=FakeRedis(delay=lambda: 0.5)) as world:
        await world.start()
        await asyncio.sleep(5)
        await world.client(0).connect()
        await asyncio.sleep(1)
        guest = world.workers[1]
        entry = asyncio.ensure_future(guest.edges.enter(world.owner.name, guest.arrival(), Box()))
        while len(guest.bus.subscriptions) < 2:
            await asyncio.sleep(0.1)
        guest.bus.cut()
        with pytest.raises(OwnerGone):
            await entry
        assert guest.is_idle
        await world.stop()


@in_fake_time
async def test_a_session_that_is_not_there_refuses_without_closing() -> None:
    """Another attempt may find it: its app's code may still be running."""
    with world_of(app) as world:
        await connected(world, 0)
        box, caller = Box(), world.workers[1]
        with pytest.raises(OwnerGone):
            await caller.edges.enter(world.owner.name, caller.arrival("another"), box)
        assert box.closed is None
        await world.stop()


@in_fake_time
async def test_a_cancelled_entry_leaves_nothing() -> None:
    """The connection went away while the owner was being asked."""
    with world_of(app, redis=FakeRedis(delay=lambda: 0.5)) as world:
        await world.start()
        await asyncio.sleep(5)
        owner = world.client(0)
        await owner.connect()
        await asyncio.sleep(1)
        guest = world.workers[1]
        entry = asyncio.ensure_future(guest.edges.enter(world.owner.name, guest.arrival(), Box()))
        while not guest.edges._edges:
            await asyncio.sleep(0.1)
        entry.cancel()
        await asyncio.sleep(10)
        assert entry.cancelled()
        assert world.workers[1].is_idle
        assert world.session.connection_count == 1
        await world.stop()


@in_fake_time
async def test_a_fenced_owner_drops_the_session() -> None:
    """Its viewers are sent away with 1012, and nothing of it reaches the new owner's."""
    with world_of(app, 3) as world:
        here, there = await connected(world, 0, 1)
        old = world.owner
        world.redis.workers.pop(old.name)
        epoch = await world.workers[2].claims.claim(APP, SESSION, fresh=False)
        assert old.session is not None
        assert epoch > old.session.fanout.epoch
        published = world.redis.commands["publish"]
        seen = list(there.sequences)
        here.change(slide(9))
        await asyncio.sleep(0.01)
        assert old.session is None
        assert here.closes == [(1012, "the session has moved")]
        assert there.sequences == seen
        assert world.redis.commands["publish"] == published
        await world.stop()


@in_fake_time
async def test_a_worker_that_was_stopped_asks_before_it_acts() -> None:
    """Its first heartbeat is under way when the first change comes; by its answer the session is lost."""
    with world_of(app, 3, FakeRedis(delay=lambda: 0.01)) as world:
        here, _ = await connected(world, 0, 1)
        old = world.owner
        world.redis.workers.pop(old.name)
        await world.workers[2].claims.claim(APP, SESSION, fresh=False)
        old.registry._attempted_at = now() - 100
        assert old.registry.frozen
        types = list(here.types)
        beating = asyncio.ensure_future(old.cluster.heartbeat.run())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not old.registry.frozen
        assert not old.store.steady()
        here.change(slide(9))
        await asyncio.sleep(0.2)
        beating.cancel()
        assert here.types == types
        assert here.closes == [(1012, "the session has moved")]
        assert old.session is None
        await world.stop()


@in_fake_time
async def test_an_edge_that_died_is_forgotten() -> None:
    """With its lease, and all its connections."""
    with world_of(app) as world:
        await connected(world, 0, 1, 2)
        dead = world.workers[1]
        dead.cluster.heartbeat.stop()
        dead.bus._delivers.clear()
        await asyncio.sleep(15)
        assert audience_of(world.owner).edges() == {world.workers[2].name}
        assert world.session.connection_count == 2
        await world.stop()


@in_fake_time
async def test_an_owner_that_died_is_noticed() -> None:
    """Its edges send their browsers away, and one of them brings the session back."""
    with world_of(app) as world:
        _, there = await connected(world, 0, 1)
        dead = world.owner
        dead.cluster.heartbeat.stop()
        dead.bus.cut()
        dead.host.sessions_by_id.clear()
        await asyncio.sleep(25)
        assert there.closes[0][0] == 1012
        assert world.owner is world.workers[1]
        assert there.is_equal
        await world.stop()


@in_fake_time
async def test_a_redis_that_comes_back_empty_closes_nobody() -> None:
    """It knows of no lease until the next heartbeats; no worker is taken for dead for that."""
    with world_of(app) as world:
        clients = await connected(world, 0, 1, 2)
        for worker in world.workers:
            worker.bus.cut()
        world.redis.empty()
        clients[0].change(slide(7))
        clients[1].change(slide(8))
        for worker in world.workers:
            await asyncio.sleep(2)
            worker.bus.mend()
        await asyncio.sleep(20)
        assert [client.closes for client in clients] == [[], [], []]
        assert all(client.is_equal for client in clients)
        assert world.created == 1
        await world.stop()


@in_fake_time
async def test_lost_messages_of_clients_are_found_missing() -> None:
    """The first of several, and one with nothing behind it."""
    with world_of(app) as world:
        _, there = await connected(world, 0, 1)
        inbox = world.owner.bus.names.inbox(world.owner.name)
        lost = 1

        def copies(bus: Any, channel: str, payload: bytes) -> int:
            nonlocal lost
            if channel == inbox and lost:
                lost -= 1
                return 0
            return 1

        world.redis.copies = copies
        there.change(slide(5))
        there.change(slide(6))
        await asyncio.sleep(0.5)
        assert shown(world) == 6
        lost = 1
        there.change(slide(7))
        await asyncio.sleep(10)
        assert shown(world) == 7
        assert all(world.handled[msgid] == 1 for msgid in there.sent)
        assert there.closes == []
        await world.stop()


@in_fake_time
async def test_an_end_that_got_lost_is_found_by_the_roll_call() -> None:
    """Even if no side ever learns that a message was lost."""
    with world_of(app) as world:
        _, there = await connected(world, 0, 1)
        world.redis.copies = lambda bus, channel, payload: 0
        there.leave()
        await asyncio.sleep(0.1)
        world.redis.copies = lambda bus, channel, payload: 1
        assert world.session.connection_count == 2
        await asyncio.sleep(2 * ROLL_CALL + 2)
        assert world.session.connection_count == 1
        await world.stop()


@in_fake_time
async def test_strangers_in_the_inbox_are_counted() -> None:
    """Junk, and envelopes that belong elsewhere; those who follow are served."""
    with world_of(app) as world:
        await connected(world, 0)
        owner = world.owner
        for payload in (b"", b"\xc1", b"\x93\x01\x02\x03", Probe(1, 1).pack()):
            world.redis.publish(owner.bus.names.inbox(owner.name), payload)
        await asyncio.sleep(0.1)
        assert owner.cluster.hostile.counts == {"an inbox": 4}
        late = world.client(1)
        await late.connect()
        await asyncio.sleep(1)
        assert late.is_equal
        await world.stop()


@in_fake_time
async def test_leaving_the_cluster_gives_everything_up() -> None:
    """Another worker can claim at once."""
    with world_of(app) as world:
        await connected(world, 0, 1)
        owner = world.owner
        with pytest.raises(OwnedElsewhere):
            await world.workers[2].claims.claim(APP, SESSION, fresh=False)
        await owner.cluster.stop()
        assert await world.workers[2].claims.claim(APP, SESSION, fresh=False)
        await world.stop()


@in_fake_time
async def test_a_discarded_session_sends_its_edges_away() -> None:
    """They come back to a new one."""
    with world_of(app) as world:
        _, there = await connected(world, 0, 1)
        owner = world.owner
        await owner.host.retire(world.session)
        owner.claims.release(APP, SESSION, last=True)
        await asyncio.sleep(3)
        assert there.closes == [(1012, "the session is gone")]
        assert there.is_equal
        assert world.created == 2
        await world.stop()


@in_fake_time
async def test_a_claim_that_was_lost_and_made_anew_is_kept() -> None:
    """The heartbeat asked about the old one."""
    with world_of(app) as world:
        await world.start()
        worker = world.workers[0]
        session = await worker.store.get_or_create(worker.arrival())
        session.fanout.epoch += 1
        world.redis.sessions[worker.bus.names.session(session_key_of(APP, SESSION))] = (
            "another/0/life",
            session.fanout.epoch,
        )
        await worker.store.renew()
        assert worker.session is session
        await world.stop()
