"""`docker compose up` of a clone for the time of a `with` block, with a project name and ports of the test's own."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Self

from support.engine import PREFIX, docker
from support.redis import free_port

__all__ = ["Stack"]

UP_SECONDS = 240
_OVERRIDE = Path(__file__).parents[1] / "containers" / "without-grafana.yml"
_SESSIONS = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:9006/sessions', timeout=10).read().decode())"


class Stack:
    """The services of `docker-compose.yml`, but for Grafana.

    Args:
        clone: where the file is.
        config: a folder with Docker's settings, which has compose's plugin.
        variables: what somebody has set for compose.
    """

    def __init__(self, clone: Path, config: Path, **variables: str) -> None:
        self.project = f"{PREFIX}-{os.getpid()}"
        self.port, prometheus = free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.prometheus = f"http://127.0.0.1:{prometheus}"
        ports = {"PORT": str(self.port), "PROMETHEUS_PORT": str(prometheus)}
        self._env = {"DOCKER_CONFIG": str(config), **ports, **variables}
        self._files = ["--file", str(clone / "docker-compose.yml"), "--file", str(_OVERRIDE)]

    def __enter__(self) -> Self:
        try:
            self.up()
        except BaseException:
            self._down()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is not None:
            print(self.compose("logs", "--no-color", "--tail", "100", check=False))
        self._down()

    def compose(self, *words: str, check: bool = True) -> str:
        """Run `docker compose`; returns what it has written to its output."""
        command = ["compose", "--project-name", self.project, *self._files, *words]
        return docker(*command, env=self._env, nominal=UP_SECONDS, check=check).stdout

    def up(self, *words: str) -> None:
        """Start what is to be there, and wait until all of it is healthy."""
        self.compose("up", "--detach", "--wait", *words)

    def containers(self, service: str) -> list[str]:
        """The containers of a service, by their names, whether they run or not."""
        label = f"label=com.docker.compose.project={self.project}"
        words = ["--filter", label, "--filter", f"label=com.docker.compose.service={service}"]
        return sorted(docker("ps", "--all", *words, "--format", "{{.Names}}").stdout.split())

    def sessions(self, container: str) -> list[dict[str, Any]]:
        """One row per session of a node, as its admin port lists them."""
        rows: list[dict[str, Any]] = json.loads(docker("exec", container, "python", "-c", _SESSIONS).stdout)["sessions"]
        return rows

    def _down(self) -> None:
        self.compose("down", "--volumes", "--remove-orphans", "--timeout", "5", check=False)
