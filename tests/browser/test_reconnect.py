"""A page whose websocket is lost comes back by itself, with everything that it showed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.browser import BrowserTabs, Tab
from support.node import Node

POINTS = 100_000


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    """Ours on two workers, so that a reconnect can land on the wrong one."""
    with Node("arrays.py", options=["--num-procs", "2"]) as node:
        yield node


def mark_document(tab: Tab) -> None:
    """Remember the present roots; a re-pull replaces them."""
    tab.page.evaluate("() => { Bokeh.documents[0].roots()[0].__before = true; }")


def wait_for_new_document(tab: Tab) -> None:
    """Wait until a re-pull has replaced the roots, and the new ones are drawn."""
    tab.wait_for("() => { const [root] = Bokeh.documents[0].roots(); return root != null && !root.__before; }")
    tab.wait_for("() => Bokeh.index.find_one(Bokeh.documents[0].get_model_by_name('plot'))?.is_idle === true")


def test_a_page_pulls_large_arrays_again_after_a_dropped_websocket(node: Node, tabs: BrowserTabs) -> None:
    """The binary columns of a 100,000-point source come back whole, and the session that changed before goes on."""
    tab = tabs(node.app_url(f"/arrays?points={POINTS}"))
    original = tab.column("source", "y")
    assert len(original) == POINTS
    tab.drag_slider("slider", 0.5)
    changed = tab.wait_for_column("source", "y", original)
    value = tab.value("slider", "value")
    mark_document(tab)
    tab.drop_websocket()
    wait_for_new_document(tab)
    assert tab.value("slider", "value") == value
    assert tab.column("source", "y") == [value * y for y in original]
    assert len(changed) == POINTS
    tab.drag_slider("slider", 0.0)
    tab.wait_for("() => Bokeh.documents[0].get_model_by_name('source').data.y.every(y => y === 0)")


def test_a_page_survives_several_drops(node: Node, tabs: BrowserTabs) -> None:
    """Each reconnect starts from a clean state, so the fifth works like the first."""
    tab = tabs(node.app_url("/arrays"))
    for fraction in (0.2, 0.4, 0.6, 0.8, 1.0):
        mark_document(tab)
        tab.drop_websocket()
        wait_for_new_document(tab)
        before = tab.column("source", "y")
        tab.drag_slider("slider", fraction)
        tab.wait_for_column("source", "y", before)


def test_a_page_comes_back_after_its_worker_was_killed(node: Node, tabs: BrowserTabs) -> None:
    """Another worker takes the session over, and the page works again without being reloaded."""
    tab = tabs(node.app_url("/arrays"))
    mine = next(row for row in node.sessions() if tab.session_id().startswith(row["id"]))
    mark_document(tab)
    node.kill(mine["pid"])
    wait_for_new_document(tab)
    before = tab.column("source", "y")
    tab.drag_slider("slider", 0.7)
    tab.wait_for_column("source", "y", before)
