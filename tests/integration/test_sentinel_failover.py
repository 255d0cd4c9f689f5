"""The primary of a Redis with sentinels is killed: the nodes find the new one, and sessions go on as they were."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from support.cluster import Cluster, Follower, Owner, session_of, steady_viewer
from support.fetch import fetch
from support.patience import run, wait_until
from support.redis import SentinelGroup
from support.wire import Viewer, page_token

APP = "/relayed"


@pytest.fixture
def group() -> Iterator[SentinelGroup]:
    with SentinelGroup() as group:
        yield group


def text_is(text: str) -> Callable[[Viewer], bool]:
    return lambda viewer: bool(viewer.value("seen", "text") == text)


def all_ready(cluster: Cluster) -> bool:
    return all(fetch(node.admin_url + "/readyz").status == 200 for node in cluster.nodes)


async def ready(cluster: Cluster) -> None:
    await asyncio.to_thread(wait_until, lambda: all_ready(cluster), 60, "a node found no new primary")


def others(cluster: Cluster, token: str, owner: Owner) -> list[Owner]:
    """Who has the session, but for who had it."""
    return [found for found in cluster.owners(session_of(token)) if found.pid != owner.pid]


async def move(viewer: Viewer, value: int) -> None:
    assert (await viewer.set("slider", "value", value)).msgtype == "OK"


def test_sessions_go_on_with_the_new_primary(group: SentinelGroup, tmp_path: Path) -> None:
    """Viewers on both nodes get what follows, the app does not run again, and what was acknowledged since outlives the
    worker, also once the old primary is back, empty, as a replica."""
    runs = tmp_path / "runs"
    with ExitStack() as stack:
        cluster = stack.enter_context(
            Cluster(
                "relayed.py",
                workers=1,
                options=["--durability", "ack"],
                env={"APP_RUNS": str(runs)},
                server=group.primary,
                redis_urls=[group.url] * 2,
            )
        )

        async def scenario() -> None:
            token = await asyncio.to_thread(page_token, cluster.app_url(APP))
            owner = await asyncio.to_thread(cluster.owner, session_of(token))
            follower = Follower(cluster.other(owner.node).ws_url(APP), token)
            async with steady_viewer(owner.node.ws_url(APP), token) as mover:
                await move(mover, 1)
                await follower.follow(text_is("1"))
                group.primary.kill()
                await asyncio.to_thread(group.await_failover)
                await ready(cluster)
                await move(mover, 2)
                await follower.follow(text_is("2"))
                assert (await asyncio.to_thread(cluster.owner, session_of(token))).pid == owner.pid
            assert len(runs.read_text().splitlines()) == 1
            group.primary.start()
            await asyncio.to_thread(group.await_return)
            os.kill(owner.pid, signal.SIGKILL)
            await follower.follow(text_is("2"))
            await asyncio.to_thread(
                wait_until, lambda: others(cluster, token, owner), 60, "nobody else has the session"
            )
            await asyncio.to_thread(page_token, cluster.app_url(APP))

        run(scenario(), 240)
