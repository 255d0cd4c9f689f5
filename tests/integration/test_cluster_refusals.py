"""A Redis that answers and takes nothing: a primary become a replica, one without its own replicas, one that another
program's script keeps busy."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import redis
from support.cluster import steady_viewer
from support.fetch import fetch
from support.node import Node
from support.patience import run, wait_until
from support.redis import RedisServer
from support.wire import page_token

APP = "/relayed"
MOVES = 20


def keep_busy(client: redis.Redis) -> None:
    """A script that does not end, of another program."""
    client.config_set("busy-reply-threshold", 50)
    other: Any = client.connection_pool.make_connection()
    other.send_command("EVAL", "while true do end", "0")


REFUSALS: dict[str, tuple[Callable[[redis.Redis], object], Callable[[redis.Redis], object]]] = {
    "READONLY": (lambda client: client.replicaof("127.0.0.1", 1), lambda client: client.replicaof("NO", "ONE")),
    "NOREPLICAS": (
        lambda client: client.config_set("min-replicas-to-write", 1),
        lambda client: client.config_set("min-replicas-to-write", 0),
    ),
    "BUSY": (keep_busy, lambda client: client.script_kill()),
}


@pytest.mark.parametrize("durability", ["none", "async"])
@pytest.mark.parametrize("code", REFUSALS)
def test_a_redis_that_takes_no_writes_is_as_good_as_away(code: str, durability: str) -> None:
    """Who has a session goes on with it; pages are put off with 503 and not 500; what fails is said once, and why."""
    refuse, relent = REFUSALS[code]

    async def scenario(node: Node, client: redis.Redis) -> None:
        url = node.app_url(APP)
        async with steady_viewer(node.ws_url(APP), await asyncio.to_thread(page_token, url)) as viewer:
            refuse(client)
            await asyncio.to_thread(node.wait_for_log, rf"cannot connect to Redis at \S+: Redis refuses \({code}\)", 2)
            for value in range(MOVES):
                assert (await viewer.set("slider", "value", value)).msgtype == "OK"
                assert (await asyncio.to_thread(fetch, url)).status == 503
            await asyncio.to_thread(wait_until, lambda: fetch(f"{node.admin_url}/readyz").status == 503, 20)
            relent(client)
            await asyncio.to_thread(wait_until, lambda: fetch(url).status == 200, 20, "pages are still refused")
            assert (await viewer.set("slider", "value", 99)).msgtype == "OK"

    with RedisServer() as server:
        options = ["--num-procs", "1", "--redis-url", server.url, "--durability", durability, "--log-format", "human"]
        with (
            Node("relayed.py", options=options) as node,
            redis.Redis(unix_socket_path=str(server.socket_path)) as client,
        ):
            run(scenario(node, client))
            log = node.log()
    assert "Traceback" not in log
    # Of each of the two ways to Redis, the worker's and its lease's, the loss, the first failure, and the return; of a
    # busy Redis the same of their subscriptions, which others do not refuse.
    said = [line for line in log.splitlines() if "Redis" in line and " GET /" not in line]
    assert 4 <= len(said) <= (12 if code == "BUSY" else 6), log


def test_a_node_starts_whatever_its_login_may_not_do() -> None:
    """What it lacks is said, and what it does not need for serving keeps it from nothing."""
    with RedisServer() as server, redis.Redis(unix_socket_path=str(server.socket_path)) as client:
        client.execute_command("ACL", "SETUSER", "default", "-zrange")
        with Node("relayed.py", options=["--num-procs", "1", "--redis-url", server.url]) as node:
            node.wait_for_log(r"not in the registry yet: Redis refuses \(NOPERM\)")
            assert fetch(node.app_url(APP)).status == 200
            assert "Traceback" not in node.log()
