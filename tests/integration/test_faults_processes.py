"""Processes that die or are stopped: what the viewers of the others, and of theirs, notice."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from support.fetch import fetch
from support.node import Node
from support.patience import run, wait_until
from support.wire import ConnectionEnded, Viewer, page_token

from aperture.protocol.tokens import read_session_id

SERVICE_RESTART = 1012


@pytest.fixture
def node() -> Iterator[Node]:
    with Node("broadcast.py", options=["--num-procs", "2"]) as node:
        yield node


async def _viewers_on_each_worker(node: Node, stack: AsyncExitStack) -> dict[int, Viewer]:
    """One viewer with a session of its own on every worker, by the worker's pid."""
    viewers: dict[int, Viewer] = {}
    pids = node.worker_pids()
    for _ in range(20 * len(pids)):
        token = page_token(node.app_url("/broadcast"))
        viewer = await stack.enter_async_context(Viewer.open(node.ws_url("/broadcast"), token))
        await viewer.pull()
        session_id = read_session_id(token) or ""
        owner = next(row["pid"] for row in node.sessions() if session_id.startswith(row["id"]))
        viewers.setdefault(owner, viewer)
        if len(viewers) == len(pids):
            return viewers
    raise AssertionError(f"all sessions went to {set(viewers)} of {pids}")


def test_open_websockets_do_not_notice_the_death_of_the_gateway(node: Node) -> None:
    """After kill -9 of the gateway a session goes on, its page's id still leads to it, and new ones are served."""

    async def scenario() -> None:
        token = page_token(node.app_url("/broadcast"))
        async with Viewer.open(node.ws_url("/broadcast"), token) as viewer:
            await viewer.pull()
            killed = node.gateway_pid()
            node.kill(killed)
            assert (await viewer.set("slider", "value", 1)).msgtype == "OK"
            answer = await asyncio.to_thread(fetch, node.app_url("/broadcast"))
            assert answer.status == 200
            # The new gateway has never seen this session, and must not give it to another worker.
            async with Viewer.open(node.ws_url("/broadcast"), token) as second:
                await second.pull()
                assert second.value("slider", "value") == 1
            wait_until(lambda: node.gateway_pid() != killed)

    run(scenario())


def test_the_death_of_a_worker_is_noticed_only_by_its_own_sessions(node: Node) -> None:
    """After kill -9 of a worker the other's session goes on, and the dead one's page gets a session again."""

    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            viewers = await _viewers_on_each_worker(node, stack)
            (dying, lost), (living, kept) = viewers.items()
            node.kill(dying)
            with pytest.raises(ConnectionEnded):
                await lost.next_message()
            assert (await kept.set("slider", "value", 7)).msgtype == "OK"
            await kept.wait_for_value("seen", "text", "7")
            for _ in range(4):
                answer = await asyncio.to_thread(fetch, node.app_url("/broadcast"))
                assert answer.status == 200
            wait_until(lambda: len({*node.worker_pids()} - {dying}) == 2, why="no new worker")
            assert living in node.worker_pids()

    run(scenario())


def test_a_page_whose_worker_died_connects_again_with_its_token(node: Node) -> None:
    """BokehJS comes back with the same token; it gets a session of the same id on a living worker."""

    async def scenario() -> None:
        token = page_token(node.app_url("/broadcast"))
        async with Viewer.open(node.ws_url("/broadcast"), token) as viewer:
            await viewer.pull()
            owner = next(row["pid"] for row in node.sessions())
            node.kill(owner)
            with pytest.raises(ConnectionEnded):
                await viewer.next_message()
        async with Viewer.open(node.ws_url("/broadcast"), token) as viewer:
            await viewer.pull()
            assert (await viewer.set("slider", "value", 3)).msgtype == "OK"
            await viewer.wait_for_value("seen", "text", "3")

    run(scenario())


def test_sigterm_closes_viewers_with_1012_and_runs_the_hooks(tmp_path: Path) -> None:
    """Every connection gets a legal close code, both hooks run, the exit code is 0 and nothing is left."""
    trace = tmp_path / "hooks.txt"

    async def scenario(node: Node) -> None:
        async with AsyncExitStack() as stack:
            opened = []
            for _ in range(6):
                token = page_token(node.app_url("/hooks"))
                opened.append(await stack.enter_async_context(Viewer.open(node.ws_url("/hooks"), token)))
            node.process.send_signal(signal.SIGTERM)
            codes = await asyncio.gather(*(viewer.wait_closed() for viewer in opened))
            assert codes == [SERVICE_RESTART] * len(opened)

    with Node("hooks", options=["--num-procs", "2"], env={"HOOKS": str(trace)}) as node:
        run(scenario(node))
        assert node.wait() == 0
    lines = trace.read_text().splitlines()
    assert sum(line.startswith("destroyed") for line in lines) == 6, lines
    assert sum(line.startswith("unloaded") for line in lines) == 2, lines


def test_an_app_that_cannot_be_imported_stops_the_start(tmp_path: Path) -> None:
    """A missing module is reported with the app's traceback, and the exit code says that starting again is no use."""
    app = tmp_path / "broken.py"
    app.write_text("import a_module_that_is_nowhere\n")
    with Node(app, options=["--num-procs", "2"], wait=False) as node:
        assert node.wait() == 4
        assert "a_module_that_is_nowhere" in node.log()
        assert "broken.py" in node.log()
