"""A page that was open for longer than its token is good for, and whose worker dies: it goes on as if nothing had been.

No page may show an error: the `tabs` fixture fails on any in the console.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial

import pytest
from support.browser import BrowserTabs, Tab
from support.fetch import fetch
from support.node import Node
from support.patience import wait_until

EXPIRATION = 3
"""Seconds; what a token says is whole seconds, so one more makes sure."""

POINTS = 100_000
WRITTEN = 0.5
"""Seconds after which a change has been written down, which a page shows nowhere."""


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    options = ["--num-procs", "2", "--session-token-expiration", str(EXPIRATION), "--durability", "ack"]
    with Node("arrays.py", "own_models.py", "relayed.py", options=options) as node:
        yield node


def settled_value(tab: Tab, apps_value: str) -> int:
    """What the slider says when its callback has followed it."""
    tab.wait_for(apps_value)
    value: int = tab.value("slider", "value")
    return value


def kill_owner(node: Node, tab: Tab) -> None:
    mine = next(row for row in node.sessions() if tab.session_id().startswith(row["id"]))
    node.kill(mine["pid"])


def move_elsewhere(node: Node, tab: Tab) -> None:
    mine = next(row for row in node.sessions() if tab.session_id().startswith(row["id"]))
    # What was acknowledged may not be written down yet: then it is refused, and asked for again.
    url = f"{node.admin_url}/sessions/{mine['id']}/move"
    wait_until(lambda: fetch(url, "POST", {"X-Aperture": "1"}).status == 200, 20, "the session is not moved")


def mark_document(tab: Tab) -> None:
    """Remember the present roots; a re-pull replaces them."""
    tab.page.evaluate("() => { Bokeh.documents[0].roots()[0].__before = true; }")


def wait_for_new_document(tab: Tab) -> None:
    """Wait until a re-pull has replaced the roots, and the new ones are drawn."""
    tab.wait_for("() => { const [root] = Bokeh.documents[0].roots(); return root != null && !root.__before; }")
    tab.wait_for("() => Bokeh.index.find_one(Bokeh.documents[0].get_model_by_name('plot'))?.is_idle === true")


def outlive_the_token() -> None:
    time.sleep(EXPIRATION + 1)


def looks_like(tab: Tab, picture: object) -> bool:
    """Whether the page's plot is this picture."""
    return bool(tab.picture("plot") == picture)


def test_a_page_older_than_its_token_goes_on_after_its_worker_was_killed(node: Node, tabs: BrowserTabs) -> None:
    """The slider and the plot are what they were, and moving it moves the plot. Twice."""
    followed = """() => { const [d] = Bokeh.documents, v = d.get_model_by_name('slider').value;
      return d.get_model_by_name('seen').text === String(v) && d.get_model_by_name('source').data.y[1] === v; }"""
    tab = tabs(node.app_url("/relayed"))
    outlive_the_token()
    value = 0
    for fraction in (0.5, 0.8):
        tab.drag_slider("slider", fraction)
        value = settled_value(tab, followed)
        time.sleep(WRITTEN)
        picture = tab.picture("plot")
        mark_document(tab)
        kill_owner(node, tab)
        wait_for_new_document(tab)
        assert tab.value("slider", "value") == value > 0
        assert tab.value("seen", "text") == str(value)
        assert tab.column("source", "y") == [0, value]
        wait_until(partial(looks_like, tab, picture), 20, "the plot looks different")
    tab.drag_slider("slider", 0.2)
    assert settled_value(tab, followed) < value


def test_a_large_array_is_there_again_after_its_worker_was_killed(node: Node, tabs: BrowserTabs) -> None:
    """100,000 points of numpy, scaled by the slider before, come back to the page as they were."""
    # Compared in the page: to fetch the column each time takes seconds.
    scaled = """() => { const [d] = Bokeh.documents, by = d.get_model_by_name('slider').value;
      const {y} = d.get_model_by_name('source').data;
      return y.length === window.__original.length && y.every((v, i) => v === by * window.__original[i]); }"""
    tab = tabs(node.app_url(f"/arrays?points={POINTS}"))
    tab.page.evaluate(
        "() => { window.__original = Float64Array.from(Bokeh.documents[0].get_model_by_name('source').data.y); }"
    )
    assert tab.page.evaluate("() => window.__original.length") == POINTS
    outlive_the_token()
    tab.drag_slider("slider", 0.5)
    tab.wait_for_value("slider", "value", 5)
    tab.wait_for(scaled)
    time.sleep(WRITTEN)
    picture = tab.picture("plot")
    mark_document(tab)
    kill_owner(node, tab)
    wait_for_new_document(tab)
    assert tab.value("slider", "value") == 5
    assert tab.page.evaluate(scaled)
    wait_until(lambda: tab.picture("plot") == picture, 20, "the plot looks different")
    tab.drag_slider("slider", 0.0)
    tab.wait_for("() => Bokeh.documents[0].get_model_by_name('source').data.y.every(y => y === 0)")


@pytest.mark.parametrize("end", [kill_owner, move_elsewhere])
def test_a_script_with_model_classes_of_its_own_goes_on(
    node: Node, tabs: BrowserTabs, end: Callable[[Node, Tab], None]
) -> None:
    """The page knows the classes by the names that they had first, and the models made since are there. Twice."""
    tab = tabs(node.app_url("/own_models"))
    path = ["0"]
    for value in (3, 7):
        path.append(str(value))
        tab.page.evaluate(f"() => {{ Bokeh.documents[0].get_model_by_name('slider').value = {value}; }}")
        tab.wait_for_value("seen", "text", " ".join(path))
        mark_document(tab)
        end(node, tab)
        tab.wait_for("() => { const [root] = Bokeh.documents[0].roots(); return root != null && !root.__before; }")
        assert tab.value("seen", "text") == " ".join(path)
        points = "() => Bokeh.documents[0].get_model_by_name('path').points.map((point) => String(point.x))"
        assert tab.page.evaluate(points) == path
    assert "afresh" not in node.log()
