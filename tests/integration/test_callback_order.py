"""Next-tick callbacks run in the order in which they were added, from whatever code, wherever their viewers are."""

from __future__ import annotations

import pytest
from support.cluster import PLACEMENTS, placed
from support.patience import run
from support.wire import Viewer, page_token

APP = "/ticks"
IN_ORDER = " ".join(map(str, range(60)))


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_next_ticks_run_in_the_order_in_which_they_were_added(placement: str) -> None:
    """By the app's code, by a thread that it has started, by a callback, and by a thread of that."""

    async def scenario(url: str, token: str) -> None:
        async with Viewer.open(url, token) as viewer:
            await viewer.pull()
            for name in ("code", "early"):
                await viewer.wait_for_value(name, "text", IN_ORDER)
            assert (await viewer.set("start", "value", 1)).msgtype == "OK"
            for name in ("callback", "late"):
                await viewer.wait_for_value(name, "text", IN_ORDER)

    with placed(placement, "ticks.py") as (made, visited):
        run(scenario(visited.ws_url(APP), page_token(made.app_url(APP))))
        assert "Traceback" not in made.log() + visited.log()
