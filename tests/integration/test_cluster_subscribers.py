"""Messages that Redis never delivered, and messages that should not have been sent: noticed, repaired, or dropped."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import groupby

import msgpack
import pytest
import redis
from support.cluster import NAMESPACE, Cluster, Follower, patches_of, places_of, session_of, steady_viewer
from support.fetch import fetch
from support.patience import run, seconds, wait_until
from support.proxy_deaf import DeafWire
from support.redis import RedisServer, eventually
from support.wire import Viewer, page_token

from aperture.bus.names import Names
from aperture.wire.envelopes import Probe
from aperture.wire.session_key import session_key_of

APP = "/relayed"
SERVICE_RESTART = 1012


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """Two nodes of one worker; Redis cuts a subscriber off that is 64 KB behind for a second.

    The lease is so long that a slow machine does not take a worker for dead that was frozen until then.
    """
    limit = {"client-output-buffer-limit": "pubsub 64kb 64kb 1"}
    options = ["--lease", str(seconds(60))]
    with RedisServer(limit) as server, Cluster("relayed.py", workers=1, options=options, server=server) as cluster:
        yield cluster


def subscribers(cluster: Cluster) -> int:
    """How many connections of Redis subscribe to something."""
    with cluster.redis() as client:
        return len(client.client_list(_type="pubsub"))


async def freeze_until_cut_off(
    cluster: Cluster, pid: int, mover: Viewer, sizes: list[int], paused: range = range(0)
) -> None:
    """Stop the edge's worker while texts of these sizes are published, until Redis has cut it off.

    Redis itself is stopped during those with a number in `paused`.
    """
    before = subscribers(cluster)
    node = next(node for node in cluster.nodes if pid in node.worker_pids())
    node.kill(pid, signal.SIGSTOP)
    try:
        for number, size in enumerate(sizes, 1):
            if number == paused.start:
                cluster.server.pause()
            elif number == paused.stop:
                cluster.server.resume()
            assert (await mover.set("seen", "text", f"{number} " + "x" * size)).msgtype == "OK"
        await asyncio.to_thread(wait_until, lambda: subscribers(cluster) < before, 20, "Redis has cut off none")
    finally:
        cluster.server.resume()
        node.kill(pid, signal.SIGCONT)


def texts_of(viewer: Viewer) -> list[str]:
    """The text's first word in each patch that has one."""
    events = (event for patch in patches_of(viewer) for event in patch.events)
    return [event["new"].partition(" ")[0] for event in events if event.get("attr") == "text"]


@pytest.mark.parametrize("paused", [range(0), range(250, 290)], ids=["one by one", "some together"])
def test_a_subscriber_that_was_cut_off_misses_nothing(cluster: Cluster, paused: range) -> None:
    """What it missed is in the stream: its viewer stays open and receives each patch once and in order.

    Also where Redis was slow for a moment, so that many patches came to it in one call.
    """
    count = 300

    async def scenario() -> None:
        token = page_token(cluster.app_url(APP))
        owner = cluster.owner(session_of(token))
        other = cluster.other(owner.node)
        (edge,) = other.worker_pids()
        async with (
            steady_viewer(owner.node.ws_url(APP), token) as mover,
            steady_viewer(other.ws_url(APP), token) as watcher,
        ):
            assert (await mover.set("slider", "value", 1)).msgtype == "OK"
            await watcher.wait_for_value("seen", "text", "1")
            await freeze_until_cut_off(cluster, edge, mover, [10_000] * count, paused)
            assert (await mover.set("seen", "text", "last")).msgtype == "OK"
            await watcher.wait_for_value("seen", "text", "last")
            places = places_of(watcher)
            assert places == [(owner.epoch, number) for number in range(1, len(places) + 1)]
            # The callback's text and the mover's are contested: where the moves pause, one is sent once more.
            texts = [text for text, _ in groupby(texts_of(watcher))]
            assert texts == [*map(str, range(1, count + 1)), "last"]
            # And the way back works, too.
            assert (await watcher.set("slider", "value", 9)).msgtype == "OK"
            await mover.wait_for_value("seen", "text", "9")

    run(scenario())


def test_a_subscriber_that_missed_more_than_is_kept_starts_again(cluster: Cluster) -> None:
    """More than the stream holds: its viewer is closed with 1012, comes back, and has the right document."""

    async def scenario() -> None:
        token = page_token(cluster.app_url(APP))
        owner = cluster.owner(session_of(token))
        other = cluster.other(owner.node)
        (edge,) = other.worker_pids()
        follower = Follower(other.ws_url(APP), token)
        following = asyncio.create_task(follower.follow(lambda viewer: viewer.value("seen", "text") == "last"))
        async with steady_viewer(owner.node.ws_url(APP), token) as mover:
            await follower.connected.wait()  # an edge whose viewer has not pulled yet is sent no patches
            await freeze_until_cut_off(cluster, edge, mover, [900_000] * 45)
            assert (await mover.set("seen", "text", "last")).msgtype == "OK"
            await following
        assert follower.closes == [SERVICE_RESTART]

    run(scenario())


@pytest.mark.parametrize("deaf", ["owner", "edge"])
def test_a_subscription_that_is_open_but_dead_is_noticed_and_repaired(deaf: str) -> None:
    """Under moves from both sides: all are answered, and in the end every viewer has every patch once and in order."""

    async def move(viewer: Viewer, name: str, attr: str, stop: asyncio.Event) -> int:
        count = 0
        while not stop.is_set():
            count += 1
            assert (await viewer.set(name, attr, count)).msgtype == "OK"
            await asyncio.sleep(0.01)
        return count

    async def scenario(cluster: Cluster, wires: list[DeafWire]) -> None:
        token = page_token(cluster.app_url(APP))
        owner = cluster.owner(session_of(token))
        other = cluster.other(owner.node)
        chosen = {"owner": owner.node, "edge": other}[deaf]
        stop = asyncio.Event()
        async with (
            steady_viewer(owner.node.ws_url(APP), token) as here,
            steady_viewer(other.ws_url(APP), token) as there,
        ):
            moving = [
                asyncio.create_task(move(here, "slider", "value", stop)),
                asyncio.create_task(move(there, "plot", "width", stop)),
            ]
            await asyncio.sleep(0.3)
            assert wires[cluster.nodes.index(chosen)].deafen_subscribers() > 0
            await asyncio.to_thread(chosen.wait_for_log, r"the connection to Redis at \S+ is lost \(messages\)")
            await asyncio.sleep(0.3)
            stop.set()
            last, width = await asyncio.gather(*moving)
            assert (await here.set("slider", "value", last + 1)).msgtype == "OK"
            await there.wait_for_value("seen", "text", str(last + 1))
            await here.wait_for_value("plot", "width", width)
            received = [set(places_of(viewer)) for viewer in (here, there)]
            for viewer in (here, there):
                numbers = [number for _, number in places_of(viewer)]
                assert numbers == sorted(set(numbers)), "doubled, or out of order"
            # A change without a callback does not come back to its maker.
            everything = {(owner.epoch, number) for number in range(1, last + width + 2)}
            assert received[0] == everything
            assert len(received[1]) == last + 1
            assert received[1] <= everything

    with RedisServer() as server, ExitStack() as stack:
        wires = [stack.enter_context(DeafWire(server.socket_path)) for _ in range(2)]
        urls = [wire.url for wire in wires]
        with Cluster("relayed.py", workers=1, server=server, redis_urls=urls) as cluster:
            run(scenario(cluster, wires))


def hostile_payloads() -> list[bytes]:
    """Random bytes, msgpack that is no envelope, envelopes of wrong types, depths that kill parsers, huge sizes."""
    wrong: list[object] = [
        None,
        5,
        "text",
        [],
        {},
        [0],
        [99, 1],
        [-1],
        [0, "epoch", 1, []],
        [0, 1, 2, [["frames", {}]]],
    ]
    wrong += [[2, 1, "code", 3], [5, "s", "e", "c", -1, []], [7] + [None] * 7, [True, 1, 1], [3, {}, {}, {}, {}, {}]]
    wrong += [[1, 2**64 - 1, 2**64 - 1], [8, "s", "c", 1.5, 2]]
    packed = [msgpack.packb(value) for value in wrong]
    noise = [os.urandom(size) for size in (0, 1, 2, 10, 1000, 100_000)]
    return [*noise, *packed, b"\x91" * 100_000, b"\xdd\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"x" * 70_000_000]


def test_hostile_messages_on_the_bus_are_dropped(cluster: Cluster) -> None:
    """On the session's channel and both inboxes: each kind is logged once per worker, and the session goes on."""

    def flood() -> int:
        names = Names(NAMESPACE)
        published = 0
        with cluster.redis() as client:
            # Redis cuts off a subscriber that does not take the largest one in a second, which is not tested here.
            client.config_set("client-output-buffer-limit", "pubsub 0 0 0")
            channels = client.pubsub_channels(names.channel("*")) + client.pubsub_channels(names.inbox("*"))
            assert names.channel(session_key_of(APP, session)).encode() in channels
            assert len(channels) == 3
            for channel in channels:
                for payload in hostile_payloads():
                    published += client.publish(channel, payload)
        return published

    async def scenario() -> None:
        owner = cluster.owner(session)
        other = cluster.other(owner.node)
        pids = cluster.worker_pids()
        async with (
            steady_viewer(owner.node.ws_url(APP), token) as here,
            steady_viewer(other.ws_url(APP), token) as there,
        ):
            await asyncio.to_thread(flood)
            assert (await here.set("slider", "value", 3)).msgtype == "OK"
            await there.wait_for_value("seen", "text", "3")
            assert (await there.set("slider", "value", 4)).msgtype == "OK"
            await here.wait_for_value("seen", "text", "4")
            for viewer in (here, there):
                assert [number for _, number in places_of(viewer)] == [1, 2]
                assert len(patches_of(viewer)) == 2
        assert cluster.worker_pids() == pids

    token = page_token(cluster.app_url(APP))
    session = session_of(token)
    run(scenario())
    assert cluster.log().count("dropped a message that is none of ours (an inbox") == 2
    assert cluster.log().count("dropped a message that is none of ours (a session's channel") == 1
    assert "Traceback" not in cluster.log()


def fill_stream(client: redis.Redis, key: str) -> None:
    """With payloads that are none, under numbers that are due next."""
    for number, payload in enumerate(hostile_payloads(), 2):
        client.xadd(key, {"first": number, "last": number, "payload": payload}, id=f"{number}-0")


STREAMS: dict[str, Callable[[redis.Redis, str], object]] = {
    "payloads": fill_stream,
    "fields": lambda client, key: client.xadd(key, {"foo": "bar"}, id="1000-0"),
    "numbers": lambda client, key: client.xadd(key, {"first": "x", "last": "", "payload": "y"}, id="1000-0"),
    "no stream": lambda client, key: client.set(key, "text"),
}


@pytest.mark.parametrize("garbage", STREAMS)
def test_garbage_in_a_stream_freezes_nobody(cluster: Cluster, garbage: str) -> None:
    """A viewer that needs a patch from there pulls afresh, once, and goes on; it is counted and logged once."""

    def litter(epoch: int) -> None:
        names, place = Names(NAMESPACE), session_key_of(APP, session)
        with cluster.redis() as client:
            STREAMS[garbage](client, names.stream(place))
            client.publish(names.channel(place), Probe(epoch, 7).pack())  # as if patches had been missed

    async def scenario() -> None:
        owner = cluster.owner(session)
        other = cluster.other(owner.node)
        follower = Follower(other.ws_url(APP), token)
        following = asyncio.create_task(follower.follow(lambda viewer: bool(viewer.value("seen", "text") == "last")))
        async with steady_viewer(owner.node.ws_url(APP), token) as mover:
            await follower.connected.wait()  # an edge whose viewer has not pulled yet misses none
            assert (await mover.set("slider", "value", 1)).msgtype == "OK"
            await asyncio.to_thread(litter, owner.epoch)
            await eventually(lambda: follower.closes == [SERVICE_RESTART])
            assert (await mover.set("seen", "text", "last")).msgtype == "OK"
            await following
        assert follower.closes == [SERVICE_RESTART]
        metrics = f"{other.admin_url}/metrics"
        await asyncio.to_thread(wait_until, lambda: foreign_messages(metrics) > 0, 20, "nothing was counted")

    def foreign_messages(url: str) -> float:
        lines = fetch(url).text.splitlines()
        name = "aperture_relay_foreign_messages_total"
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))

    token = page_token(cluster.app_url(APP))
    session = session_of(token)
    run(scenario())
    assert cluster.log().count("dropped a message that is none of ours (a session's stream") == 1
    assert "Traceback" not in cluster.log()
