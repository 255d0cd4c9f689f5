"""Messages that ask for far more work than they are long: refused wherever the session is, and others are served."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from support.cluster import PLACEMENTS, placed
from support.node import Node
from support.patience import run
from support.wire import Viewer, page_token

APP = "/relayed"

TOO_BIG = 1009


@pytest.fixture(scope="module", params=PLACEMENTS)
def nodes(request: pytest.FixtureRequest) -> Iterator[tuple[Node, Node]]:
    """Where pages are made, and where their viewers connect."""
    with placed(request.param, "relayed.py") as nodes:
        yield nodes


def change(viewer: Viewer, new: list[Any]) -> list[dict[str, Any]]:
    return [{"kind": "ModelChanged", "model": {"id": viewer.model("seen").id}, "attr": "tags", "new": new}]


def test_twenty_thousand_plots_by_name_cost_their_sender_the_connection(nodes: tuple[Node, Node]) -> None:
    """In 900 KB; the other viewer of the session goes on."""
    made, visited = nodes

    async def scenario() -> None:
        token = page_token(made.app_url(APP))
        url = visited.ws_url(APP)
        async with Viewer.open(url, token) as bad, Viewer.open(url, token) as good:
            await bad.pull()
            await good.pull()
            plots = [{"type": "object", "name": "Figure", "id": f"n{number}"} for number in range(20_000)]
            await bad.send_patch(change(bad, plots))
            assert await bad.wait_closed() == TOO_BIG
            assert (await good.set("slider", "value", 2)).msgtype == "OK"

    run(scenario())
    owner = made if "broke the protocol" in made.log() else visited
    assert owner.log().count("broke the protocol: too many models") == 1


def test_a_chain_of_models_over_messages_is_refused_while_others_can_still_pull(nodes: tuple[Node, Node]) -> None:
    """Each message is flat, and nests what the one before it has made."""
    made, visited = nodes

    async def scenario() -> None:
        token = page_token(made.app_url(APP))
        url = visited.ws_url(APP)
        async with Viewer.open(url, token) as bad:
            await bad.pull()
            inside: list[Any] = []
            for number in range(150):
                model = {"type": "object", "name": "Div", "id": f"n{number}", "attributes": {"tags": inside}}
                if (await bad.patch(change(bad, [model]))).msgtype == "ERROR":
                    break
                inside = [{"id": f"n{number}"}]
            else:
                raise AssertionError("there is no bound")
            assert number > 20
            async with Viewer.open(url, token) as other:
                await other.pull()
                assert other.value("slider", "value") == 0

    run(scenario())
