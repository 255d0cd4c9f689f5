"""What apps throw away does not pile up, however busy the worker is."""

from __future__ import annotations

import asyncio

from support.node import Node
from support.patience import run
from support.wire import Viewer, page_token

ROUNDS = 20


def test_replaced_plots_and_discarded_sessions_go_while_a_tab_is_never_silent() -> None:
    """Neither waits for a quiet moment. Both are cycles, so only a collection of what is old frees them."""

    async def scenario(node: Node) -> None:
        url, ws_url = node.app_url("/rebuilding"), node.ws_url("/rebuilding")
        async with Viewer.open(ws_url, await asyncio.to_thread(page_token, url)) as viewer:
            await viewer.pull()
            made = []
            for value in range(1, ROUNDS + 1):
                await viewer.set("rebuild", "value", value)
                await asyncio.to_thread(page_token, url)  # another session, which is soon unused
                await viewer.set("ask", "value", value)
                made.append(viewer.value("alive", "text"))
            assert max(int(text.split()[0]) for text in made) > 1, "there was nothing to collect"
            value = ROUNDS
            while viewer.value("alive", "text") != "1 1":
                value += 1
                await viewer.set("ask", "value", value)

    with Node("rebuilding.py", options=["--unused-session-lifetime", "300", "--check-unused-sessions", "200"]) as node:
        run(scenario(node))
