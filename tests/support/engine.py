"""Docker as the tests use it: one function that runs it, and a container for the time of a `with` block.

What a test starts has a name that begins with `PREFIX` and this process's number, and is removed by that name in every
case. An engine that people use for other things too stays as it was, but for the images.
"""

from __future__ import annotations

import functools
import itertools
import json
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any, Self

from support.patience import seconds, wait_until

__all__ = ["PREFIX", "Container", "docker", "why_no_engine"]

PREFIX = "aperture-tests"
COMMAND_SECONDS = 120
_ENGINE_SECONDS = 20
_numbers = itertools.count(1)


def docker(
    *words: str, nominal: float = COMMAND_SECONDS, check: bool = True, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run `docker` with these words; one that fails is an error that has its output."""
    done = subprocess.run(
        ["docker", *words],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=seconds(nominal),
        stdin=subprocess.DEVNULL,
        env={**os.environ, **(env or {})},
        check=False,
    )
    if check and done.returncode:
        raise AssertionError(f"docker {' '.join(words)}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return done


@functools.cache
def why_no_engine() -> str:
    """Why containers cannot be run here, or an empty string."""
    if shutil.which("docker") is None:
        return "there is no docker on this machine"
    try:
        asked = docker("info", "--format", "{{.ServerVersion}}", nominal=_ENGINE_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return "the Docker engine does not answer"
    return "" if asked.returncode == 0 and asked.stdout.strip() else f"no Docker engine: {asked.stderr.strip()}"


class Container:
    """One `docker run --detach`, removed at the end of the block.

    Args:
        image: its tag.
        options: of `docker run`.
        words: the container's arguments.
    """

    def __init__(self, image: str, *, options: Sequence[str] = (), words: Sequence[str] = ()) -> None:
        self.name = f"{PREFIX}-{os.getpid()}-{next(_numbers)}"
        self._command = ["run", "--detach", "--name", self.name, *options, image, *words]

    def __enter__(self) -> Self:
        try:
            docker(*self._command)
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is not None:
            print(f"--- log of {self.name}\n{self.log()}")
        self._remove()

    def _remove(self) -> None:
        docker("rm", "--force", "--volumes", self.name, check=False)

    def state(self) -> dict[str, Any]:
        """What the engine says of it: Running, ExitCode, Health…"""
        state: dict[str, Any] = json.loads(docker("inspect", "--format", "{{json .State}}", self.name).stdout)
        return state

    def log(self) -> str:
        """All that it has written."""
        written = docker("logs", self.name, check=False)
        return written.stdout + written.stderr

    def run(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command in it, as its user."""
        return docker("exec", self.name, *words, check=check)

    def port(self, inside: int) -> str:
        """The `host:port` that a port of the container is published at."""
        return docker("port", self.name, f"{inside}/tcp").stdout.splitlines()[0]

    def wait_healthy(self, nominal: float = 90) -> None:
        """Wait for the image's health check; a container that ends meanwhile is a failure at once."""

        def healthy() -> bool:
            state = self.state()
            assert state["Running"], f"it has ended with {state['ExitCode']}: {self.log()}"
            return bool(state["Health"]["Status"] == "healthy")

        wait_until(healthy, nominal, f"{self.name} does not become healthy")

    def stop(self, grace: int) -> int:
        """`docker stop`, and the exit code; 137 is that of a container that did not end within the grace period."""
        docker("stop", "--time", str(grace), self.name)
        return int(self.state()["ExitCode"])
