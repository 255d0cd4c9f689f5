"""`docker compose up` of a clone for the time of a `with` block, with a project name and ports of the test's own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any, Self

from support.engine import PREFIX, docker
from support.patience import seconds, wait_until
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
        variables: what is set for compose.
    """

    def __init__(self, clone: Path, config: Path, **variables: str) -> None:
        self.project = f"{PREFIX}-{os.getpid()}"
        self.port, prometheus = free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.prometheus = f"http://127.0.0.1:{prometheus}"
        ports = {"PORT": str(self.port), "PROMETHEUS_PORT": str(prometheus)}
        self.config = {"DOCKER_CONFIG": str(config)}
        self._env = self.config | ports | variables
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

    def compose(self, *words: str, check: bool = True, nominal: float = UP_SECONDS) -> str:
        """Run `docker compose`; returns what it has written to its output."""
        command = ["compose", "--project-name", self.project, *self._files, *words]
        return docker(*command, env=self._env, nominal=nominal, check=check).stdout

    def upgrade(self) -> None:
        """Run the script that replaces the nodes, as an operator would in the clone."""
        files = ":".join(self._files[1::2])
        ours = {"COMPOSE_FILE": files, "COMPOSE_PROJECT_NAME": self.project}
        script = Path(self._files[1]).parent / "deploy" / "compose" / "upgrade.sh"
        done = subprocess.run(
            ["sh", str(script)],
            env=os.environ | self._env | ours,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds(UP_SECONDS),
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def up(self, *words: str) -> None:
        """Start what is to be there, and wait until all of it is healthy."""
        self.compose("up", "--detach", "--wait", *words)

    def containers(self, service: str) -> list[str]:
        """The containers of a service, by their names, whether they run or not."""
        label = f"label=com.docker.compose.project={self.project}"
        words = ["--filter", label, "--filter", f"label=com.docker.compose.service={service}"]
        return sorted(docker("ps", "--all", *words, "--format", "{{.Names}}").stdout.split())

    def network(self) -> str:
        """The network that all containers are in."""
        return f"{self.project}_default"

    def crash(self, container: str) -> None:
        """Kill a container's first process as the kernel would for its memory, and not by Docker, which would then not
        start it again."""
        pid = int(docker("inspect", "--format", "{{.State.Pid}}", container).stdout)
        identity = docker("inspect", "--format", "{{.Id}}", container).stdout.strip()
        # The engine may be on another machine, where the number is another process's.
        assert identity in Path(f"/proc/{pid}/cgroup").read_text(), f"{container} is not on this machine"
        os.kill(pid, signal.SIGKILL)

    def wait_whole(self) -> None:
        """Wait until every service is as healthy as at the start."""
        wait_until(lambda: self._unhealthy() == [], 60, "a container does not become healthy")

    def _unhealthy(self) -> list[str]:
        names = [name for service in ("redis", "node", "nginx") for name in self.containers(service)]
        form = "{{.Name}} {{.State.Running}} {{if .State.Health}}{{.State.Health.Status}}{{else}}healthy{{end}}"
        lines = docker("inspect", "--format", form, *names).stdout.splitlines()
        return [line for line in lines if not line.endswith("true healthy")]

    def sessions(self, container: str) -> list[dict[str, Any]]:
        """One row per session of a node, as its admin port lists them."""
        rows: list[dict[str, Any]] = json.loads(docker("exec", container, "python", "-c", _SESSIONS).stdout)["sessions"]
        return rows

    def _down(self) -> None:
        self.compose("down", "--volumes", "--remove-orphans", "--timeout", "5", check=False)
