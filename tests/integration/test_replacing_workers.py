"""Workers replaced while the node serves: on request, by age, by size; with the apps' code as it is by then."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from support.node import Node
from support.patience import run, wait_until
from support.redis import RedisServer
from support.wire import ConnectionEnded, Viewer, page_token

SERVICE_RESTART = 1012
APP = """
from bokeh.io import curdoc
from bokeh.models.widgets import Div, Slider
curdoc().add_root(Slider(name="slider", start=0, end=10, value=0))
curdoc().add_root(Div(name="text", text="VERSION"))
"""


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


def _drain(node: Node) -> subprocess.CompletedProcess[str]:
    port = str(urlsplit(node.admin_url).port)
    command = [sys.executable, "-m", "aperture", "drain", "--admin-port", port]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_draining_replaces_every_worker_and_keeps_the_sessions(redis: RedisServer) -> None:
    """A viewer is closed with 1012, comes back with its token, and its slider is where it was."""

    async def scenario(node: Node) -> None:
        before = set(node.worker_pids())
        token = page_token(node.app_url("/broadcast"))
        async with Viewer.open(node.ws_url("/broadcast"), token) as viewer:
            await viewer.pull()
            assert (await viewer.set("slider", "value", 42)).msgtype == "OK"
            assert _drain(node).returncode == 0
            assert await viewer.wait_closed() == SERVICE_RESTART
        value = None
        while value is None:
            try:
                async with Viewer.open(node.ws_url("/broadcast"), token) as viewer:
                    await viewer.pull()
                    value = viewer.value("slider", "value")
            except ConnectionEnded:
                continue  # the worker it came back to was replaced in its turn
        assert value == 42
        wait_until(lambda: len({*node.worker_pids()} - before) == 2, 30, "not every worker was replaced")

    with Node("broadcast.py", options=["--num-procs", "2", "--redis-url", redis.url]) as node:
        run(scenario(node))


def test_replaced_workers_run_the_apps_code_as_it_is_by_then(tmp_path: Path) -> None:
    """Which is what a reload after a deploy is for."""
    app = tmp_path / "versioned.py"
    app.write_text(APP.replace("VERSION", "old"))

    async def shown(node: Node) -> str:
        token = page_token(node.app_url("/versioned"))
        async with Viewer.open(node.ws_url("/versioned"), token) as viewer:
            await viewer.pull()
            text: str = viewer.value("text", "text")
            return text

    with Node(app) as node:
        assert run(shown(node)) == "old"
        before = node.worker_pids()
        app.write_text(APP.replace("VERSION", "new"))
        assert _drain(node).returncode == 0
        wait_until(lambda: node.worker_pids() not in ([], before), 30, "the worker was not replaced")
        assert run(shown(node)) == "new"


@pytest.mark.parametrize("option", [["--max-worker-age", "2"], ["--max-worker-memory", "1000000"]])
def test_a_worker_too_old_or_too_large_is_replaced(option: list[str]) -> None:
    """It says why, and the next one serves."""
    with Node("broadcast.py", options=option) as node:
        before = node.worker_pids()
        node.wait_for_log(r"worker 0 retires after")
        wait_until(lambda: node.worker_pids() not in ([], before), 30, "the worker was not replaced")


def test_draining_nobody_is_a_clear_error() -> None:
    """No node answers there."""
    command = [sys.executable, "-m", "aperture", "drain", "--admin-port", "1"]
    asked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert asked.returncode == 2
    assert "no node answers" in asked.stderr
