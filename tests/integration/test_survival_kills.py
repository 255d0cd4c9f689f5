"""Workers that are killed at random under load: no session is lost, and of what was acknowledged no more than promised.

`SURVIVAL_FULL=1` runs the full numbers. Speed is printed, not asserted: run with `-s` to see it.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.cluster import Cluster, session_of
from support.patience import SCALE, run, wait_until
from support.survivor import Figures, Survivor
from support.wire import page_token

FULL = bool(os.environ.get("SURVIVAL_FULL"))
SESSIONS = 100 if FULL else 16
KILLS = 50 if FULL else 6
PAUSES = (2.0, 5.0) if FULL else (0.3, 1.5)
"""Seconds between two kills, at least and at most. What is timed is the way back from one death; the short run is
merciless instead, and kills workers on which others' sessions have not yet arrived."""

LOSS = 0.1
"""Seconds that `async` may lose."""
SLACK = 0.4 * SCALE
"""Seconds that this test's own clock may be late by: it shares the machine with what it kills."""

AT_ONCE = 8
SHOWN = 8
"""Characters of a session's id that `/sessions` shows."""
APP = "/relayed"


@pytest.fixture
def cluster(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Cluster]:
    options = ["--durability", request.param]
    with Cluster("relayed.py", options=options, env={"APP_RUNS": str(tmp_path / "runs")}) as cluster:
        yield cluster


async def open_pages(cluster: Cluster, figures: Figures) -> list[Survivor]:
    turn = asyncio.Semaphore(AT_ONCE)

    async def open_page() -> Survivor:
        async with turn:
            return Survivor(cluster.ws_url(APP), await asyncio.to_thread(page_token, cluster.app_url(APP)), figures)

    return await asyncio.gather(*(open_page() for _ in range(SESSIONS)))


async def kill_some(cluster: Cluster, figures: Figures) -> None:
    """Kill workers of both nodes at random; each gets another in its place before it is the last of its node."""
    chance = random.Random(5)
    for _ in range(KILLS):
        await asyncio.sleep(chance.uniform(*PAUSES))
        node = chance.choice(cluster.nodes)
        pids = await asyncio.to_thread(node.worker_pids)
        if pids:
            node.kill(chance.choice(pids))
            figures.kills.append(time.monotonic())  # behind it: to find the process takes longer than to kill it


def all_listed(cluster: Cluster, survivors: list[Survivor], epochs: dict[str, int]) -> bool:
    """Whether each session has an owner; notes how often it has been claimed."""
    epochs.update((row["id"], row["epoch"]) for node in cluster.nodes for row in node.sessions())
    return all(session_of(survivor.token)[:SHOWN] in epochs for survivor in survivors)


@pytest.mark.parametrize("cluster", ["ack", "async"], indirect=True)
def test_every_session_goes_on_however_its_workers_are_killed(
    cluster: Cluster, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """With its callbacks; with `ack` no acknowledged change is lost, with `async` the last moment's at most."""
    durability = request.node.callspec.params["cluster"]
    figures = Figures()
    epochs: dict[str, int] = {}

    async def scenario() -> list[Survivor]:
        survivors = await open_pages(cluster, figures)
        async with asyncio.TaskGroup() as living:
            for survivor in survivors:
                living.create_task(survivor.live())
            for survivor in survivors:
                await survivor.connected.wait()
            await kill_some(cluster, figures)
            # While they are connected: unused ones are discarded soon.
            await asyncio.to_thread(wait_until, lambda: all_listed(cluster, survivors, epochs), 60, "one is nowhere")
            for survivor in survivors:
                survivor.stop()
        return survivors

    survivors = run(scenario(), 400 if FULL else 120)
    print(f"\n{durability}, {SESSIONS} sessions: {figures}")
    assert len(figures.back_after) >= KILLS, "hardly a session was cut off"
    if durability == "ack":
        assert figures.lost == []
    else:
        assert max(figures.lost, default=0.0) <= LOSS + SLACK
    runs = Counter((tmp_path / "runs").read_text().splitlines())
    assert {line.split()[1] for line in runs} == {session_of(survivor.token) for survivor in survivors}
    # No worker has run the app's code for a session twice: it dies before it could be given back what it has lost.
    assert runs.most_common(1)[0][1] == 1, runs.most_common(3)
    assert "starts afresh" not in cluster.log()
