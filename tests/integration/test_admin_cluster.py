"""The admin endpoints over two nodes: who is where, who does not answer, and moving a session with its state."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator

import msgpack
import pytest
from support.cluster import NAMESPACE, Cluster, session_of, steady_viewer
from support.fetch import Response, fetch
from support.node import Node
from support.patience import run, seconds
from support.wire import ConnectionEnded, Viewer, page_token

from aperture.bus.names import Names

APP = "/relayed"
MEANT = {"X-Aperture": "1"}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    # A worker that is stuck stays listed for as long as its lease, however slow the machine is.
    with Cluster("relayed.py", options=["--durability", "async", "--lease", "60"]) as cluster:
        yield cluster


def post(node: Node, path: str) -> Response:
    return fetch(node.admin_url + path, "POST", headers=MEANT)


async def come_back(url: str, token: str) -> Viewer:
    """As BokehJS does: until the session is to be had."""
    while True:
        try:
            async with steady_viewer(url, token) as viewer:
                return viewer
        except (ConnectionEnded, OSError):
            continue


def test_any_node_lists_all_of_them(cluster: Cluster) -> None:
    """Four workers of two nodes, and the sessions of all, with whole ids nowhere."""
    for node in cluster.nodes:
        page_token(node.app_url(APP))
    for node in cluster.nodes:
        workers = node.admin("/workers?cluster=1")
        assert sorted(row["pid"] for row in workers["workers"]) == sorted(cluster.worker_pids())
        assert len({row["node"] for row in workers["workers"]}) == 2
        assert (workers["missing_workers"], workers["bus"]) == ([], "up")
        listed = node.admin("/sessions?cluster=1")
        own = [row["id"] for one in cluster.nodes for row in one.sessions()]
        assert sorted(row["id"] for row in listed["sessions"]) == sorted(own)
        assert all(len(row["id"]) == 8 for row in listed["sessions"])
        assert listed["truncated"] is False


@pytest.mark.parametrize("asked", [0, 1], ids=["asked of its own node", "asked of the other node"])
def test_a_moved_session_goes_on_in_another_worker(cluster: Cluster, asked: int) -> None:
    """1012; the viewer comes back through the owner's own node, finds its value there, and the epoch is higher."""

    async def scenario() -> None:
        token = page_token(cluster.app_url(APP))
        before = cluster.owner(session_of(token))
        node = before.node if asked == 0 else cluster.other(before.node)
        async with steady_viewer(before.node.ws_url(APP), token) as viewer:
            assert (await viewer.set("slider", "value", 42)).msgtype == "OK"
            answer = post(node, f"/sessions/{session_of(token)[:8]}/move")
            assert answer.status == 200, answer.text
            assert await viewer.wait_closed() == 1012
        viewer = await come_back(before.node.ws_url(APP), token)
        assert viewer.value("slider", "value") == 42
        assert viewer.value("seen", "text") == "42"
        after = cluster.owner(session_of(token))
        assert after.pid != before.pid
        assert after.epoch > before.epoch

    run(scenario())


def test_a_session_is_moved_to_the_worker_that_was_named(cluster: Cluster) -> None:
    """And not to itself, nor to one that is not there."""

    async def scenario() -> None:
        token = page_token(cluster.app_url(APP))
        owner = cluster.owner(session_of(token))
        here = owner.row["worker"]
        move = f"/sessions/{session_of(token)[:8]}/move?to="
        assert post(owner.node, f"{move}{here}").status == 409
        assert post(owner.node, f"{move}7").status == 409
        assert post(owner.node, f"{move}{1 - here}").status == 200
        await come_back(owner.node.ws_url(APP), token)
        assert cluster.owner(session_of(token)).row["worker"] == 1 - here

    run(scenario())


def test_a_session_is_ended_from_another_node_with_all_its_viewers(cluster: Cluster) -> None:
    """Those of the owner's node and those that are relayed; what was kept of it is forgotten."""

    async def scenario() -> None:
        token = page_token(cluster.app_url(APP))
        owner = cluster.owner(session_of(token))
        other = cluster.other(owner.node)
        async with steady_viewer(owner.node.ws_url(APP), token) as near, steady_viewer(other.ws_url(APP), token) as far:
            assert (await near.set("slider", "value", 9)).msgtype == "OK"
            assert post(other, f"/sessions/{session_of(token)[:8]}/end").status == 200
            assert await near.wait_closed() == 1000
            assert await far.wait_closed() in (1000, 1012)
        assert cluster.owners(session_of(token)) == []
        with cluster.redis() as client:
            assert client.keys(f"*kept:*{session_of(token)}*") == []

    run(scenario())


def test_a_viewer_of_a_moving_session_loses_no_change(cluster: Cluster) -> None:
    """Every change that was answered before it was closed is there afterwards, moved again and again."""

    async def scenario() -> None:
        token = page_token(cluster.app_url(APP))
        node, answered = cluster.owner(session_of(token)).node, 0
        for _ in range(4):
            async with steady_viewer(node.ws_url(APP), token) as viewer:
                assert viewer.value("slider", "value") == answered
                for _ in range(5):
                    assert (await viewer.set("slider", "value", answered + 1)).msgtype == "OK"
                    answered += 1
                assert post(node, f"/sessions/{session_of(token)[:8]}/move").status == 200
                await viewer.wait_closed()

    run(scenario())


def test_a_stuck_node_is_missing_and_keeps_nobody_waiting(cluster: Cluster) -> None:
    """Both its workers are listed as missing, and what it may have is not said to be unknown."""
    asked, stuck = cluster.nodes
    workers = stuck.workers()
    for worker in workers:
        stuck.kill(worker["pid"], signal.SIGSTOP)
    try:
        began = time.monotonic()
        listed = asked.admin("/sessions?cluster=1")
        assert time.monotonic() - began < seconds(5)
        missing = {(row["node"], row["worker"]) for row in listed["missing_workers"]}
        assert missing == {(row["node"], row["worker"]) for row in workers}
        assert listed["missing"] == []
        assert post(asked, "/sessions/absentha/end").status == 503
    finally:
        for worker in workers:
            stuck.kill(worker["pid"], signal.SIGCONT)


def test_what_a_stranger_publishes_is_dropped(cluster: Cluster) -> None:
    """Garbage and answers without a request on every worker's channel, and names of workers that are none."""
    with cluster.redis() as client:
        channels = client.pubsub_channels(Names(NAMESPACE).orders("*"))
        assert len(channels) == 4
        for channel in channels:
            for payload in (
                b"",
                b"\xff" * 50,
                msgpack.packb([99]),
                msgpack.packb([12, 1, [["x", 1, 0, 0, 0.0, 1], [], False], True]),
            ):
                client.publish(channel, payload)
        client.zadd(Names(NAMESPACE).workers, {"no name": 2**50, "a/b/c": 2**50, "ghost/3/xyz": 2**50})
        try:
            answer = cluster.nodes[0].admin("/workers?cluster=1")
        finally:
            client.zrem(Names(NAMESPACE).workers, "no name", "a/b/c", "ghost/3/xyz")
    assert len(answer["workers"]) == 4
    assert answer["missing_workers"] == [{"node": "ghost", "worker": 3}]


def test_without_redis_a_node_still_tells_of_itself(cluster: Cluster) -> None:
    """Last of this module, as it ends the Redis: the own sessions are listed, and nothing is moved."""
    token = page_token(cluster.app_url(APP))
    owner = cluster.owner(session_of(token))
    cluster.server.kill()
    for path in ("/sessions?cluster=1", "/workers?cluster=1"):
        assert owner.node.admin(path)["bus"] == "away"
    assert session_of(token)[:8] in {row["id"] for row in owner.node.admin("/sessions?cluster=1")["sessions"]}
    answer = post(owner.node, f"/sessions/{session_of(token)[:8]}/move")
    assert answer.status in (409, 503), answer.text
    assert cluster.owner(session_of(token)).pid == owner.pid
    assert fetch(owner.node.admin_url + "/livez").status == 200
