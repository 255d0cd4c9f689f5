"""What Panel keeps in one process, over two nodes behind nginx, with each page's websocket at the other node.

So its viewers are on edges, before and after the session's worker was killed, wherever it goes on.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.cluster import Cluster, Owner, session_of
from support.fetch import fetch
from support.node import Node
from support.panel_counts import Page, page_open, session_info, style_sheet, total_shown
from support.panel_features import PANELS, PanelNode
from support.patience import run, wait_until
from support.visitor import Visitor
from support.wire import Viewer, page_token, token_of

COMPONENTS = PANELS / "components.py"
APP = "/components"
PAGES = 4
ASKED = 8
"""Requests through nginx after one another: they go to each worker of each node."""
COUNTED = ["--durability", "ack", "--rest-session-info", "--session-history", "-1"]


@contextmanager
def two_nodes(*options: str) -> Iterator[Cluster]:
    with Cluster(COMPONENTS, options=options, kind=PanelNode) as cluster:
        yield cluster


@asynccontextmanager
async def on_edges(
    cluster: Cluster, tokens: list[str], app: str, headers: Mapping[str, str]
) -> AsyncIterator[list[Page]]:
    """The pages of these tokens, each with its websocket at the node that has not its session."""
    async with AsyncExitStack() as stack:
        pages = []
        for token in tokens:
            edge = cluster.other(cluster.owner(session_of(token)).node)
            pages.append(await stack.enter_async_context(page_open(edge.ws_url(app), token, headers)))
        yield pages


async def _see(condition: Any, why: str) -> None:
    await asyncio.to_thread(wait_until, condition, 60, why)


def _kill(owner: Owner) -> None:
    owner.node.kill(owner.pid)


def test_a_components_file_is_found_from_any_node() -> None:
    """Also by the address that a page has from before its session went on in another worker."""

    async def scenario(cluster: Cluster) -> None:
        token = page_token(cluster.app_url(APP))
        async with on_edges(cluster, [token], APP, {}):
            before = cluster.owner(session_of(token))
            async with Viewer.open(cluster.ws_url(APP), token) as viewer:
                address = style_sheet((await viewer.request("PULL-DOC-REQ", {})).content)
            await asyncio.to_thread(_found, cluster, address)
            _kill(before)
            # The page has not come back yet: whoever has the session by then is asked, or builds it.
            await asyncio.to_thread(_found, cluster, address)
            after = cluster.owner(session_of(token))
            assert after.pid != before.pid
            async with Viewer.open(cluster.ws_url(APP), token) as viewer:
                again = style_sheet((await viewer.request("PULL-DOC-REQ", {})).content)
            await asyncio.to_thread(_found, cluster, again)

    with two_nodes("--durability", "ack") as cluster:
        run(scenario(cluster), 120)


def _found(cluster: Cluster, address: str) -> None:
    for _ in range(ASKED):
        answer = fetch(cluster.app_url(f"/{address}"))
        assert (answer.status, answer.body) == (200, (PANELS / "styled.css").read_bytes()), address


def test_sessions_are_counted_once_wherever_they_and_their_viewers_are() -> None:
    """By `/rest/session_info`, before and after their workers were killed, and when they have ended."""

    def counts(cluster: Cluster, live: int) -> bool:
        try:
            infos = [session_info(cluster.url) for _ in range(ASKED)]
        except AssertionError:
            return False  # a node whose workers were killed has none for a moment
        return all(
            (info["total"], len(info["sessions"]), info["live"]) == (PAGES, PAGES, live)
            and all((session["ended"] is None) == bool(live) for session in info["sessions"].values())
            for info in infos
        )

    async def scenario(cluster: Cluster) -> None:
        tokens = [page_token(cluster.app_url(APP)) for _ in range(PAGES)]
        async with on_edges(cluster, tokens, APP, {}):
            await _see(lambda: counts(cluster, PAGES), "not counted")
            for owner in {
                cluster.owner(session_of(token)).pid: cluster.owner(session_of(token)) for token in tokens
            }.values():
                _kill(owner)
            await _see(lambda: counts(cluster, PAGES), "not counted where they go on")
        await _see(lambda: counts(cluster, 0), "still live")

    with two_nodes(*COUNTED, "--unused-session-lifetime", "5000", "--check-unused-sessions", "500") as cluster:
        run(scenario(cluster), 180)


def _counted(cluster: Cluster) -> tuple[Any, ...]:
    """All sessions, those that are live, and when each has ended."""
    info = session_info(cluster.url)
    return info["total"], info["live"], [session["ended"] for session in info["sessions"].values()]


def test_a_session_that_is_moved_is_counted_once() -> None:
    """And is live in a worker that had it before."""

    async def scenario(cluster: Cluster) -> None:
        token = page_token(cluster.app_url(APP))
        [node] = cluster.nodes
        async with page_open(cluster.ws_url(APP), token) as page:
            for to in (1, 0, 1):
                owner = cluster.owner(session_of(token))
                if owner.pid != node.workers()[to]["pid"]:
                    move = f"{node.admin_url}/sessions/{session_of(token)[:8]}/move?to={to}"
                    assert fetch(move, "POST", headers={"X-Aperture": "1"}).status == 200
                    await page.pulled.get()
                assert cluster.owner(session_of(token)).pid == node.workers()[to]["pid"]
                await _see(lambda: _counted(cluster) == (1, 1, [None]), "counted twice, or not live")

    with Cluster(COMPONENTS, nodes=1, options=COUNTED, kind=PanelNode) as cluster:
        run(scenario(cluster), 120)


CHANGING = """
from pathlib import Path
import panel as pn

runs = Path({file!r})
runs.write_text(runs.read_text() + "x" if runs.exists() else "x")
pn.Column(*(pn.pane.Str("run") for _ in runs.read_text())).servable()
"""


@pytest.mark.parametrize("admin", [[], ["--admin"]], ids=["", "with the admin page"])
def test_a_session_that_starts_afresh_is_counted_once(admin: list[str], tmp_path: Path) -> None:
    """Its worker has run the app twice: under the stored state, which did not fit, and again."""
    app = tmp_path / "changing.py"
    app.write_text(CHANGING.format(file=str(tmp_path / "runs")))

    async def scenario(cluster: Cluster) -> None:
        token = page_token(cluster.app_url("/changing"))
        async with page_open(cluster.ws_url("/changing"), token) as page:
            _kill(cluster.owner(session_of(token)))
            await page.pulled.get()
            assert cluster.log().count("starts afresh") == 1
            await _see(lambda: _counted(cluster) == (1, 1, [None]), "counted twice, or not live")

    with Cluster(app, nodes=1, options=[*COUNTED, *admin], kind=PanelNode) as cluster:
        run(scenario(cluster), 120)


def test_the_admin_page_of_either_node_draws_all_sessions() -> None:
    """Those of the other node, those that go on elsewhere, and the admin pages themselves."""

    async def draws(node: Node, total: int) -> int:
        """The worker that has drawn so many."""
        token = page_token(node.app_url("/admin"))
        async with Viewer.open(node.ws_url("/admin"), token) as viewer:
            # Its curves of memory move every second, so that there is always another patch.
            while total_shown((await viewer.request("PULL-DOC-REQ", {})).content) != total:
                await viewer.wait_for("PATCH-DOC")
        return cluster.owner(session_of(token)).pid

    async def scenario() -> None:
        tokens = [page_token(cluster.app_url(APP)) for _ in range(PAGES)]
        async with on_edges(cluster, tokens, APP, {}) as pages:
            drawn = await draws(cluster.nodes[0], PAGES + 1)
            # That worker takes the count of its admin page along, which does not come back.
            owners = [cluster.owner(session_of(token)) for token in tokens]
            killed = next(owner for owner in owners if owner.pid != drawn)
            _kill(killed)
            for page, owner in zip(pages, owners, strict=True):
                if owner.pid == killed.pid:
                    await page.pulled.get()
            await draws(cluster.nodes[1], PAGES + 2)

    with two_nodes("--durability", "ack", "--admin") as cluster:
        run(scenario(), 180)


ACTIVE = """
import json
import os
import panel as pn

def note():
    file = os.path.join({folder!r}, str(os.getpid()))
    with open(file + ".new", "w") as new:
        json.dump(pn.state._active_users, new)
    os.replace(file + ".new", file)

pn.state.schedule_task("active", note, period="1s")
"""


def test_a_user_is_active_where_their_sessions_are(tmp_path: Path) -> None:
    """Once for each, and not where a page's websocket is; also where a session goes on, and no longer than it lives."""
    script = tmp_path / "setup.py"
    script.write_text(ACTIVE.format(folder=str(tmp_path)))

    def active(pid: int) -> dict[str, int]:
        """Whom a worker counts, as it says every second."""
        file = tmp_path / str(pid)
        counts: dict[str, int] = json.loads(file.read_text()) if file.exists() else {"nobody": 1}
        return counts

    def right(cluster: Cluster, tokens: list[str]) -> bool:
        """Whether each worker counts the sessions that it has, and nothing else."""
        owned = Counter(owner.pid for token in tokens for owner in cluster.owners(session_of(token)))
        expected = {pid: {"ann": owned[pid]} if owned[pid] else {} for pid in cluster.worker_pids()}
        return owned.total() == len(tokens) and all(active(pid) == counts for pid, counts in expected.items())

    async def scenario(cluster: Cluster) -> None:
        visitor, url = Visitor(), cluster.app_url(APP)
        answer = visitor.submit(cluster.app_url("/login"), b"username=ann&password=pass")
        tokens = [token_of((await asyncio.to_thread(visitor.get, url)).text) for _ in range(PAGES)]
        assert answer.status == 200
        async with on_edges(cluster, tokens, APP, visitor.headers(url)):
            await _see(lambda: right(cluster, tokens), "not active where the sessions are")
            _kill(cluster.owner(session_of(tokens[0])))
            await _see(lambda: right(cluster, tokens), "not active where the session goes on")
        await _see(lambda: right(cluster, []), "active for ever")

    login = ["--basic-auth", "pass", "--cookie-secret", "a-secret-of-the-tests", "--setup", str(script)]
    lifetimes = ["--unused-session-lifetime", "5000", "--check-unused-sessions", "500"]
    with two_nodes("--durability", "ack", *login, *lifetimes) as cluster:
        run(scenario(cluster), 180)
