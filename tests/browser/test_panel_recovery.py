"""Pages of Panel apps whose worker was killed: they come back, show what they showed, and answer."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from support.browser import BrowserTabs, Tab
from support.panel_features import FEATURES, FILES, FOR_ALL, Feature, PanelNode

WRITTEN = 0.5
"""Seconds after which a change has been written down, which a page shows nowhere."""


@pytest.fixture(scope="module", params=["1", "3"], ids=["1 worker", "3 workers"])
def node(request: pytest.FixtureRequest) -> Iterator[PanelNode]:
    with PanelNode(*FILES, options=["--num-procs", request.param, "--durability", "async"]) as node:
        yield node


def kill_owner(node: PanelNode, tab: Tab) -> None:
    mine = next(row for row in node.sessions() if tab.session_id().startswith(row["id"]))
    tab.page.evaluate("() => { for (const root of Bokeh.documents[0].roots()) root.__before = true; }")
    node.kill(mine["pid"])
    tab.wait_for("() => { const roots = Bokeh.documents[0].roots(); return roots.length && !roots[0].__before; }")


@pytest.mark.parametrize("feature", FEATURES, ids=lambda feature: feature.app)
def test_a_page_is_back_after_its_worker_was_killed(node: PanelNode, tabs: BrowserTabs, feature: Feature) -> None:
    """Without an error in the page."""
    tabs.add_cookie(name="flavour", value="sweet", url=node.url)
    tab = tabs(node.app_url(feature.route))
    feature.use(tab)
    afresh = node.log().count("afresh")
    time.sleep(WRITTEN)
    kill_owner(node, tab)
    feature.again(tab)
    tab.overlook(*feature.elsewhere, *FOR_ALL)
    assert node.log().count("afresh") == afresh + feature.afresh
