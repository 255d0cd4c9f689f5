"""Documents, patches and uploads too large for one publication cross workers, and their neighbours notice nothing."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator

import pytest
from support.cluster import NAMESPACE, Cluster, places_of, session_of, steady_viewer
from support.patience import run, wait_until
from support.redis import RedisServer
from support.wire import Viewer, page_token

from aperture.bus.names import Names

APP = "/large"
NEIGHBOUR = "/relayed"
MEGABYTE = 1024 * 1024


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Two nodes of one worker over a Redis with its own limits: a subscriber that is 32 MB behind is cut off."""
    options = ["--websocket-max-message-size", str(64 * MEGABYTE), "--outbox-limit", str(64 * MEGABYTE)]
    with RedisServer() as server, Cluster("large.py", "relayed.py", workers=1, options=options, server=server) as made:
        yield made


@pytest.fixture(autouse=True)
def _nobody_was_cut_off(cluster: Cluster) -> Iterator[None]:
    """Neither Redis nor a worker has given anything up, and nothing is left that was not there before."""
    yield
    assert re.findall(r".*(?:is lost|pull.* afresh|takes nothing|could not be|Traceback)(?s:.*)", cluster.log()) == []
    with cluster.redis() as client:
        kinds = {key.split(b":")[3] for key in client.scan_iter(f"{Names(NAMESPACE).session('')[:-8]}*")}
    assert kinds <= {b"session", b"stream", b"kept", b"journal", b"workers", b"epoch", b"born", b"seasoned", b"room"}


async def moved_meanwhile(mover: Viewer, watcher: Viewer, work: asyncio.Task[None]) -> int:
    """Move a slider of another session, again and again and seen through the other worker, until the work is done."""
    count = 0
    while not work.done():
        count += 1
        assert (await mover.set("slider", "value", count)).msgtype == "OK"
        await watcher.wait_for_value("seen", "text", str(count))
    await work
    return count


@pytest.mark.parametrize("megabytes", [40, 200])
def test_a_large_document_loads_through_another_worker(cluster: Cluster, megabytes: int) -> None:
    """All of it, with the patches behind it, while a neighbour's session goes on over the same two workers."""

    async def load(url: str, token: str) -> None:
        async with Viewer.open(url, token) as viewer:
            await viewer.pull()
            columns = viewer.value("stored", "data")
            assert sum(len(column) for column in columns.values()) * 8 == megabytes * MEGABYTE
            assert columns[f"x{len(columns) - 1}"][-1] == len(columns) - 1
            assert (await viewer.set("slider", "value", 1)).msgtype == "OK"
            assert viewer.value("shown", "data")["y"][-1] == 1

    async def scenario() -> None:
        token = page_token(f"{cluster.app_url(APP)}?megabytes={megabytes}")
        neighbour = page_token(cluster.app_url(NEIGHBOUR))
        # A worker that writes 200 MB down for the first time answers no request in that second.
        wait_until(lambda: cluster.owners(session_of(token)), 30)
        owner = cluster.owner(session_of(token)).node
        other = cluster.other(owner)
        async with (
            steady_viewer(owner.ws_url(NEIGHBOUR), neighbour) as mover,
            steady_viewer(other.ws_url(NEIGHBOUR), neighbour) as watcher,
        ):
            work = asyncio.create_task(load(other.ws_url(APP), token))
            assert await moved_meanwhile(mover, watcher, work) > 1

    run(scenario())


def test_large_patches_in_quick_succession_reach_viewers_elsewhere(cluster: Cluster) -> None:
    """Of 12 MB each, with small ones among them: none is closed, and each comes once and in order."""

    async def scenario() -> None:
        token = page_token(cluster.app_url(APP))
        owner = cluster.owner(session_of(token))
        async with (
            steady_viewer(owner.node.ws_url(APP), token) as mover,
            steady_viewer(cluster.other(owner.node).ws_url(APP), token) as watcher,
        ):
            for number, size in enumerate((12, 13, 1, 14), 1):
                events = [
                    {"kind": "ModelChanged", "model": {"id": mover.model(name).id}, "attr": "value", "new": value}
                    for name, value in (("small", number), ("slider", size))
                ]
                for event in events:
                    await mover.send_patch([event])
            await watcher.wait_for_value("slider", "value", 14)
            while len(places_of(watcher)) < 8:
                await watcher.next_message()
            assert len(watcher.value("shown", "data")["y"]) * 8 == 14 * MEGABYTE
            assert places_of(watcher) == [(owner.epoch, number) for number in range(1, 9)]

    run(scenario())


def test_an_upload_crosses_workers(cluster: Cluster) -> None:
    """Of 40 MB, from the worker that it came to; the option for messages is the only bound."""

    async def scenario() -> None:
        token = page_token(cluster.app_url(APP))
        other = cluster.other(cluster.owner(session_of(token)).node)
        async with steady_viewer(other.ws_url(APP), token) as viewer:
            answers = [viewer.set("upload", "value", "x" * 40 * MEGABYTE), viewer.set("small", "value", 5)]
            for answer in answers:
                assert (await answer).msgtype == "OK"
            assert viewer.value("count", "text") == str(40 * MEGABYTE)

    run(scenario())
