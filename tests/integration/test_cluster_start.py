"""A node whose Redis is not to be had when it starts: it says why and ends, or waits, as its options say."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
import redis
from support.cluster import session_of, steady_viewer
from support.fetch import fetch
from support.node import Node
from support.patience import run, wait_until
from support.redis import RedisServer, free_port
from support.wire import page_token

from aperture.errors import ExitCode

PASSWORD = "correct-horse"
ALL_SLOTS = 16_384


def outcome(options: Sequence[str]) -> tuple[int, str]:
    """Exit code and log of a node that is expected to end by itself."""
    with Node("relayed.py", options=["--num-procs", "2", *options], wait=False) as node:
        code = node.wait()
    return code, node.log()


def test_a_redis_that_is_down_ends_the_start() -> None:
    """The message names the address and the cause; the exit code is its own; nothing is left running."""
    port = free_port()
    code, log = outcome(["--redis-url", f"redis://127.0.0.1:{port}/0"])
    assert code == ExitCode.NO_BUS
    assert f"cannot connect to Redis at 127.0.0.1:{port}: Connection refused" in log
    assert "Traceback" not in log


def test_a_wrong_password_ends_the_start_and_is_not_logged() -> None:
    """What Redis says about it is in the log, and the password is not."""
    with RedisServer({"requirepass": PASSWORD}, free_port()) as server:
        for options in (
            ["--redis-url", server.url, "--redis-password", "battery-staple"],
            ["--redis-url", server.url.replace("redis://", "redis://:battery-staple@")],
            ["--redis-url", server.url],
        ):
            code, log = outcome(options)
            assert code == ExitCode.NO_BUS
            assert "cannot connect to Redis at 127.0.0.1" in log
            assert any(word in log for word in ("WRONGPASS", "invalid username-password", "Authentication required"))
            assert "battery-staple" not in log
            assert "Traceback" not in log


@pytest.mark.parametrize("slots", [[], range(ALL_SLOTS), range(ALL_SLOTS // 2)], ids=["none", "all", "some"])
def test_a_node_of_a_redis_cluster_ends_the_start(slots: Sequence[int]) -> None:
    """Whichever slots it has, and so whatever it answers: keys of several slots cannot be in one script."""
    with RedisServer({"cluster-enabled": "yes"}, free_port()) as server:
        with redis.Redis.from_url(server.url) as client:
            if slots:
                client.execute_command("CLUSTER", "ADDSLOTSRANGE", slots[0], slots[-1])
            if len(slots) == ALL_SLOTS:
                wait_until(lambda: b"cluster_state:ok" in client.execute_command("CLUSTER", "INFO"))
        code, log = outcome(["--redis-url", server.url])
    assert code == ExitCode.NO_BUS
    assert "a node of a Redis Cluster (" in log
    assert "Traceback" not in log


@pytest.mark.parametrize("url", ["http://127.0.0.1:6379", "redis://127.0.0.1:port/0", "redis+sentinel://127.0.0.1"])
def test_a_wrong_url_is_a_wrong_option(url: str) -> None:
    """It is refused before anything is started, as every option that makes no sense."""
    code, log = outcome(["--redis-url", url])
    assert code == ExitCode.USAGE
    assert "--redis-url" in log
    assert "Traceback" not in log


def test_a_node_told_to_wait_is_unready_until_redis_is_there() -> None:
    """The node stays, its probe says that it is alive and not ready, and with Redis come readiness and sessions."""
    with RedisServer() as server:
        server.kill()
        options = ["--num-procs", "2", "--redis-url", server.url, "--redis-start", "wait"]
        with Node("relayed.py", options=options) as node:
            assert fetch(node.admin_url + "/livez").status == 200
            assert fetch(node.admin_url + "/readyz").status == 503
            assert fetch(node.app_url("/relayed")).status == 503
            server.start()
            wait_until(lambda: fetch(node.admin_url + "/readyz").status == 200, 20, "never ready")

            async def scenario() -> None:
                token = await asyncio.to_thread(page_token, node.app_url("/relayed"))
                async with steady_viewer(node.ws_url("/relayed"), token) as viewer:
                    assert (await viewer.set("slider", "value", 5)).msgtype == "OK"
                    await viewer.wait_for_value("seen", "text", "5")
                assert session_of(token)

            run(scenario())
            assert "Traceback" not in node.log()
