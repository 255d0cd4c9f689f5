"""A Redis without memory left (`maxmemory`, `noeviction`): no new sessions, which `/readyz` says, and what lives goes
on."""

from __future__ import annotations

import asyncio
import re

import pytest
import redis
from support.cluster import steady_viewer
from support.fetch import fetch
from support.node import Node
from support.patience import run, wait_until
from support.redis import RedisServer, bus_on, fresh_namespace
from support.wire import page_token

from aperture.bus.names import Names
from aperture.registry.members import WorkerName
from aperture.registry.registry import Registry

APP = "/relayed"


def readiness(node: Node) -> tuple[int, str]:
    answer = fetch(f"{node.admin_url}/readyz?verbose")
    return answer.status, answer.text


def full(node: Node) -> float | None:
    """What the alert looks at."""
    found = re.search(r"^aperture_bus_full (\S+)$", fetch(f"{node.admin_url}/metrics").text, re.MULTILINE)
    return None if found is None else float(found[1])


@pytest.mark.parametrize("workers", [1, 2])
def test_a_node_whose_redis_is_full_is_not_ready(workers: int) -> None:
    """It says why; no page has to be asked for first. Pages of sessions that live, and their websockets, go on."""

    async def scenario(node: Node, client: redis.Redis) -> None:
        url = node.app_url(APP)
        token = await asyncio.to_thread(page_token, url)
        async with steady_viewer(node.ws_url(APP), token) as viewer:
            assert readiness(node)[0] == 200
            assert full(node) == 0
            client.config_set("maxmemory", 1)
            await asyncio.to_thread(wait_until, lambda: readiness(node)[0] == 503, 20, "the node counts as ready")
            wanted = ", ".join(map(str, range(workers)))
            line = f"[-] bus-memory: Redis is full (maxmemory): worker {wanted} can take no new sessions"
            await asyncio.to_thread(wait_until, lambda: line in readiness(node)[1])
            assert "[+] bus\n" in readiness(node)[1]
            await asyncio.to_thread(wait_until, lambda: full(node) == 1, 20, "no alert would come")
            assert (await asyncio.to_thread(fetch, url)).status == 503
            for value in range(20):
                assert (await viewer.set("slider", "value", value)).msgtype == "OK"
                assert (await asyncio.to_thread(fetch, f"{url}?bokeh-token={token}")).status == 200
            async with steady_viewer(node.ws_url(APP), token) as another:
                assert another.value("slider", "value") == 19
            client.config_set("maxmemory", 0)
            await asyncio.to_thread(wait_until, lambda: readiness(node)[0] == 200, 20, "the node is still not ready")
            assert (await asyncio.to_thread(fetch, url)).status == 200
            await asyncio.to_thread(wait_until, lambda: full(node) == 0, 20, "an alert would stay")

    with RedisServer() as server:
        options = ["--num-procs", str(workers), "--redis-url", server.url, "--log-format", "human"]
        with (
            Node("relayed.py", options=options) as node,
            redis.Redis(unix_socket_path=str(server.socket_path)) as client,
        ):
            run(scenario(node, client))
            log = node.log()
    assert "Traceback" not in log
    assert log.count("no new sessions here until it has room") == workers
    assert log.count("Redis has room for new sessions again") == workers


@pytest.mark.parametrize("workers", [1, 2])
def test_a_node_whose_keys_hold_something_else_is_not_ready(workers: int) -> None:
    """Somebody has written where the workers' leases are: no page can be made, and `/readyz` says it before one is."""
    leases = Names().workers
    with RedisServer() as server:
        options = ["--num-procs", str(workers), "--redis-url", server.url, "--log-format", "human"]
        with (
            Node("relayed.py", options=options) as node,
            redis.Redis(unix_socket_path=str(server.socket_path)) as client,
        ):
            assert readiness(node)[0] == 200
            client.set(leases, "a hand was here")
            wait_until(lambda: readiness(node)[0] == 503, 20, "the node counts as ready")
            wanted = ", ".join(map(str, range(workers)))
            wait_until(lambda: f"[-] heartbeat: that of worker {wanted} fails" in readiness(node)[1], 20)
            assert fetch(node.app_url(APP)).status == 503
            client.delete(leases)
            wait_until(lambda: readiness(node)[0] == 200, 20, "the node is still not ready")
            assert fetch(node.app_url(APP)).status == 200
            log = node.log()
    assert log.count("the heartbeat failed") == log.count("the heartbeat goes on") == workers


def test_a_full_redis_takes_nobodys_lease() -> None:
    """Even where it was paused and no heartbeat came for a lease: a renewal needs no memory of its own."""

    async def scenario(url: str) -> None:
        async with bus_on(url, fresh_namespace()) as bus:
            one, two = (Registry(bus, WorkerName("node", index, "n")) for index in range(2))
            for worker in (one, two):
                await worker.renew({})
            for worker in (one, two):
                await bus.command("ZADD", bus.names.workers, 1_000_000, worker.me)
            await bus.command("CONFIG", "SET", "maxmemory", "1")
            await two.renew({})
            assert await two.living([one.me, two.me]) == {one.me, two.me}
            await two.look_for_room()
            assert two.full
            await bus.command("CONFIG", "SET", "maxmemory", "0")
            await two.look_for_room()
            assert not two.full

    with RedisServer() as server:
        run(scenario(server.url))


def test_a_refused_claim_is_noticed_before_the_next_heartbeat() -> None:
    """And only a heartbeat takes it back: near the limit some claims succeed and some do not."""

    async def scenario(url: str) -> None:
        async with bus_on(url, fresh_namespace()) as bus:
            registry = Registry(bus, WorkerName("node", 0, "n"))
            await registry.renew({})
            await bus.command("CONFIG", "SET", "maxmemory", "1")
            with pytest.raises(Exception, match="full"):
                await registry.claim("one", fresh=True)
            assert registry.full
            await bus.command("CONFIG", "SET", "maxmemory", "0")
            assert (await registry.claim("two", fresh=True)).mine
            assert registry.full

    with RedisServer() as server:
        run(scenario(server.url))
