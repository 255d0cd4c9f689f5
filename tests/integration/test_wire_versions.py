"""Two nodes on one Redis and in one namespace that speak different versions of the wire: two clusters."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
import redis
from support.cluster import NAMESPACE, session_of, steady_viewer
from support.fetch import fetch
from support.node import Node
from support.patience import run
from support.redis import RedisServer
from support.wire import page_token

from aperture.version import WIRE_VERSION

APP = "/relayed"

NEXT_VERSION = f"""
import sys
import aperture.version
aperture.version.WIRE_VERSION = {WIRE_VERSION + 1}
from aperture.gateway.cli import main
sys.exit(main(["serve", *sys.argv[1:]]))
"""


class NextNode(Node):
    """A node as the next version of the wire makes it."""

    name = "aperture of the next wire version"
    command = ("-c", NEXT_VERSION)


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="module")
def nodes(server: RedisServer) -> Iterator[tuple[Node, Node]]:
    shared = ["--redis-url", server.url, "--redis-namespace", NAMESPACE, "--num-procs", "2", "--durability", "async"]
    ours, theirs = (kind("relayed.py", options=shared, wait=False) for kind in (Node, NextNode))
    with ExitStack() as stack:
        for node in (ours, theirs):
            stack.enter_context(node)
        for node in (ours, theirs):
            node.await_ready()
        yield ours, theirs


def test_each_says_its_version_when_it_starts(nodes: tuple[Node, Node]) -> None:
    """What an operator looks for during a rolling upgrade."""
    for node, version in zip(nodes, (WIRE_VERSION, WIRE_VERSION + 1), strict=True):
        said = node.log_reader.wait_for(r"bus: wire version (\d+), namespace (\S+);", 2, 30)
        assert {(match.group(1), match.group(2)) for match in said} == {(str(version), NAMESPACE)}


def test_a_session_of_one_is_unknown_to_the_other(nodes: tuple[Node, Node], server: RedisServer) -> None:
    """One page on both: each makes a session of its own under that id, and neither hears the other's changes."""
    ours, theirs = nodes

    async def scenario() -> None:
        token = page_token(ours.app_url(APP))
        async with steady_viewer(ours.ws_url(APP), token) as mine:
            assert (await mine.set("slider", "value", 42)).msgtype == "OK"
            async with steady_viewer(theirs.ws_url(APP), token) as other:
                assert other.value("slider", "value") == 0
                assert (await other.set("slider", "value", 7)).msgtype == "OK"
                assert (await mine.set("slider", "value", 43)).msgtype == "OK"
                assert (await other.pull()).get_model_by_name("slider").value == 7  # type: ignore[union-attr]
                assert (await mine.pull()).get_model_by_name("slider").value == 43  # type: ignore[union-attr]
        for node in nodes:
            assert [row["id"] for row in node.sessions()] == [session_of(token)[:8]]

    run(scenario())


def test_neither_lists_or_counts_the_other(nodes: tuple[Node, Node]) -> None:
    """No worker or session of the other in the admin answers, none missing, and no message of it was even seen."""
    for node in nodes:
        listed = node.admin("/workers?cluster=1")
        assert sorted(row["pid"] for row in listed["workers"]) == sorted(node.worker_pids())
        assert (listed["missing_workers"], listed["bus"]) == ([], "up")
        metrics = fetch(node.admin_url + "/metrics").text
        counted = re.findall(r"^aperture_relay_foreign_messages_total\S* (\S+)$", metrics, re.MULTILINE)
        assert sum(map(float, counted)) == 0
        assert "dropped a" not in node.log()


def test_the_same_version_started_anew_has_the_sessions_that_were_kept(server: RedisServer) -> None:
    """All nodes stopped, and all started again; and what is not taken up goes away by itself."""
    namespace = "again"
    shared = ["--redis-url", server.url, "--redis-namespace", namespace, "--num-procs", "1", "--durability", "ack"]
    with Node("relayed.py", options=shared) as before:
        token = page_token(before.app_url(APP))

        async def change() -> None:
            async with steady_viewer(before.ws_url(APP), token) as viewer:
                assert (await viewer.set("slider", "value", 42)).msgtype == "OK"

        run(change())
        before.stop()
    with redis.Redis.from_url(server.url) as left:
        names = list(left.scan_iter(f"aperture:{namespace}:v{WIRE_VERSION}:*"))
        assert names
        for name in names:
            assert 0 < left.pttl(name) <= 300_000 or not left.exists(name), f"{name!r} stays for ever"
    with Node("relayed.py", options=shared) as after:

        async def look() -> None:
            async with steady_viewer(after.ws_url(APP), token) as viewer:
                assert viewer.value("slider", "value") == 42

        run(look())
