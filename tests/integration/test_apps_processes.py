"""Apps that start processes and programs: what those inherit of the worker, which is nothing."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.node import Node
from support.patience import run
from support.redis import RedisServer
from support.wire import Viewer, page_token


@pytest.fixture(
    scope="module",
    params=[["--num-procs", "1"], ["--num-procs", "3"], ["--num-procs", "2", "--num-threads", "2"]],
    ids=["1 worker", "3 workers", "threads"],
)
def node(request: pytest.FixtureRequest) -> Iterator[Node]:
    """With a Redis, whose connections are a worker's own like its sockets."""
    with (
        RedisServer() as redis,
        Node("forking.py", options=[*request.param, "--redis-url", redis.url]) as node,
    ):
        yield node


async def _told(viewer: Viewer, number: int, what: str) -> str:
    """What the app says of it."""
    await viewer.set("ask", "value", f"{number} {what}")
    while not viewer.value("answer", "text").startswith(f"{number} "):
        await viewer.next_message()
    said: str = viewer.value("answer", "text")
    return said.partition(" ")[2]


@pytest.mark.parametrize(
    ("what", "outcome"),
    [
        ("terminated", str(-signal.SIGTERM)),
        ("interrupted", str(-signal.SIGINT)),
        ("pooled", "[1, 2, 3]"),
        ("inherited", "([], True)"),
        ("in_thread", "([], True)"),
        ("left", "3"),
        ("failed", "1"),
        ("returned", "0"),
    ],
)
def test_children_of_an_app_start_as_those_of_any_program(node: Node, what: str, outcome: str) -> None:
    """Signals end them and not the worker, and no socket of the worker's is theirs."""
    pids = node.worker_pids()

    async def scenario() -> None:
        token = page_token(node.app_url("/forking"))
        async with Viewer.open(node.ws_url("/forking"), token) as viewer, Viewer.open(node.ws_url("/forking"), token):
            await viewer.pull()
            assert await _told(viewer, 1, what) == outcome
            assert await _told(viewer, 2, "pooled") == "[1, 2, 3]"

    run(scenario())
    assert node.worker_pids() == pids


def test_a_page_notices_at_once_that_its_worker_was_killed_while_a_child_lives(node: Node) -> None:
    """The child would keep the connection open for as long as it lives."""

    async def scenario() -> None:
        token = page_token(node.app_url("/forking"))
        async with Viewer.open(node.ws_url("/forking"), token) as viewer:
            await viewer.pull()
            child = int(await _told(viewer, 1, "living"))
            try:
                node.kill(_parent(child))
                await viewer.wait_closed()
                os.kill(child, 0)  # it lives: the page has not waited for its end
            finally:
                node.kill(child)

    run(scenario(), nominal=20)


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
