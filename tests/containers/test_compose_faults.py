"""Faults of `docker compose up` while people move sliders: what they notice, and that nothing is lost or stale.

`pytest -s` prints the figures; those in docs/deploying.md are from here.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.base_images import BUILD_SECONDS, compose_plugin
from support.compose_stack import Stack
from support.engine import PREFIX, docker
from support.node import APPS
from support.patience import run
from support.survivor import Figures, under_load

SESSIONS = 12
CUT = 10
"""Seconds without a network: longer than a lease, so that others claim the sessions."""
BUILT = f"{PREFIX}/rolling:local"


@pytest.fixture(scope="module")
def stack(clone: Path, image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    config = tmp_path_factory.mktemp("docker") / "config"
    compose_plugin(config)
    apps = clone / "apps-under-load"
    apps.mkdir()
    apps.chmod(0o755)
    shutil.copy(APPS / "relayed.py", apps)
    docker("tag", image, BUILT)
    variables = {"IMAGE": BUILT, "APPS": str(apps), "DURABILITY": "ack", "DOCKER_BUILDKIT": "0"}
    try:
        with Stack(clone, config, **variables) as stack:
            yield stack
    finally:
        shutil.rmtree(apps)
        docker("image", "rm", "--force", BUILT, check=False)


def assert_survived(stack: Stack, what: str, figures: Figures) -> None:
    """Nothing is lost, nothing is stale, and all is as it was before."""
    print(f"\n{what}, {SESSIONS} sessions: {figures}")
    assert figures.lost == []
    assert figures.stale == 0
    stack.wait_whole()


@pytest.mark.parametrize("service", ["node", "redis", "nginx"])
def test_a_container_that_crashes_costs_no_session(stack: Stack, service: str) -> None:
    """kill -9 of its first process; Docker starts it again, and meanwhile the others do what they can."""

    async def crash(figures: Figures) -> None:
        victim = (await asyncio.to_thread(stack.containers, service))[0]
        figures.kills.append(time.monotonic())
        await asyncio.to_thread(stack.crash, victim)
        await asyncio.to_thread(stack.wait_whole)

    figures, _ = run(under_load(f"{stack.url}/relayed", SESSIONS, crash), 180)
    assert_survived(stack, f"kill -9 of {service}", figures)
    # Pages stay connected while Redis is away; their changes wait for it.
    assert bool(figures.back_after) is (service != "redis")


@pytest.mark.parametrize("service", ["node", "redis"])
def test_a_container_without_a_network_costs_no_session(stack: Stack, service: str) -> None:
    """Ten seconds. A node's sessions are claimed by the other one, and it has nothing to say when it is back."""

    async def cut(figures: Figures) -> None:
        victim = (await asyncio.to_thread(stack.containers, service))[0]
        figures.kills.append(time.monotonic())
        await asyncio.to_thread(docker, "network", "disconnect", stack.network(), victim)
        await asyncio.sleep(CUT)
        # Compose's own name for the service is not one that Docker gives again.
        await asyncio.to_thread(docker, "network", "connect", "--alias", service, stack.network(), victim)
        await asyncio.to_thread(stack.wait_whole)

    figures, sessions = run(under_load(f"{stack.url}/relayed", SESSIONS, cut), 180)
    assert_survived(stack, f"{service} without a network for {CUT} s", figures)
    owned = [row["id"] for node in stack.containers("node") for row in stack.sessions(node)]
    for session_id in sessions:
        assert sum(session_id.startswith(short) for short in owned) <= 1, "a session has two owners"


def test_an_upgrade_costs_no_session(stack: Stack, clone: Path) -> None:
    """The script, after a change of the code: new containers take the places of the old ones, and nginx stays."""

    async def upgrade(figures: Figures) -> None:
        # Nothing is noted as taken away: the times are from when each page is cut off, and the build does not count.
        before = await asyncio.to_thread(identities, stack)
        await asyncio.to_thread(stack.upgrade)
        after = await asyncio.to_thread(identities, stack)
        assert not before & after, "a container is the old one"
        assert len(after) == len(before)

    module = clone / "shared" / "version.py"
    text = module.read_text()
    module.write_text(f"{text}\n# Another build.\n")
    try:
        # The script finds it in the engine: what a build takes is not what an upgrade costs.
        stack.compose("build", "node", nominal=BUILD_SECONDS)
        figures, _ = run(under_load(f"{stack.url}/relayed", SESSIONS, upgrade), 300)
    finally:
        module.write_text(text)  # other tests have the same clone
    assert_survived(stack, "upgrade.sh", figures)
    assert SESSIONS / 2 <= len(figures.back_after) <= SESSIONS, "a page came back to an old node, and was cut off again"


def identities(stack: Stack) -> set[str]:
    return set(docker("inspect", "--format", "{{.Id}}", *stack.containers("node")).stdout.split())
