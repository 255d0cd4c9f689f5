"""A pod's life as its Deployment has it, in containers: probes, `preStop`, SIGTERM, and an end within the grace period.

What kubelet does is done here by hand: the variables, the arguments and the rights are those of the rendered objects.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from support.cluster import session_of, steady_viewer
from support.engine import PREFIX, Container, docker
from support.fetch import fetch
from support.kustomize import environment, find, pod_of, render
from support.node import APPS
from support.patience import run, wait_until
from support.wire import page_token

OVERLAY = Path(__file__).parents[2] / "deploy" / "kubernetes" / "overlays" / "small"
THINGS = render(OVERLAY)
POD = pod_of(find(THINGS, "Deployment"))
REDIS = pod_of(find(THINGS, "StatefulSet", "aperture-redis"))
(NODE,) = POD["containers"]
SECRET = "filled-in"
APP = "/relayed"
SERVICE_RESTART = 1012


def rights(pod: dict[str, Any]) -> list[str]:
    """What its security contexts leave it."""
    (container,) = pod["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    context = pod["securityContext"]
    user = f"{context['runAsUser']}:{context['runAsGroup']}"
    mounts = [mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")]
    folders = [word for mount in mounts for word in ("--tmpfs", f"{mount}:mode=1777")]
    return ["--user", user, "--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges:true", *folders]


class Pod(Container):
    """A node, with its two ports published on loopback."""

    def __init__(self, image: str, network: str, apps: Path) -> None:
        variables_of_pod = environment(THINGS) | {"APERTURE_REDIS_URL": "redis://aperture-redis:6379/0"}
        variables_of_pod |= {"APERTURE_REDIS_PASSWORD": SECRET, "BOKEH_SECRET_KEY": SECRET}
        variables = [word for name, value in variables_of_pod.items() for word in ("--env", f"{name}={value}")]
        ports = [word for port in NODE["ports"] for word in ("--publish", f"127.0.0.1::{port['containerPort']}")]
        options = ["--network", network, *rights(POD), *variables, *ports, "--volume", f"{apps}:/apps:ro"]
        super().__init__(image, options=options, words=NODE["args"])
        self._urls: dict[str, str] = {}

    def url(self, name: str) -> str:
        if name not in self._urls:  # a container that has ended has no ports any more
            (port,) = [port["containerPort"] for port in NODE["ports"] if port["name"] == name]
            self._urls[name] = f"http://{self.port(port)}"
        return self._urls[name]

    def passes(self, probe: str) -> bool:
        """Whether one of the Deployment's probes would succeed now."""
        asked = NODE[probe]["httpGet"]
        try:
            return 200 <= fetch(self.url(asked["port"]) + asked["path"]).status < 400
        except OSError:
            return False

    def fails(self, probe: str) -> bool:
        return not self.passes(probe)


@pytest.fixture
def network() -> Iterator[str]:
    name = f"{PREFIX}-pods-{os.getpid()}"
    docker("network", "create", name)
    yield name
    docker("network", "rm", name, check=False)


@pytest.fixture
def server(image: str, network: str) -> Iterator[Container]:
    """Redis as the component has it."""
    (container,) = REDIS["containers"]
    (variable,) = [variable["name"] for variable in container["env"]]
    words = [word.replace(f"$({variable})", SECRET) for word in (*container["command"], *container["args"])]
    named = ["--network", network, "--network-alias", "aperture-redis", "--env", f"{variable}={SECRET}"]
    with Container(container["image"], options=[*named, *rights(REDIS)], words=words) as server:
        asked = container["readinessProbe"]["exec"]["command"]
        wait_until(lambda: "PONG" in server.run(*asked, check=False).stdout, 30, "Redis is not ready")
        yield server


@pytest.fixture
def pods(image: str, network: str, server: Container, tmp_path: Path) -> Iterator[list[Pod]]:
    """Two, which are ready."""
    tmp_path.chmod(0o755)
    (tmp_path / "relayed.py").write_text((APPS / "relayed.py").read_text())
    with ExitStack() as stack:
        made = [stack.enter_context(Pod(image, network, tmp_path)) for _ in range(2)]
        for pod in made:
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                wait_until(partial(pod.passes, probe), 60, f"{probe} does not pass")
        yield made


def test_a_pod_ends_without_anybody_losing_anything(pods: list[Pod]) -> None:
    """It serves while `preStop` runs, is unready from SIGTERM on, hands its session over, and ends in time with 0."""
    going, staying = pods
    token = page_token(going.url("http") + APP)
    answers: list[tuple[float, bool]] = []
    ended = threading.Event()

    def watch_readiness() -> None:
        while not ended.is_set():
            ready = going.passes("readinessProbe")
            answers.append((time.monotonic(), ready))  # when it came: SIGTERM may overtake one that was asked before

    async def scenario() -> float:
        async with steady_viewer(f"ws{going.url('http').removeprefix('http')}{APP}/ws", token) as viewer:
            assert (await viewer.set("slider", "value", 42)).msgtype == "OK"
            going.run(*NODE["lifecycle"]["preStop"]["exec"]["command"])
            assert (await viewer.set("slider", "value", 43)).msgtype == "OK"
            assert page_token(going.url("http") + APP), "it does not serve any more"
            asked = time.monotonic()
            docker("kill", "--signal", "TERM", going.name)
            assert await viewer.wait_closed() == SERVICE_RESTART
            return asked

    watcher = threading.Thread(target=watch_readiness)
    watcher.start()
    try:
        asked = run(scenario())
        waited = float(NODE["lifecycle"]["preStop"]["exec"]["command"][1])
        grace = POD["terminationGracePeriodSeconds"] - waited
        wait_until(lambda: not going.state()["Running"], grace, "it does not end within the grace period")
    finally:
        ended.set()
        watcher.join()
    assert going.state()["ExitCode"] == 0, going.log()
    assert all(ready for when, ready in answers if when < asked), "it was not ready although it served"
    after = [ready for when, ready in answers if when > asked]
    assert True not in after[after.index(False) :], "it was ready again"

    async def come_back() -> None:
        async with steady_viewer(f"ws{staying.url('http').removeprefix('http')}{APP}/ws", token) as viewer:
            assert viewer.value("slider", "value") == 43
            assert viewer.value("seen", "text") == "43"

    run(come_back())
    rows = fetch(staying.url("admin") + "/sessions").json()["sessions"]
    assert any(session_of(token).startswith(row["id"]) for row in rows)


def test_pods_without_redis_are_unready_and_not_replaced(server: Container, pods: list[Pod]) -> None:
    """A restart would end sessions and help no user; new pages are kept away until Redis is back."""
    docker("pause", server.name)
    try:
        for pod in pods:
            wait_until(partial(pod.fails, "readinessProbe"), 60, "it is ready without Redis")
            assert pod.passes("livenessProbe")
    finally:
        docker("unpause", server.name)
    for pod in pods:
        wait_until(partial(pod.passes, "readinessProbe"), 60, "it does not become ready again")
