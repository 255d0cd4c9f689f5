"""Metrics of running nodes: through the death of a worker, and as a real Prometheus and its tools see them."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse
from support.fetch import fetch
from support.node import Node
from support.patience import run, wait_until
from support.wire import Viewer, page_token

ROOT = Path(__file__).parents[2]
APP = "/counting"
PATIENCE = 30

Shown = dict[str, float]


def tool(name: str) -> str:
    found = shutil.which(name)
    assert found is not None, f"{name} is missing: Debian's package prometheus has it"
    return found


def shown(node: Node) -> Shown:
    """Every sample, as queries write it."""
    return {
        f"{sample.name}{json.dumps(sample.labels, sort_keys=True) if sample.labels else ''}": sample.value
        for family in parse(fetch(f"{node.admin_url}/metrics").text)
        for sample in family.samples
    }


def sessions(node: Node) -> float:
    return shown(node).get(f'aperture_sessions{{"app": "{APP}"}}', 0.0)


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    with Node("counting.py", options=["--num-procs", "2", "--unused-session-lifetime", "600000"]) as running:
        yield running


def visit(node: Node, times: int) -> None:
    for _ in range(times):
        assert fetch(node.app_url(APP)).status == 200


def test_numbers_equal_what_the_other_endpoints_say(node: Node) -> None:
    """`/metrics` and `/sessions` tell of the same sessions."""
    visit(node, 3)
    wait_until(lambda: sessions(node) == len(node.sessions()) > 0, PATIENCE)
    assert shown(node)["aperture_workers_up"] == len(node.workers())


def test_promtool_and_a_strict_parser_accept_it(node: Node) -> None:
    """Both formats are what they say they are."""
    text = fetch(f"{node.admin_url}/metrics").text
    checked = subprocess.run([tool("promtool"), "check", "metrics"], input=text, capture_output=True, text=True)
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")
    answer = fetch(f"{node.admin_url}/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert answer.text.endswith("# EOF\n")
    assert {family.name for family in cast("Any", parse_openmetrics)(answer.text)} >= {
        "aperture_sessions",
        "aperture_patches",
    }


STUCK = """
from bokeh.models.widgets import Slider
from bokeh.plotting import curdoc

def wait_for_somebody(attr, old, new):
    with open({gate!r}) as gate:  # a FIFO: this returns when its other end is opened
        gate.read()

slider = Slider(name="slider", start=0, end=10, value=0)
slider.on_change("value", wait_for_somebody)
curdoc().add_root(slider)
"""


def test_a_worker_that_hangs_is_seen_while_it_hangs(tmp_path: Path) -> None:
    """It cannot say so itself: the lag of its place grows, here and in `/workers`, and is not the other worker's."""
    gate, app = tmp_path / "gate", tmp_path / "stuck.py"
    os.mkfifo(gate)
    app.write_text(STUCK.format(gate=str(gate)))

    def lags(node: Node, worker: int) -> list[float]:
        """What `/metrics` and `/workers` say of it."""
        return [
            shown(node)[f'aperture_event_loop_lag_seconds{{"worker": "{worker}"}}'],
            node.workers()[worker]["event_loop_lag_seconds"],
        ]

    async def scenario(node: Node) -> None:
        token = page_token(node.app_url("/stuck"))
        (row,) = node.sessions()
        async with Viewer.open(node.ws_url("/stuck"), token) as viewer:
            await viewer.pull()
            change = asyncio.ensure_future(viewer.set("slider", "value", 5))
            await asyncio.to_thread(wait_until, lambda: min(lags(node, row["worker"])) > 1, PATIENCE)
            before = lags(node, row["worker"])
            await asyncio.to_thread(wait_until, lambda: lags(node, row["worker"]) > before, PATIENCE)
            assert max(lags(node, 1 - row["worker"])) < min(lags(node, row["worker"]))
            assert not change.done()
            await asyncio.to_thread(gate.write_text, "go on")
            assert (await change).msgtype == "OK"

    with Node(app, options=["--num-procs", "2"]) as node:
        run(scenario(node))


def test_a_killed_worker_takes_no_counter_back(node: Node) -> None:
    """Its sessions are gone from the gauges at once, its restart is counted, and what it has counted stays."""
    visit(node, 4)
    created = f'aperture_session_create_seconds_count{{"app": "{APP}"}}'
    wait_until(lambda: shown(node)[created] >= 4 and sessions(node) == len(node.sessions()), PATIENCE)
    before = shown(node)
    victim = node.workers()[0]
    assert victim["sessions"] > 0
    node.kill(victim["pid"])
    wait_until(lambda: shown(node)["aperture_worker_restarts_total"] == 1, PATIENCE)
    wait_until(lambda: shown(node)["aperture_workers_up"] == 2, PATIENCE)
    after = shown(node)
    assert after["aperture_worker_failures_total"] == 1
    assert sessions(node) == before[f'aperture_sessions{{"app": "{APP}"}}'] - victim["sessions"]
    counters = {name for name in before if "_total" in name or "_count" in name or "_bucket" in name}
    assert {name for name in counters if after[name] < before[name]} == set()
    visit(node, 1)
    wait_until(lambda: shown(node)[created] == before[created] + 1, PATIENCE)


def test_a_killed_gateway_goes_on_counting(node: Node) -> None:
    """Its successor answers for the node, with the same counters."""
    handed_over = 'aperture_gateway_connections_total{"outcome": "handed_over"}'
    visit(node, 1)
    before = shown(node)[handed_over]
    node.kill(node.gateway_pid())
    wait_until(lambda: shown(node).get("aperture_gateway_restarts_total") == 1, PATIENCE)
    assert shown(node)[handed_over] >= before


def test_a_real_prometheus_scrapes_the_node(node: Node, tmp_path: Path) -> None:
    """Debian's Prometheus, with the rules that we ship, has the target up and answers a query right."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    shutil.copy(ROOT / "deploy" / "prometheus" / "rules.yml", tmp_path)
    target = node.admin_url.removeprefix("http://")
    (tmp_path / "prometheus.yml").write_text(
        "global: {scrape_interval: 1s, evaluation_interval: 1s}\n"
        "rule_files: [rules.yml]\n"
        f"scrape_configs: [{{job_name: aperture, static_configs: [{{targets: ['{target}']}}]}}]\n"
    )
    with (tmp_path / "log").open("wb") as log:
        prometheus = subprocess.Popen(
            [
                tool("prometheus"),
                f"--config.file={tmp_path}/prometheus.yml",
                f"--storage.tsdb.path={tmp_path}/storage",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=log,
            stderr=log,
        )

    def query(expression: str) -> float | None:
        try:
            answer = fetch(f"http://127.0.0.1:{port}/api/v1/query?query={quote(expression)}")
        except OSError:
            return None
        result = answer.json()["data"]["result"] if answer.status == 200 else []
        return float(result[0]["value"][1]) if result else None

    try:
        wait_until(lambda: query('up{job="aperture"}') == 1, PATIENCE, (tmp_path / "log").read_text())
        wait_until(lambda: query("sum(aperture_sessions)") == len(node.sessions()), PATIENCE)
        assert query("sum(aperture_workers_up)") == 2
    finally:
        prometheus.kill()
        prometheus.wait()


def test_the_rules_pass_their_own_tests() -> None:
    """Each alert fires when it should, and not before."""
    folder = ROOT / "deploy" / "prometheus"
    tested = subprocess.run(
        [tool("promtool"), "test", "rules", "rules_test.yml"], cwd=folder, capture_output=True, text=True
    )
    assert tested.returncode == 0, tested.stdout + tested.stderr


def test_metrics_can_be_turned_off_and_leave_nothing(tmp_path: Path) -> None:
    """Nothing is counted, nothing is written, and the answer says so."""
    options = ["--disable-metrics"]
    with Node("counting.py", options=options, env={"TMPDIR": str(tmp_path)}) as quiet:
        answer = fetch(f"{quiet.admin_url}/metrics")
        assert (answer.status, "metrics are off" in answer.text) == (404, True)
        assert not list(tmp_path.glob("aperture-metrics-*"))


def test_a_node_removes_its_numbers_and_those_of_a_killed_one(tmp_path: Path) -> None:
    """Where neither the supervisor nor the gateway can clean up any more, the next node on the machine does."""
    env = {"TMPDIR": str(tmp_path)}
    with Node("counting.py", env=env) as killed:
        gateway = killed.gateway_pid()
        killed.kill(gateway, signal.SIGSTOP)
        killed.kill(killed.pid)
        killed.wait()
        killed.kill(gateway)
        wait_until(lambda: not killed.processes(), PATIENCE)
        assert len(list(tmp_path.glob("aperture-metrics-*"))) == 1
    with Node("counting.py", env=env):
        assert len(list(tmp_path.glob("aperture-metrics-*"))) == 1
    assert not list(tmp_path.glob("aperture-metrics-*"))
