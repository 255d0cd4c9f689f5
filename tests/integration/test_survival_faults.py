"""What goes wrong while sessions are kept: no viewer gets a wrong document, and nothing fails twice for it."""

from __future__ import annotations

import signal
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import cast

import redis
from support.cluster import NAMESPACE, Cluster, session_of, steady_viewer
from support.node import Node
from support.patience import run, wait_until
from support.wire import Viewer, page_token

from aperture.bus.names import Names
from aperture.wire.session_key import session_key_of

APP = "/relayed"
LOST = "is not whole and cannot be used"
AFRESH = "starts afresh"

CODE = """
from bokeh.io import curdoc
from bokeh.models.widgets import Div, Slider
curdoc().add_root(Slider(name="slider", start=0, end=1000, value=0))
curdoc().add_root(Div(name="seen", text="{text}"))
"""


def one_node(*apps: str | Path, options: tuple[str, ...] = ()) -> Cluster:
    """One node of two workers behind the proxy: a page that loses a worker finds the other."""
    return Cluster(*apps, nodes=1, options=["--durability", "async", *options])


class Page:
    """A page of a cluster, which can be left and come back to."""

    def __init__(self, cluster: Cluster, app: str = APP) -> None:
        self.cluster = cluster
        self.app = app
        self.url = cluster.ws_url(app)
        self.token = page_token(cluster.app_url(app))
        self.session_id = session_of(self.token)

    def opened(self) -> AbstractAsyncContextManager[Viewer]:
        return steady_viewer(self.url, self.token)

    def move(self, value: int) -> int:
        """Come, move the slider, and leave; what it was before."""

        async def scenario() -> int:
            async with self.opened() as viewer:
                before: int = viewer.value("slider", "value")
                assert (await viewer.set("slider", "value", value)).msgtype == "OK"
                return before

        return run(scenario())

    def kill_owner(self) -> None:
        """Kill the session's worker, and wait until the node is whole again."""
        owner = self.cluster.owner(self.session_id)
        owner.node.kill(owner.pid)
        wait_until(lambda: owner.pid not in owner.node.worker_pids() and len(owner.node.workers()) == 2, 30)


def kept_keys(client: redis.Redis) -> list[bytes]:
    """What is kept of sessions."""
    found: list[bytes] = []
    for part in ("kept", "journal"):
        found += cast("list[bytes]", client.keys(f"aperture:*:{part}:*"))
    return found


def await_kept(client: redis.Redis, page: Page, number: int) -> None:
    """Wait until the session's present owner has written down so many changes."""
    name = Names(NAMESPACE).stored(session_key_of(page.app, page.session_id))

    def is_kept() -> bool:
        epoch, last = cast("list[bytes | None]", client.hmget(name, "epoch", "last"))
        if epoch is None or last is None:
            return False
        return int(epoch) == page.cluster.owner(page.session_id).epoch and int(last) >= number

    wait_until(is_kept, 10, "the change was not written down")


def assert_survives_damage(cluster: Cluster, damage: Callable[[redis.Redis], None]) -> None:
    """The session starts afresh, once and with one line, and is kept as well as any other from then on."""
    page = Page(cluster)
    said = cluster.log().count(LOST) + cluster.log().count(AFRESH)
    with cluster.redis() as client:
        await_kept(client, page, 0)  # so that the change is in the journal, and not in the first snapshot
        page.move(1)
        await_kept(client, page, 1)
        damage(client)
        page.kill_owner()
        assert page.move(2) == 0
        assert cluster.log().count(LOST) + cluster.log().count(AFRESH) == said + 1
        await_kept(client, page, 1)
        page.kill_owner()
        assert page.move(3) == 2
        assert cluster.log().count(LOST) + cluster.log().count(AFRESH) == said + 1
        client.flushdb()


def test_damage_in_redis_starts_the_session_afresh_once() -> None:
    """A snapshot, a journal or an origin that is cut short or changed."""

    def cut_snapshot(client: redis.Redis) -> None:
        for key in client.keys("aperture:*:kept:*"):
            client.hset(key, "snapshot", (client.hget(key, "snapshot") or b"")[:100])

    def change_origin(client: redis.Redis) -> None:
        for key in client.keys("aperture:*:kept:*"):
            client.hset(key, "origin", b"nothing of ours")

    def change_journal(client: redis.Redis) -> None:
        for key in client.keys("aperture:*:journal:*"):
            client.lset(key, 0, "nothing of ours, but long enough")

    with one_node("relayed.py") as cluster:
        for damage in (cut_snapshot, change_origin, change_journal):
            assert_survives_damage(cluster, damage)


def test_a_document_above_the_limit_is_not_kept() -> None:
    """That is logged once; the session works, and starts afresh when its worker dies."""
    with one_node("relayed.py", options=("--max-snapshot-bytes", "1000")) as cluster:
        page = Page(cluster)
        for value in range(1, 5):
            page.move(value)
        assert cluster.log().count("is too large to be stored") == 1
        with cluster.redis() as client:
            assert kept_keys(client) == []
        page.kill_owner()
        assert page.move(5) == 0


def test_a_session_that_ends_in_good_order_leaves_nothing_in_redis() -> None:
    """Discarded because it is no longer used, it is deleted before another worker could rebuild it."""
    options = ("--unused-session-lifetime", "500", "--check-unused-sessions", "200")
    with one_node("relayed.py", options=options) as cluster, cluster.redis() as client:
        page = Page(cluster)
        page.move(1)
        await_kept(client, page, 1)
        wait_until(lambda: not cluster.owners(page.session_id), 20, "the session is not discarded")
        wait_until(lambda: not kept_keys(client), 10, "something is kept of it")


def test_what_redis_loses_is_kept_anew() -> None:
    """Redis dies and comes back empty; after the next change the session outlives its worker again."""
    with one_node("relayed.py", options=("--lease", "2")) as cluster:
        page = Page(cluster)
        page.move(1)
        with cluster.redis() as client:
            await_kept(client, page, 1)

        async def scenario() -> None:
            async with page.opened() as viewer:
                cluster.server.kill()
                for value in range(2, 50):
                    assert (await viewer.set("slider", "value", value)).msgtype == "OK"
                cluster.server.start()
                assert (await viewer.set("slider", "value", 50)).msgtype == "OK"

        run(scenario())
        with cluster.redis() as client:
            await_kept(client, page, 50)
        page.kill_owner()
        assert page.move(51) == 50


def test_an_app_that_a_deploy_has_changed_starts_afresh(tmp_path: Path) -> None:
    """The page shows what the new code makes; one line says so, and it is kept from there."""
    app = tmp_path / "changing.py"
    app.write_text(CODE.format(text="old"))
    with one_node(app) as cluster:
        page = Page(cluster, "/changing")
        page.move(1)
        app.write_text("from bokeh.layouts import row\n" + CODE.format(text="new") + "\ncurdoc().add_root(row())\n")
        replace_workers(cluster.nodes[0])
        assert page.move(2) == 0
        assert cluster.log().count(AFRESH) == 1
        replace_workers(cluster.nodes[0])
        assert page.move(3) == 2
        assert cluster.log().count(AFRESH) == 1


def replace_workers(node: Node) -> None:
    before = set(node.worker_pids())
    node.process.send_signal(signal.SIGHUP)
    wait_until(lambda: len(node.workers()) == 2 and not before & set(node.worker_pids()), 60, "workers stay")


def test_periodic_callbacks_run_in_one_place_after_a_move() -> None:
    """Killed or replaced, the count goes on where it was, one at a time, and no one else counts."""

    async def watch(page: Page, least: int) -> int:
        async with page.opened() as viewer:
            counts = [int(viewer.value("periodic", "text"))]
            while len(counts) < 15:
                await viewer.next_message()
                count = int(viewer.value("periodic", "text"))
                if count != counts[-1]:
                    counts.append(count)
            assert counts == list(range(counts[0], counts[0] + 15))
            assert counts[0] >= least
            return counts[-1]

    with one_node("ticking.py") as cluster:
        page = Page(cluster, "/ticking")
        reached = run(watch(page, 0))
        with cluster.redis() as client:
            await_kept(client, page, reached + 5)  # the other two kinds of callbacks made patches, too
        page.kill_owner()
        reached = run(watch(page, reached))
        replace_workers(cluster.nodes[0])
        run(watch(page, reached))
        assert len(cluster.owners(page.session_id)) == 1
