"""Redis killed and started empty, and Redis paused, under load: no process exits, and all viewers end up right."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import pytest
from support.cluster import NAMESPACE, Cluster, Follower, Owner, session_of, steady_viewer
from support.fetch import fetch
from support.patience import run, wait_until
from support.redis import eventually
from support.wire import Viewer, page_token

from aperture.bus.names import Names
from aperture.wire.session_key import session_key_of

SESSIONS = 100
APP = "/relayed"
PACE = 0.2
"""Seconds between two moves in one session."""
FINAL = 999_999
PAUSE = 10.0
"""Seconds; longer than the lease of 6 s."""
MAY_GROW = 64 * 1024 * 1024
"""Bytes per worker, between before and after."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster("relayed.py") as cluster:
        yield cluster


@dataclass(slots=True)
class Busy:
    """A session that is moved all the time on its owner's worker, and followed from the other node."""

    cluster: Cluster
    token: str
    owner: Owner
    mover: Viewer
    follower: Follower
    moves: int = 0
    stopped: bool = False

    @property
    def elsewhere(self) -> str:
        """The websocket URL of the node that does not have it."""
        return self.cluster.other(self.owner.node).ws_url(APP)

    async def move(self) -> None:
        """Move until stopped. Each move is answered, and its result comes before the answer, whatever Redis does."""
        while not self.stopped:
            self.moves += 1
            await self._set(self.moves)
            await asyncio.sleep(PACE)
        await self._set(FINAL)

    async def _set(self, value: int) -> None:
        assert (await self.mover.set("slider", "value", value)).msgtype == "OK"
        assert self.mover.value("seen", "text") == str(value)

    async def follow(self) -> None:
        """Until the last move has come."""
        await self.follower.follow(lambda viewer: bool(viewer.value("seen", "text") == str(FINAL)))


async def busy_session(cluster: Cluster, stack: AsyncExitStack) -> Busy:
    """A new session on whichever worker."""
    token = await asyncio.to_thread(page_token, cluster.app_url(APP))
    owner = await asyncio.to_thread(cluster.owner, session_of(token))
    mover = await stack.enter_async_context(steady_viewer(owner.node.ws_url(APP), token))
    return Busy(cluster, token, owner, mover, Follower(cluster.other(owner.node).ws_url(APP), token))


@asynccontextmanager
async def load(cluster: Cluster) -> AsyncIterator[list[Busy]]:
    """Sessions under way; at the end of the block they make their last moves, and everybody must have seen them."""
    async with AsyncExitStack() as stack:
        sessions = [await busy_session(cluster, stack) for _ in range(SESSIONS)]
        async with asyncio.TaskGroup() as tasks:
            for session in sessions:
                tasks.create_task(session.move())
                tasks.create_task(session.follow())
            await asyncio.to_thread(wait_until, lambda: edges_of(cluster) == SESSIONS, 30, "a follower is missing")
            yield sessions
            for session in sessions:
                session.stopped = True


def edges_of(cluster: Cluster) -> int:
    """How many edges the sessions of the cluster have."""
    return sum(row["edges"] for node in cluster.nodes for row in node.sessions())


async def moves_go_on(sessions: list[Busy], rounds: int = 5) -> None:
    """Wait until every session has been moved so many times more."""
    goals = [session.moves + rounds for session in sessions]
    await eventually(
        lambda: all(session.moves >= goal for session, goal in zip(sessions, goals, strict=True)),
        30,
        "moves stand still",
    )


def memory(cluster: Cluster) -> dict[int, int]:
    """Bytes of each worker."""
    return {row["pid"]: row["rss_bytes"] for node in cluster.nodes for row in node.workers()}


def claimed_owners(cluster: Cluster, sessions: list[Busy]) -> list[tuple[bool, int]]:
    """Of each session, whether Redis knows an owner, and at which epoch."""
    names = Names(NAMESPACE)
    with cluster.redis() as client:
        rows = [
            client.hmget(names.session(session_key_of(APP, session_of(s.token))), "owner", "epoch") for s in sessions
        ]
    return [(bool(owner), int(epoch or 0)) for owner, epoch in rows]


def assert_nothing_was_lost(cluster: Cluster, sessions: list[Busy], before: dict[int, int]) -> None:
    """The same workers, as large as before, have the same sessions, at the same epochs, in Redis as in fact."""
    after = memory(cluster)
    assert set(after) == set(before), "a process was replaced"
    grown = {pid: after[pid] - before[pid] for pid in before}
    assert max(grown.values()) < MAY_GROW, grown
    for session in sessions:
        assert cluster.owner(session_of(session.token)).epoch == session.owner.epoch
    expected = [(True, session.owner.epoch) for session in sessions]
    wait_until(lambda: claimed_owners(cluster, sessions) == expected, why="claims were not put back")
    assert {code for session in sessions for code in session.follower.closes} <= {1012}


def test_redis_killed_and_started_empty_loses_nobody(cluster: Cluster) -> None:
    """Moves on the owners' workers are answered all the while; followers end with the last move; claims are back."""

    async def scenario() -> None:
        before = memory(cluster)
        async with load(cluster) as sessions:
            await moves_go_on(sessions)
            await asyncio.to_thread(cluster.server.kill)
            await moves_go_on(sessions, 10)
            assert (await asyncio.to_thread(fetch, cluster.app_url(APP))).status in (502, 503)
            await asyncio.to_thread(cluster.server.start)
            await moves_go_on(sessions)
        await asyncio.to_thread(assert_nothing_was_lost, cluster, sessions, before)
        await asyncio.to_thread(wait_until, lambda: fetch(cluster.app_url(APP)).status == 200, 20)

    run(scenario(), 120)


def test_redis_paused_for_longer_than_the_lease_loses_nobody(cluster: Cluster) -> None:
    """As above, though Redis finds every lease ended when it goes on, and requests for the sessions waiting."""

    async def ask_elsewhere(session: Busy) -> None:
        url = cluster.other(session.owner.node).app_url(APP)
        await asyncio.to_thread(fetch, f"{url}?bokeh-session-id={session_of(session.token)}")

    async def scenario() -> None:
        before = memory(cluster)
        async with load(cluster) as sessions:
            await moves_go_on(sessions)
            cluster.server.pause()
            try:
                async with asyncio.timeout(PAUSE * 3), asyncio.TaskGroup() as asking:
                    for session in sessions[:10]:
                        asking.create_task(ask_elsewhere(session))
                    await asyncio.sleep(PAUSE / 2)
                    await moves_go_on(sessions, 10)
                    await asyncio.sleep(PAUSE / 2)
                    cluster.server.resume()
            finally:
                cluster.server.resume()
            await moves_go_on(sessions)
        await asyncio.to_thread(assert_nothing_was_lost, cluster, sessions, before)

    run(scenario(), 120)
