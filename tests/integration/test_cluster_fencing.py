"""Owners that freeze or die while their sessions have viewers elsewhere: one owner at a time, whatever happens."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator

import pytest
from support.cluster import Cluster, Follower, Owner, places_of, session_of, steady_viewer
from support.patience import run, wait_until
from support.wire import ConnectionEnded, Viewer, page_token

APP = "/relayed"
SERVICE_RESTART = 1012
LEASE = 2


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """Two nodes of one worker, so that the other node's worker is the only one that can take over."""
    with Cluster("relayed.py", workers=1, options=["--lease", str(LEASE)]) as cluster:
        yield cluster


async def come_back(follower: Follower) -> None:
    """Stay connected until closed, and then until connected again."""
    closed = len(follower.closes)
    await follower.follow(lambda viewer: len(follower.closes) > closed)


async def read_rest(viewer: Viewer) -> int | None:
    """Read until the server closes; returns its close code."""
    try:
        while True:
            await viewer.next_message()
    except ConnectionEnded as ended:
        return ended.code


def test_an_owner_that_wakes_up_after_its_lease_reaches_nobody(cluster: Cluster) -> None:
    """Frozen with moves waiting in its sockets, woken when another has its session: it acts on none and closes all."""

    async def scenario() -> None:
        token = page_token(cluster.app_url(APP))
        session_id = session_of(token)
        frozen = cluster.owner(session_id)
        other = cluster.other(frozen.node)
        async with steady_viewer(frozen.node.ws_url(APP), token) as local:
            edge = Follower(other.ws_url(APP), token)
            assert (await local.set("slider", "value", 1)).msgtype == "OK"
            await edge.follow(lambda viewer: viewer.value("seen", "text") == "1")
            watching = asyncio.create_task(come_back(edge))
            await edge.connected.wait()  # for the owner may still count the connection before this one
            known = len(local.received)
            frozen.node.kill(frozen.pid, signal.SIGSTOP)
            try:
                slider = local.model("slider").id
                for value in range(2, 30):
                    event = {"kind": "ModelChanged", "model": {"id": slider}, "attr": "value", "new": value}
                    await local.send_patch([event])
                await watching
                async with steady_viewer(other.ws_url(APP), token) as present:
                    assert present.value("seen", "text") in ("0", "1"), (
                        "only what was moved before is kept, if anything"
                    )
                    frozen.node.kill(frozen.pid, signal.SIGCONT)
                    assert await read_rest(local) == SERVICE_RESTART
                    assert local.received[known:] == []
                    owner = await asyncio.to_thread(the_only_owner, cluster, session_id)
                    assert owner.node is other
                    assert owner.epoch > frozen.epoch
                    assert (await present.set("slider", "value", 77)).msgtype == "OK"
                    assert places_of(present) == [(owner.epoch, 1)]
                    assert present.value("seen", "text") == "77"
            finally:
                frozen.node.kill(frozen.pid, signal.SIGCONT)
        assert set(edge.closes) == {SERVICE_RESTART}
        assert frozen.pid in frozen.node.worker_pids(), "the frozen worker goes on with its other sessions"

    run(scenario())


def the_only_owner(cluster: Cluster, session_id: str) -> Owner:
    wait_until(lambda: len(cluster.owners(session_id)) == 1, why="two workers have the session")
    return cluster.owner(session_id)


def test_viewers_elsewhere_of_a_killed_worker_get_their_session_back(cluster: Cluster) -> None:
    """They are closed with 1012; edge and former neighbour come back to one session with a higher epoch."""

    async def scenario() -> None:
        token = page_token(cluster.app_url(APP))
        session_id = session_of(token)
        killed = cluster.owner(session_id)
        other = cluster.other(killed.node)
        neighbour = Follower(cluster.ws_url(APP), token)
        edge = Follower(other.ws_url(APP), token)
        followers = (neighbour, edge)
        async with steady_viewer(killed.node.ws_url(APP), token) as mover:
            assert (await mover.set("slider", "value", 1)).msgtype == "OK"
            back = [asyncio.create_task(come_back(each)) for each in followers]
            await asyncio.to_thread(wait_until, lambda: cluster.owner(session_id).row["connections"] == 3)
            killed.node.kill(killed.pid)
            await asyncio.gather(*back)
        assert set(edge.closes) <= {SERVICE_RESTART}
        owner = await asyncio.to_thread(the_only_owner, cluster, session_id)
        assert owner.epoch > killed.epoch
        async with steady_viewer(cluster.ws_url(APP), token) as one, steady_viewer(cluster.ws_url(APP), token) as two:
            assert (await one.set("slider", "value", 5)).msgtype == "OK"
            await two.wait_for_value("seen", "text", "5")
        wait_until(lambda: len(cluster.worker_pids()) == 2, why="no new worker")

    run(scenario())
