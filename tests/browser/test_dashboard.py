"""The dashboard in a browser, over two nodes: its numbers, on a phone, and through the death of a worker."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families as parse
from support.browser import BrowserTabs, Tab
from support.cluster import Cluster
from support.fetch import fetch
from support.node import EXAMPLES
from support.patience import run, seconds, wait_until
from support.wire import Viewer, page_token

SLIDERS = EXAMPLES / "apps" / "sliders.py"
PATIENCE = 40
CHANGES = 12
VIEWERS = 4

Numbers = dict[str, float]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster(SLIDERS, nodes=2, workers=2, options=["--admin"]) as running:
        yield running


@contextmanager
def load(cluster: Cluster) -> Iterator[None]:
    """Viewers on sessions of their own, who have moved a slider some times and now look on."""
    moved, over = threading.Semaphore(0), threading.Event()

    async def one() -> None:
        token = await asyncio.to_thread(page_token, cluster.app_url("/sliders"))
        async with Viewer.open(cluster.ws_url("/sliders"), token) as viewer:
            await viewer.pull()
            for change in range(CHANGES):
                await viewer.set("offset", "value", change / 10)
            moved.release()
            await asyncio.to_thread(over.wait, seconds(PATIENCE * 2))

    async def all_of_them() -> None:
        await asyncio.gather(*(one() for _ in range(VIEWERS)))

    thread = threading.Thread(target=lambda: run(all_of_them(), PATIENCE * 3), daemon=True)
    thread.start()
    try:
        for _ in range(VIEWERS):
            assert moved.acquire(timeout=seconds(PATIENCE))
        yield
    finally:
        over.set()
        thread.join(seconds(PATIENCE))


def counted(cluster: Cluster) -> Numbers:
    """What `/metrics` of all nodes say of the app, added up."""
    numbers = dict.fromkeys(("sessions", "connections", "patches_in", "patches_out"), 0.0)
    for node in cluster.nodes:
        for family in parse(fetch(f"{node.admin_url}/metrics").text):
            for sample in family.samples:
                if sample.labels.get("app") != "/sliders":
                    continue
                name = {
                    "aperture_sessions": "sessions",
                    "aperture_connections": "connections",
                    "aperture_patches_total": f"patches_{sample.labels.get('direction')}",
                }.get(sample.name)
                if name is not None:
                    numbers[name] += sample.value
    return numbers


def cells(tab: Tab, name: str, row: str) -> dict[str, str]:
    """The marked cells of a row in one of the page's tables, out of its document; empty if there is no such row."""
    found: dict[str, str] = tab.page.evaluate(
        """([name, row]) => {
          const text = Bokeh.documents[0].get_model_by_name(name)?.text ?? "";
          const html = new DOMParser().parseFromString(text, "text/html");
          const cells = html.querySelector(row)?.querySelectorAll("[data-of]") ?? [];
          return Object.fromEntries([...cells].map(cell => [cell.dataset.of, cell.textContent]));
        }""",
        [name, row],
    )
    return found


def shown(tab: Tab) -> Numbers:
    found = cells(tab, "apps", "[data-app='/sliders']")
    return {
        name: float(found.get(name, "nan").replace(",", ""))
        for name in ("sessions", "connections", "patches_in", "patches_out")
    }


def test_its_numbers_are_those_of_metrics(cluster: Cluster, tabs: BrowserTabs) -> None:
    """Sessions, connections and patches of all workers of both nodes, once nothing moves; and the tiles agree."""
    tab = tabs(cluster.app_url("/admin").replace(cluster.url, cluster.nodes[0].url))
    with load(cluster):
        expected: list[Numbers] = []

        def agree() -> bool:
            expected[:] = [counted(cluster)]
            return expected[0]["patches_in"] >= VIEWERS * CHANGES and shown(tab) == expected[0]

        wait_until(agree, PATIENCE, "the page and /metrics differ")
        assert expected[0]["sessions"] == expected[0]["connections"] == VIEWERS
        tiles = cells(tab, "tiles", ".tiles")
        assert (tiles["sessions"], tiles["connections"]) == (f"{VIEWERS}", f"{VIEWERS}")
        own = cells(tab, "apps", "[data-app='/admin']")
        assert own["sessions"] == "1"
    assert tab.column("series", "sessions")[-1] >= 0


@pytest.mark.parametrize("width", [320, 390, 768])
def test_a_phone_shows_all_of_it(cluster: Cluster, tabs: BrowserTabs, width: int) -> None:
    """Nothing makes the page wider than the screen, and nothing is cut off."""
    tab = tabs()
    tab.page.set_viewport_size({"width": width, "height": 844})
    tab.open(cluster.nodes[1].app_url("/admin"))
    tab.wait_for("() => Bokeh.documents[0].get_model_by_name('workers').text.includes('data-worker')")
    tab.wait_for("() => Bokeh.documents[0].is_idle")
    widths: list[Any] = tab.page.evaluate("() => [document.documentElement.scrollWidth, innerWidth]")
    assert widths[0] == widths[1] == width
    for name in ("head", "tiles", "people", "patches", "latency", "lag", "relay", "memory", "apps", "workers"):
        box = tab.box(name)
        assert box["width"] > width * 0.25
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width


def test_the_death_of_the_worker_that_draws_it(cluster: Cluster, tabs: BrowserTabs) -> None:
    """kill -9: the page comes back by itself, goes on, and says which worker is new."""
    tab = tabs(cluster.nodes[0].app_url("/admin"))
    tab.wait_for("() => Bokeh.documents[0].get_model_by_name('workers').text.includes('data-worker')")
    owner = cluster.owner(tab.session_id())
    place = owner.row["worker"]
    before = tab.page.evaluate("() => Bokeh.documents[0].get_model_by_name('head').text")
    owner.node.kill(owner.pid)

    def restarted() -> bool:
        rows = tab.page.evaluate(
            """place => {
              const text = Bokeh.documents[0]?.get_model_by_name("workers")?.text ?? "";
              const html = new DOMParser().parseFromString(text, "text/html");
              const cells = html.querySelectorAll(`[data-worker="${place}"] [data-of=state]`);
              return [...cells].map(cell => cell.textContent);
            }""",
            str(place),
        )
        return sorted(rows) == ["restarted", "up"] and cells(tab, "tiles", ".tiles").get("restarts") == "1"

    wait_until(restarted, PATIENCE, "the page does not show the new worker")
    tab.wait_for("before => Bokeh.documents[0].get_model_by_name('head').text !== before", before)


def test_a_node_that_is_stuck_is_shown_as_silent(cluster: Cluster, tabs: BrowserTabs) -> None:
    """Its workers say nothing for a while; the others' numbers go on, and it comes back as it was."""
    tab = tabs(cluster.nodes[0].app_url("/admin"))
    mine = cluster.owner(tab.session_id()).node
    stuck = cluster.other(mine)
    tab.wait_for("() => Bokeh.documents[0].get_model_by_name('head').text.includes('2 nodes')")
    pids = stuck.worker_pids()
    for pid in pids:
        stuck.kill(pid, signal.SIGSTOP)
    try:
        tab.wait_for(
            "() => Bokeh.documents[0].get_model_by_name('head').text.includes('1 node silent')", nominal=PATIENCE
        )
    finally:
        for pid in pids:
            stuck.kill(pid, signal.SIGCONT)
    tab.wait_for("() => !Bokeh.documents[0].get_model_by_name('head').text.includes('silent')", nominal=PATIENCE)


def test_without_redis_it_shows_its_own_node(cluster: Cluster, tabs: BrowserTabs) -> None:
    """No other node can be asked, so the rest is silent; with Redis back all are there again."""
    tab = tabs(cluster.nodes[0].app_url("/admin"))
    tab.wait_for("() => Bokeh.documents[0].get_model_by_name('head').text.includes('2 nodes')")
    cluster.server.kill()
    try:
        tab.wait_for(
            """() => {
              const [document] = Bokeh.documents;
              const head = document.get_model_by_name("head").text;
              return head.includes("1 node silent") && head.includes("Redis down");
            }""",
            nominal=PATIENCE,
        )
        points = len(tab.column("series", "t"))
        tab.wait_for("n => Bokeh.documents[0].get_model_by_name('series').data.t.length > n", points)
    finally:
        cluster.server.restart()
    tab.wait_for(
        "() => Bokeh.documents[0].get_model_by_name('head').text.includes('Redis connected')", nominal=PATIENCE
    )
    tab.wait_for("() => !Bokeh.documents[0].get_model_by_name('head').text.includes('silent')", nominal=PATIENCE)
