"""A worker keeps its sessions for as long as it lives, however busy it is with app code."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from support.node import Node
from support.patience import run
from support.redis import RedisServer
from support.wire import Viewer, page_token

LEASE = 1
"""The least that there is."""
ASKED = 11
"""Seconds after which the session is asked for elsewhere: what a dead worker leaves behind goes after ten leases."""
BUSY = 13


@pytest.fixture
def nodes() -> Iterator[tuple[Node, Node]]:
    with RedisServer() as redis:
        options = ["--redis-url", redis.url, "--lease", str(LEASE)]
        with Node("sleeping.py", options=options) as one, Node("sleeping.py", options=options) as other:
            yield one, other


def test_app_code_that_blocks_for_longer_than_the_lease_loses_no_session(nodes: tuple[Node, Node]) -> None:
    """A viewer who comes through the other node meanwhile waits for the busy owner, and sees what it did."""
    one, other = nodes

    async def scenario() -> None:
        token = page_token(one.app_url("/sleeping"))
        async with Viewer.open(one.ws_url("/sleeping"), token) as first:
            await first.pull()
            working = asyncio.create_task(first.set("slider", "value", BUSY))
            await asyncio.sleep(ASKED)  # what is to be shown is that time alone, spent in app code, costs nothing
            async with Viewer.open(other.ws_url("/sleeping"), token) as second:
                await second.pull()
                assert second.value("seen", "text") == f"slept {BUSY}"
            assert (await working).msgtype == "OK"
            assert len(one.sessions()) == 1
            assert other.sessions() == []

    run(scenario())
