"""The services of `docker-compose.yml` as processes on loopback, with the same files, arguments and variables.

What is translated, and nothing else: a service's name and port become 127.0.0.1 and a free port, a path in a container
becomes the file that is mounted there, and what a container may write to is a folder of the test's. Prometheus scrapes
every second in place of every five, and an alert's `for` is a thirtieth, so that the test need not wait for minutes.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
import urllib.parse
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from support.compose import NODES, Service, services
from support.dockerfile import stages
from support.fetch import fetch
from support.node import Node
from support.patience import seconds, wait_until
from support.proxy import Nginx
from support.redis import RedisServer, free_port

__all__ = ["FASTER", "Prometheus", "Topology"]

FASTER = 30
"""How much sooner alerts fire."""


class Prometheus:
    """Debian's Prometheus with the service's arguments and files, for the time of a `with` block.

    Args:
        service: what compose says of it.
        addresses: where each `service:port` is on this machine.
    """

    def __init__(self, service: Service, addresses: Mapping[str, str]) -> None:
        self._service = service
        self._addresses = addresses
        self._folder = Path(tempfile.mkdtemp(prefix="prometheus-"))
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"http://127.0.0.1:{free_port()}"

    def __enter__(self) -> Prometheus:
        program = shutil.which("prometheus")
        assert program is not None, "Debian's package prometheus is missing"
        arguments = [self._translated(word) for word in self._service.said["command"]]
        for target, source in self._service.mounts().items():
            (self._folder / target.lstrip("/")).parent.mkdir(parents=True, exist_ok=True)
            (self._folder / target.lstrip("/")).write_text(self._content(source))
        with (self._folder / "log").open("wb") as log:
            address = f"--web.listen-address={self.url.removeprefix('http://')}"
            self._process = subprocess.Popen([program, *arguments, address], stdout=log, stderr=log, cwd=self._folder)
        wait_until(self._ready, 30, "Prometheus does not become ready")
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(seconds(10))
        shutil.rmtree(self._folder, ignore_errors=True)

    def query(self, expression: str) -> dict[str, float]:
        """The values of a query now, by the instance that they are of (empty if of none)."""
        rows = self._ask(f"query?{urllib.parse.urlencode({'query': expression})}")["result"]
        return {row["metric"].get("instance", ""): float(row["value"][1]) for row in rows}

    def targets(self) -> dict[str, str]:
        """The health of each target."""
        return {target["labels"]["instance"]: target["health"] for target in self._ask("targets")["activeTargets"]}

    def alerts(self) -> dict[tuple[str, str], str]:
        """The state of each alert that is not at rest, by its name and the instance that it is about."""
        labels = [(alert["labels"], alert["state"]) for alert in self._ask("alerts")["alerts"]]
        return {(named["alertname"], named.get("instance", "")): state for named, state in labels}

    def _ask(self, what: str) -> Any:
        answer = fetch(f"{self.url}/api/v1/{what}")
        assert answer.status == 200, answer.text
        return json.loads(answer.text)["data"]

    def _translated(self, argument: str) -> str:
        return re.sub(r"=(/.*)", lambda match: f"={self._folder}{match[1]}", argument)

    def _content(self, source: Path) -> str:
        text = source.read_text()
        if source.name == "prometheus.yml":
            targets = f"static_configs: [{{targets: {json.dumps([*self._addresses.values()])}}}]"
            text, found = re.subn(r"dns_sd_configs:\n.*", targets, text)
            assert found == 1, "the nodes are not found by their name"
            return re.sub(r"(scrape|evaluation)_interval: 5s", r"\1_interval: 1s", text)
        return re.sub(r"for: (\d+)([smh])", lambda match: f"for: {_milliseconds(*match.groups()) // FASTER}ms", text)

    def _ready(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self._folder / "log").read_text()
        try:
            return fetch(f"{self.url}/-/ready").status == 200
        except OSError:
            return False


def _milliseconds(number: str, unit: str) -> int:
    return int(number) * {"s": 1000, "m": 60_000, "h": 3_600_000}[unit]


class Topology:
    """Redis, both nodes, nginx and Prometheus, for the time of a `with` block.

    Args:
        variables: what somebody has set for compose.
    """

    def __init__(self, **variables: str) -> None:
        self._services = services(**variables)
        self._stack = ExitStack()
        self._redis_port = free_port()
        self.nodes: dict[str, Node] = {}
        """By their names in compose."""
        self.url = ""
        """Of nginx, without a trailing slash."""
        self.prometheus: Prometheus

    def __enter__(self) -> Topology:
        with ExitStack() as stack:
            stack.enter_context(self._redis())
            for name in NODES:
                self.nodes[name] = stack.enter_context(self._node(self._services["node"]))
            for node in self.nodes.values():
                node.await_ready()
            self.url = stack.enter_context(self._nginx()).url
            admin = {f"{name}:9006": self.admin_address(name) for name in NODES}
            self.prometheus = stack.enter_context(Prometheus(self._services["prometheus"], admin))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc_info: Any) -> None:
        self._stack.__exit__(*exc_info)

    def admin_address(self, name: str) -> str:
        """What Prometheus calls a node."""
        return self.nodes[name].admin_url.removeprefix("http://")

    def _redis(self) -> RedisServer:
        program, *words = self._services["redis"].said["command"]
        assert program == "redis-server"
        options = {flag.removeprefix("--"): value for flag, value in zip(words[::2], words[1::2], strict=True)}
        return RedisServer(options, self._redis_port)

    def _node(self, service: Service) -> Node:
        """With the image's variables and the service's; its ports are free ones."""
        told = stages()[-1].environment() | service.environment
        mounted = service.mounts()[told["APPS_FOLDER"]]
        found = [*mounted.glob("*.py"), *(main.parent for main in mounted.glob("*/main.py"))]
        here = {
            "APERTURE_REDIS_URL": told["APERTURE_REDIS_URL"].replace("redis:6379", f"127.0.0.1:{self._redis_port}"),
            "APERTURE_ADMIN_ADDRESS": "127.0.0.1",
        }
        ours = {name: value for name, value in told.items() if name.startswith(("APERTURE_", "BOKEH_"))}
        return Node(*sorted(found), env=ours | here, wait=False)

    def _nginx(self) -> Nginx:
        """With the shipped configuration, in front of what the mounted list of nodes names."""
        mounts = self._services["nginx"].mounts()
        assert re.findall(r"(?m)^server ([\w-]+):\d+", mounts["/etc/nginx/nodes.conf"].read_text()) == ["node"]
        return Nginx([f"127.0.0.1:{node.port}" for node in self.nodes.values()])
