"""Components that a script defines anew for each session, where a worker has had several sessions of the app."""

from __future__ import annotations

import json

import pytest
from support.node import StockNode
from support.panel_counts import page_open
from support.panel_features import PANELS, PanelNode, StockPanelNode
from support.patience import run
from support.wire import Viewer, objects_named, page_token

COMPONENTS = PANELS / "components.py"
APP = "/components"
SESSIONS = 3


def test_a_session_with_components_goes_on_where_fewer_were_made_before() -> None:
    """And keeps what its components show: Panel numbers their models by the sessions of a process."""

    async def scenario(node: PanelNode) -> None:
        token = [page_token(node.app_url(APP)) for _ in range(SESSIONS)][-1]
        async with page_open(node.ws_url(APP), token) as page:
            [pid] = node.worker_pids()
            node.kill(pid)
            await page.pulled.get()
        assert (node.log().count("session restored"), node.log().count("starts afresh")) == (1, 0)

    with PanelNode(COMPONENTS, options=["--num-procs", "1", "--durability", "ack"]) as node:
        run(scenario(node), 120)


def _definitions(node: StockNode) -> list[str]:
    """Classes of components' models that a new page is told of."""

    async def pulled() -> list[str]:
        async with Viewer.open(node.ws_url(APP), page_token(node.app_url(APP))) as viewer:
            reply = await viewer.request("PULL-DOC-REQ", {})
            assert objects_named(reply.content["doc"], "ReactiveESM"), json.dumps(reply.content)
            return [definition["name"] for definition in reply.content["doc"]["defs"]]

    return run(pulled())


@pytest.mark.parametrize(("server", "growth"), [("panel serve", 3), ("aperture panel", 0)])
def test_a_page_is_not_told_of_the_components_of_other_sessions(server: str, growth: int) -> None:
    """On Panel's own server each session's three classes stay for good, and each page after it is longer by them."""
    with (
        StockPanelNode(COMPONENTS)
        if server == "panel serve"
        else PanelNode(COMPONENTS, options=["--num-procs", "1"]) as node
    ):
        first, *_, last = [_definitions(node) for _ in range(SESSIONS)]
        assert len(last) - len(first) == growth * (SESSIONS - 1)
        assert len({*last}) == len(last)
