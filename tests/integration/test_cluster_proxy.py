"""Two nodes of two workers behind a proxy that takes turns: together they behave like one server.

`test_compat_client.py` runs `bokeh.client` and `bokeh.embed` through the same proxy.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.cluster import Cluster, places_of, session_of, steady_viewer
from support.fetch import fetch
from support.patience import run
from support.proxy import Nginx
from support.wire import Viewer, page_token, token_of

SESSIONS = 200
AT_ONCE = 8
APP = "/relayed"


@dataclass(frozen=True, slots=True)
class Counted:
    """A cluster, and the file in which its app counts its runs."""

    cluster: Cluster
    runs: Path

    def sessions_run(self) -> Counter[str]:
        """How often the app's code ran for each session."""
        return Counter(line.split()[1] for line in self.runs.read_text().splitlines())


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Counted]:
    runs = tmp_path_factory.mktemp("cluster") / "runs"
    with Cluster("relayed.py", env={"APP_RUNS": str(runs)}) as cluster:
        yield Counted(cluster, runs)


def test_two_hundred_sessions_are_served_wherever_their_requests_land(counted: Counted) -> None:
    """The app's code runs 200 times; each slider move reaches its callback and both viewers of its session."""
    cluster = counted.cluster
    turn = asyncio.Semaphore(AT_ONCE)

    async def open_session(stack: AsyncExitStack) -> tuple[str, Viewer, Viewer]:
        async with turn:
            token = await asyncio.to_thread(page_token, cluster.app_url(APP))
            url = cluster.ws_url(APP)
            mover = await stack.enter_async_context(steady_viewer(url, token))
            watcher = await stack.enter_async_context(steady_viewer(url, token))
            return session_of(token), mover, watcher

    async def move(number: int, mover: Viewer, watcher: Viewer) -> None:
        async with turn:
            for viewer, other, value in ((mover, watcher, number + 1), (watcher, mover, number + 1000)):
                assert (await viewer.set("slider", "value", value)).msgtype == "OK"
                for each in (viewer, other):
                    await each.wait_for_value("seen", "text", str(value))
                    assert each.value("source", "data")["y"][1] == value
                await other.wait_for_value("slider", "value", value)
            assert [seq for _, seq in places_of(mover)] == [seq for _, seq in places_of(watcher)] == [1, 2]

    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            opened = await asyncio.gather(*(open_session(stack) for _ in range(SESSIONS)))
            ids = {session_id for session_id, _, _ in opened}
            rows = [row for node in cluster.nodes for row in node.sessions()]
            rows = [row for row in rows if any(name.startswith(row["id"]) for name in ids)]
            assert len(rows) == SESSIONS
            assert [row["connections"] for row in rows] == [2] * SESSIONS
            assert sum(row["edges"] for row in rows) > SESSIONS / 4, "hardly a viewer was on another node"
            await asyncio.gather(*(move(number, mover, other) for number, (_, mover, other) in enumerate(opened)))
            runs = counted.sessions_run()
            assert [runs[session_id] for session_id in ids] == [1] * SESSIONS

    before = len(counted.sessions_run()) if counted.runs.exists() else 0
    run(scenario(), 120)
    assert sum(counted.sessions_run().values()) - before == SESSIONS


def test_a_new_id_asked_for_on_both_nodes_at_once_runs_the_app_once(counted: Counted) -> None:
    """50 simultaneous page requests for a session that no worker has: one run, and all get that session."""
    nodes = counted.cluster.nodes
    urls = [f"{nodes[number % 2].app_url(APP)}?bokeh-session-id=no-owner-yet" for number in range(50)]
    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(fetch, urls))
    assert {answer.status for answer in answers} == {200}
    assert {session_of(token_of(answer.text)) for answer in answers} == {"no-owner-yet"}
    assert counted.sessions_run()["no-owner-yet"] == 1


def test_a_page_asked_for_on_the_other_node_is_that_of_the_session(counted: Counted) -> None:
    """`?bokeh-session-id=`, and the header, on the node that does not have the session: its document, as it is now."""
    cluster = counted.cluster

    async def scenario() -> None:
        token = page_token(cluster.app_url(APP))
        session_id = session_of(token)
        async with steady_viewer(cluster.ws_url(APP), token) as viewer:
            assert (await viewer.set("slider", "value", 42)).msgtype == "OK"
            owner = cluster.owner(session_id)
            other = cluster.other(owner.node)
            by_query = f"{other.app_url(APP)}?bokeh-session-id={session_id}"
            again = await asyncio.to_thread(page_token, by_query)
            by_header = await asyncio.to_thread(page_token, other.app_url(APP), {"Bokeh-Session-Id": session_id})
            for page in (again, by_header):
                assert session_of(page) == session_id
                async with steady_viewer(other.ws_url(APP), page) as second:
                    assert second.value("seen", "text") == "42"
            assert cluster.owner(session_id).epoch == owner.epoch

    run(scenario())


def test_the_shipped_configuration_is_not_sticky() -> None:
    """Nothing in it looks at a client to choose a node."""
    text = Nginx.shipped.read_text()
    directives = [line.split("#")[0] for line in text.splitlines()]
    assert not any(word in line for line in directives for word in ("ip_hash", "sticky", "hash ", "least_conn"))
