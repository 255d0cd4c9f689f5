"""Chromium in front of two nodes behind a round-robin proxy: pages, embedded documents, and an owner that dies."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import pytest
from bokeh.client import pull_session
from bokeh.embed import server_document, server_session
from bokeh.models import Plot
from bokeh.models.annotations import Title
from support.browser import BrowserTabs, Tab
from support.cluster import Cluster
from support.node import EXAMPLES
from support.patience import run_aside, wait_until
from support.site import Site, site_at

SLIDERS = EXAMPLES / "apps" / "sliders.py"
PLOT_TITLE = "() => Bokeh.documents[0].get_model_by_name('plot').title.text"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with site_at(tmp_path_factory.mktemp("site")) as site:
        yield site


@pytest.fixture(scope="module")
def cluster(site: Site) -> Iterator[Cluster]:
    with Cluster(SLIDERS, options=["--allow-websocket-origin", f"localhost:{site.port}"]) as cluster:
        yield cluster


def move_and_see(tab: Tab, fraction: float) -> None:
    """Move a slider with the mouse: the wave follows, and is drawn."""
    before, drawn = tab.column("wave", "y"), tab.picture("plot")
    tab.drag_slider("amplitude", fraction)
    tab.wait_for_column("wave", "y", before)
    tab.wait_for_redraw("plot", drawn)


def test_pages_through_the_proxy_work_wherever_their_websocket_lands(cluster: Cluster, tabs: BrowserTabs) -> None:
    """Each of four pages is one session, and its slider moves its plot."""
    opened: list[Tab] = []
    for _ in range(4):
        opened.append(tabs(cluster.app_url("/sliders")))
        move_and_see(opened[-1], 0.9)
    assert len({tab.session_id() for tab in opened}) == 4
    for tab in opened:
        assert cluster.owner(tab.session_id()).row["connections"] == 1


def test_tabs_of_one_session_on_several_workers_follow_each_other(cluster: Cluster, tabs: BrowserTabs) -> None:
    """A slider moved in any of them moves slider and wave in the others."""
    first = tabs(cluster.app_url("/sliders"))
    # Not by the proxy: its turns depend on how many files a page fetched, and may put every websocket on one node.
    shared = f"/sliders?bokeh-session-id={first.session_id()}"
    everybody = [first, *(tabs(node.app_url(shared)) for node in cluster.nodes)]
    assert cluster.owner(first.session_id()).row["connections"] == 3
    assert cluster.owner(first.session_id()).row["edges"] > 0
    for mover, fraction, value in ((everybody[1], 0.9, 1.6), (everybody[2], 0.2, -1.2), (first, 0.5, 0)):
        mover.drag_slider("offset", fraction)
        for tab in everybody:
            tab.wait_for_value("offset", "value", value)
    # Looked at together: the page that moved the slider may be the last to get the new wave.
    wait_until(lambda: len({tuple(tab.column("wave", "y")) for tab in everybody}) == 1, 20, "the waves differ")


def test_a_document_embedded_by_url_works_through_the_proxy(cluster: Cluster, site: Site, tabs: BrowserTabs) -> None:
    """`server_document` on another origin: script, document and websocket may each come from another node."""
    for number in range(2):
        page = site.publish(f"document{number}", server_document(cluster.app_url("/sliders")))
        move_and_see(tabs(page), 0.8)


def test_a_session_that_was_changed_first_is_what_is_embedded(cluster: Cluster, site: Site, tabs: BrowserTabs) -> None:
    """`pull_session`, a new title, `server_session` on another origin: the page shows the new title."""

    def changed_session(title: str) -> str:
        with pull_session(url=cluster.app_url("/sliders")) as session:
            plot = session.document.select_one({"type": Plot})
            assert isinstance(plot, Plot)
            assert isinstance(plot.title, Title)
            plot.title.text = title
            session.force_roundtrip()
            script: str = server_session(None, session.id, url=cluster.app_url("/sliders"))
            return script

    for number in range(3):
        title = f"Changed {number}"
        page = site.publish(f"session{number}", run_aside(functools.partial(changed_session, title)))
        tab = tabs(page)
        assert tab.page.evaluate(PLOT_TITLE) == title
        move_and_see(tab, 0.85)


def test_tabs_on_both_nodes_go_on_after_the_owner_was_killed(cluster: Cluster, tabs: BrowserTabs) -> None:
    """They come back by themselves to one session, and follow each other as before."""
    first = tabs(cluster.app_url("/sliders"))
    session_id = first.session_id()
    second = tabs(f"{cluster.app_url('/sliders')}?bokeh-session-id={session_id}")
    owner = cluster.owner(session_id)
    for tab in (first, second):
        tab.page.evaluate("() => { Bokeh.documents[0].roots()[0].__before = true; }")
    owner.node.kill(owner.pid)
    for tab in (first, second):
        tab.wait_for("() => { const [root] = Bokeh.documents[0].roots(); return root != null && !root.__before; }")
        tab.wait_for("() => Bokeh.index.find_one(Bokeh.documents[0].get_model_by_name('plot'))?.is_idle === true")
    move_and_see(first, 0.75)
    second.wait_for_value("amplitude", "value", first.value("amplitude", "value"))
    assert cluster.owner(session_id).epoch > owner.epoch
