"""The services of `docker-compose.yml` as processes on loopback, with the same files, arguments and variables.

What is translated, and nothing else: a service's name and port become 127.0.0.1 and a free port, a path in a container
becomes the file that is mounted there, and what a container may write to is a folder of the test's. Prometheus scrapes
every second in place of every five, and an alert's `for` is a thirtieth, so that the test need not wait for minutes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from support.compose import NODES, Service, services
from support.dockerfile import stages
from support.node import Node
from support.prometheus import Prometheus
from support.proxy import Nginx
from support.redis import RedisServer, free_port

__all__ = ["FASTER", "Topology"]

FASTER = 30
"""How much sooner alerts fire."""


def _faster(source: Path, addresses: Sequence[str]) -> str:
    """What Prometheus reads, with the nodes at these addresses."""
    text = source.read_text()
    if source.name == "prometheus.yml":
        targets = f"static_configs: [{{targets: {json.dumps([*addresses])}}}]"
        text, found = re.subn(r"dns_sd_configs:\n.*", targets, text)
        assert found == 1, "the nodes are not found by their name"
        return re.sub(r"(scrape|evaluation)_interval: 5s", r"\1_interval: 1s", text)
    return re.sub(r"for: (\d+)([smh])", lambda match: f"for: {_milliseconds(*match.groups()) // FASTER}ms", text)


def _milliseconds(number: str, unit: str) -> int:
    return int(number) * {"s": 1000, "m": 60_000, "h": 3_600_000}[unit]


class Topology:
    """Redis, both nodes, nginx and Prometheus, for the time of a `with` block.

    Args:
        variables: what is set for compose.
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
            self.prometheus = stack.enter_context(self._prometheus())
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
        given = stages()[-1].environment() | service.environment
        mounted = service.mounts()[given["APPS_FOLDER"]]
        found = [*mounted.glob("*.py"), *(main.parent for main in mounted.glob("*/main.py"))]
        here = {
            "APERTURE_REDIS_URL": given["APERTURE_REDIS_URL"].replace("redis:6379", f"127.0.0.1:{self._redis_port}"),
            "APERTURE_ADMIN_ADDRESS": "127.0.0.1",
        }
        ours = {name: value for name, value in given.items() if name.startswith(("APERTURE_", "BOKEH_"))}
        return Node(*sorted(found), env=ours | here, wait=False)

    def _prometheus(self) -> Prometheus:
        service = self._services["prometheus"]
        addresses = [self.admin_address(name) for name in NODES]
        files = {target: _faster(source, addresses) for target, source in service.mounts().items()}
        return Prometheus(files, service.said["command"])

    def _nginx(self) -> Nginx:
        """With the shipped configuration, in front of what the mounted list of nodes names."""
        mounts = self._services["nginx"].mounts()
        assert re.findall(r"(?m)^server ([\w-]+):\d+", mounts["/etc/nginx/nodes.conf"].read_text()) == ["node"]
        return Nginx([f"127.0.0.1:{node.port}" for node in self.nodes.values()])
