"""With logins, a session that outlived its worker goes on for the user whose it was, and for no other."""

from __future__ import annotations

import asyncio

import pytest
from support.fetch import fetch
from support.node import Node, app_path
from support.patience import run
from support.redis import RedisServer
from support.wire import ConnectionEnded, Viewer, page_token

from aperture.protocol.tokens import read_session_id

POLICY_VIOLATION = 1008
ALICE, BOB = {"Cookie": "user=alice"}, {"Cookie": "user=bob"}


def test_only_its_own_user_resumes_a_session() -> None:
    """Bob has Alice's token; he is refused by page and websocket, and she finds her slider as it was."""

    async def scenario(node: Node) -> None:
        page, wire = node.app_url("/broadcast"), node.ws_url("/broadcast")
        token = page_token(page, ALICE)
        async with Viewer.open(wire, token, ALICE) as viewer:
            await viewer.pull()
            assert (await viewer.set("slider", "value", 42)).msgtype == "OK"
            node.kill(node.sessions()[0]["pid"])
            with pytest.raises(ConnectionEnded):
                await viewer.next_message()
        with pytest.raises(ConnectionEnded) as refused:
            async with Viewer.open(wire, token, BOB):
                raise AssertionError("Bob was let in")
        assert refused.value.code == POLICY_VIOLATION
        answer = await asyncio.to_thread(fetch, f"{page}?bokeh-session-id={read_session_id(token)}", headers=BOB)
        assert answer.status == 403
        async with Viewer.open(wire, token, ALICE) as viewer:
            await viewer.pull()
            assert viewer.value("slider", "value") == 42

    with RedisServer() as redis:
        options = ["--num-procs", "2", "--redis-url", redis.url, "--durability", "ack"]
        options += ["--auth-module", app_path("auth.py")]
        with Node("broadcast.py", options=options) as node:
            run(scenario(node))
