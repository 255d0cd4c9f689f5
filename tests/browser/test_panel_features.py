"""Panel's features in a real browser: on Panel's own server, on ours with one worker and with three."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.browser import BrowserTabs
from support.node import StockNode
from support.panel_features import FEATURES, FILES, FOR_ALL, Feature, PanelNode, StockPanelNode

KEPT = ["--unused-session-lifetime", "600000", "--check-unused-sessions", "600000"]
"""Stock discards the session of a page that takes long to connect, and the page's changes meet an emptied module."""


@pytest.fixture(scope="module", params=["panel serve", "1 worker", "3 workers"])
def node(request: pytest.FixtureRequest) -> Iterator[StockNode]:
    """All apps on one server."""
    if request.param == "panel serve":
        with StockPanelNode(*FILES, options=KEPT) as stock:
            yield stock
    else:
        with PanelNode(*FILES, options=["--num-procs", request.param.split()[0]]) as node:
            yield node


@pytest.mark.parametrize("feature", FEATURES, ids=lambda feature: feature.app)
def test_every_feature_works(node: StockNode, tabs: BrowserTabs, feature: Feature) -> None:
    """And the page complains of nothing."""
    tabs.add_cookie(name="flavour", value="sweet", url=node.url)
    tab = tabs(node.app_url(feature.route))
    feature.use(tab)
    tab.overlook(*feature.elsewhere, *FOR_ALL)
