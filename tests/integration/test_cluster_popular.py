"""One session with viewers everywhere: each gets each patch once and in order, edges not there cost nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from support.cluster import Cluster, patches_of, places_of, session_of, steady_viewer
from support.node import Node
from support.patience import run, wait_until
from support.wire import Viewer, page_token

PATCHES = 10_000
UNANSWERED = 100
"""Patches that the sender has under way at a time."""
APP = "/relayed"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Four workers on four nodes: each has a port of its own, so that a test can say where a viewer goes.

    Nothing is kept of sessions beyond their worker's life: what that costs Redis is another matter.
    """
    with Cluster("relayed.py", nodes=4, workers=1, options=["--durability", "none"]) as cluster:
        yield cluster


@asynccontextmanager
async def viewer_on_each(cluster: Cluster, token: str) -> AsyncIterator[list[Viewer]]:
    """One viewer of the session on every node."""
    async with AsyncExitStack() as stack:
        urls = [node.ws_url(APP) for node in cluster.nodes]
        yield [await stack.enter_async_context(steady_viewer(url, token)) for url in urls]


async def move_often(viewer: Viewer, first: int, last: int) -> None:
    """Move the slider to each of these values, with many moves under way; return when all are answered."""
    slider = viewer.model("slider").id
    viewer.document = None  # nothing is applied here, which would cost more than all the rest
    answered = 0
    for value in range(first, last + 1):
        await viewer.send_patch([{"kind": "ModelChanged", "model": {"id": slider}, "attr": "value", "new": value}])
        while value - first + 1 - answered >= UNANSWERED:
            answered += (await viewer.next_message()).msgtype == "OK"
    while answered < last - first + 1:
        answered += (await viewer.next_message()).msgtype == "OK"


async def read_until(viewer: Viewer, sequence: int) -> None:
    """Read on until the patch of this number has come."""
    viewer.document = None
    while (await viewer.next_message()).metadata.get("seq", 0) < sequence:
        pass


def texts_of(viewer: Viewer, seen: str) -> list[str]:
    """What each patch has set the text to."""
    return [
        event["new"]
        for patch in patches_of(viewer)
        for event in patch.events
        if event["kind"] == "ModelChanged" and event["model"]["id"] == seen
    ]


def test_ten_thousand_patches_reach_viewers_on_all_workers_once_and_in_order(cluster: Cluster) -> None:
    """Sent from one edge: owner, sender and the other edges receive every patch, with every value, in one order."""

    async def scenario() -> None:
        token = page_token(cluster.app_url(APP))
        session_id = session_of(token)
        async with viewer_on_each(cluster, token) as viewers:
            owner = cluster.owner(session_id)
            assert owner.row["edges"] == 3
            place = cluster.nodes.index(owner.node)
            sender = viewers[(place + 1) % 4]
            seen = sender.model("seen").id
            others = [viewer for viewer in viewers if viewer is not sender]
            reading = [asyncio.create_task(read_until(viewer, PATCHES)) for viewer in others]
            await move_often(sender, 1, PATCHES)
            await asyncio.gather(*reading)
            for viewer in viewers:
                assert places_of(viewer) == [(owner.epoch, number) for number in range(1, PATCHES + 1)]
                assert texts_of(viewer, seen) == [str(number) for number in range(1, PATCHES + 1)]

    run(scenario(), 240)


def test_a_session_without_edges_costs_redis_nothing_per_patch(cluster: Cluster) -> None:
    """1,000 patches between two viewers on the owner's worker: Redis sees heartbeats, and nothing else."""

    async def scenario() -> tuple[int, dict[str, int]]:
        token = page_token(cluster.app_url(APP))
        owner = cluster.owner(session_of(token))
        url = owner.node.ws_url(APP)
        async with steady_viewer(url, token) as mover, steady_viewer(url, token) as watcher:
            assert cluster.owner(session_of(token)).row["edges"] == 0
            before = cluster.commands()
            reading = asyncio.create_task(read_until(watcher, 1000))
            await move_often(mover, 1, 1000)
            await reading
            after = cluster.commands()
            assert len(patches_of(watcher)) == 1000
        return 1000, {name: calls - before.get(name, 0) for name, calls in after.items()}

    patches, calls = run(scenario())
    assert calls.get("xadd", 0) == 0
    assert calls.get("publish", 0) == 0
    print(f"{patches} patches: {calls}")
    assert calls.get("evalsha", 0) < patches / 10, "more than heartbeats"


def test_viewers_who_pull_at_once_all_get_in() -> None:
    """On another node than the owner's, though their documents are more than may wait for Redis."""
    count, points = 15, 50_000  # 800 KB each, of which 8 MB may wait

    async def scenario(cluster: Cluster) -> None:
        token = page_token(cluster.app_url(f"/arrays?points={points}"))
        url = cluster.other(cluster.owner(session_of(token)).node).ws_url("/arrays")
        async with AsyncExitStack() as stack:
            viewers = [await stack.enter_async_context(Viewer.open(url, token)) for _ in range(count)]
            await asyncio.gather(*(viewer.pull() for viewer in viewers))
            assert (await viewers[0].set("slider", "value", 3)).msgtype == "OK"
            for viewer in viewers[1:]:
                await viewer.wait_for_value("slider", "value", 3)

    with Cluster("arrays.py", workers=1, options=["--durability", "none"]) as cluster:
        run(scenario(cluster))
        assert "the bus takes nothing" not in cluster.log()


def connections(node: Node) -> list[int]:
    """Of each worker, by its own account."""
    return sorted(row["connections"] for row in node.workers())


def test_further_viewers_of_a_crowded_session_go_to_the_other_workers_of_the_node() -> None:
    """Each to the one with the fewest; all see the same; and a gateway that takes another's place goes on with it."""
    limit = 3
    options = ["--spread-viewers", str(limit), "--durability", "none"]

    async def scenario(cluster: Cluster) -> None:
        [node] = cluster.nodes
        token = page_token(node.app_url(APP))
        async with AsyncExitStack() as stack:
            viewers: list[Viewer] = []

            async def grow(count: int) -> None:
                url = node.ws_url(APP)
                viewers.extend([await stack.enter_async_context(steady_viewer(url, token)) for _ in range(count)])

            async def are_spread(*counts: int) -> None:
                await asyncio.to_thread(wait_until, lambda: connections(node) == list(counts))

            await grow(limit)
            assert cluster.owner(session_of(token)).row["edges"] == 0
            await grow(2 * limit)
            assert cluster.owner(session_of(token)).row["edges"] == 2
            await are_spread(limit, limit, limit)
            killed = node.gateway_pid()
            node.kill(killed)
            await grow(2)
            assert node.gateway_pid() != killed
            await are_spread(limit, limit + 1, limit + 1)
            assert (await viewers[-1].set("slider", "value", 7)).msgtype == "OK"
            for viewer in viewers:
                await viewer.wait_for_value("seen", "text", "7")

    with Cluster("relayed.py", nodes=1, workers=3, options=options) as cluster:
        run(scenario(cluster))
