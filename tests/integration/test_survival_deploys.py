"""A deploy under load: nodes stopped and started one after the other, workers replaced one by one, and nothing lost.

Durability is `async` here: what is handed over in good order must not lose even the last moment.
`SURVIVAL_FULL=1` runs the full numbers.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.cluster import Cluster
from support.node import Node
from support.patience import run, seconds, wait_until
from support.survivor import Figures, under_load

FULL = bool(os.environ.get("SURVIVAL_FULL"))
SESSIONS = 100 if FULL else 16
SHOWN = 8
"""Characters of a session's id that the log shows."""
BETWEEN = 2.0
"""Seconds between two parts of a deploy, in which every page must be able to come back."""

APP = "/relayed"


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    options = ["--durability", "async"]
    with Cluster("relayed.py", options=options, env={"APP_RUNS": str(tmp_path / "runs")}) as cluster:
        yield cluster


def restart(node: Node) -> str:
    """Stop a node as an orchestrator does, and start its successor at the same address.

    Returns:
        The log of the one that was stopped.
    """
    assert node.stop() == 0
    return node.start_again(workers=2)


def runs_of(path: Path) -> Counter[str]:
    """How often the app's code ran for each session."""
    return Counter(line.split()[1] for line in path.read_text().splitlines())


def rebuilds_in(log: str) -> Counter[str]:
    """How often each session was rebuilt elsewhere, by what the log shows of its id."""
    return Counter(re.findall(r"session (?:restored|remade from its values): (\w+)", log))


def assert_nothing_lost(log: str, figures: Figures, sessions: set[str], runs: Counter[str]) -> None:
    assert figures.lost == []
    assert len(figures.back_after) >= SESSIONS / 2, "hardly a session was moved"
    assert set(runs) == sessions, "the app's code ran for another session"
    rebuilds = rebuilds_in(log)
    assert sum(rebuilds.values()) >= SESSIONS / 2
    for session_id in sessions:
        assert runs[session_id] == 1 + rebuilds[session_id[:SHOWN]], "the app's code ran for something else"
    assert "starts afresh" not in log
    assert "not written down in time" not in log


def test_a_rolling_restart_of_the_nodes_loses_nothing(cluster: Cluster, tmp_path: Path) -> None:
    """SIGTERM to one node after the other, behind a proxy that takes turns."""

    ended: list[str] = []

    async def deploy(figures: Figures) -> None:
        for node in cluster.nodes:
            figures.kills.append(time.monotonic())
            ended.append(await asyncio.to_thread(restart, node))
            await asyncio.sleep(seconds(BETWEEN))

    figures, sessions = run(under_load(cluster.app_url(APP), SESSIONS, deploy), 180)
    print(f"\nrolling restart, {SESSIONS} sessions: {figures}")
    assert_nothing_lost("".join(ended) + cluster.log(), figures, sessions, runs_of(tmp_path / "runs"))


def test_replacing_the_workers_of_a_node_loses_nothing(cluster: Cluster, tmp_path: Path) -> None:
    """SIGHUP: one worker after the other ends and has a successor; the other node does not notice."""

    async def deploy(figures: Figures) -> None:
        for node in cluster.nodes:
            before = set(node.worker_pids())
            figures.kills.append(time.monotonic())
            node.process.send_signal(signal.SIGHUP)
            await asyncio.to_thread(
                wait_until,
                lambda node=node, before=before: len(node.workers()) == 2 and not before & set(node.worker_pids()),
                60,
                "SIGHUP did not replace the workers",
            )
            await asyncio.sleep(seconds(BETWEEN))

    figures, sessions = run(under_load(cluster.app_url(APP), SESSIONS, deploy), 180)
    print(f"\nreplaced workers, {SESSIONS} sessions: {figures}")
    assert_nothing_lost(cluster.log(), figures, sessions, runs_of(tmp_path / "runs"))
