"""What is soaked: Redis, a line to it for each node, and the nodes, in network namespaces where that works."""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import redis
from soak.line import Lines
from soak.namespaces import Namespaces, can_reorder
from soak.plan import Plan
from support.fetch import fetch
from support.node import Node
from support.patience import wait_until
from support.redis import RedisServer, free_port

__all__ = ["APP", "LEASE", "NAMESPACE", "Site", "signal_process"]

T = TypeVar("T")

APP = "/soaked"
NAMESPACE = "soak"
LEASE = 3
"""Seconds; half of the default, so that a pause that outlasts it need not be long."""

UNUSED = 30_000
"""Milliseconds that a session without viewers lives: longer than any fault keeps all of them away."""

TOKEN_LIFE = 5
"""Seconds: whoever comes back after more comes with a token that could not begin a session any more."""

LEARN_SECONDS = 20
"""In which a node that was cut off has all its connections to Redis again: what was lost is sent again ever later."""

OPTIONS = (
    *("--redis-namespace", NAMESPACE, "--lease", str(LEASE)),
    *("--unused-session-lifetime", str(UNUSED), "--check-unused-sessions", "1000"),
    *("--session-token-expiration", str(TOKEN_LIFE), "--keep-alive", "5000"),
)


def _redis_server(**options: str) -> RedisServer:
    """With a port for its replicas, which need not wait for others of their kind to be copied with."""
    return RedisServer({"repl-diskless-sync-delay": "0", **options}, free_port())


class _Mistaken(Node):
    """A node that makes one of `soak.mistakes`."""

    command: tuple[str, ...]  # type: ignore[misc]  # of each its own


class Site:
    """The whole installation, for the time of a `with` block.

    Args:
        plan: of the run.
        folder: an empty one, for what the app writes.
    """

    def __init__(self, plan: Plan, folder: Path) -> None:
        self.plan = plan
        self.runs = folder / "runs"
        self.server = _redis_server()
        self.nodes: list[Node] = []
        self.namespaces: Namespaces | None = None
        self.reorders = False
        """Whether the kernel can let packets overtake each other."""
        self.lines: Lines
        self._weak: dict[int, float] = {}
        self.ended_logs: list[str] = []
        """Of nodes that have been started again since."""
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(self.server)
            host = "127.0.0.1"
            if self.plan.namespaces:
                self.namespaces = stack.enter_context(Namespaces(self.plan.nodes))
                self.reorders = can_reorder(self.namespaces)
                host = self.namespaces.host
            self.lines = stack.enter_context(Lines(str(self.server.socket_path), host, self.plan.nodes))
            self.runs.touch()
            self.nodes = [self._node(number) for number in range(self.plan.nodes)]
            for node in self.nodes:
                stack.enter_context(node)
            for node in self.nodes:
                node.await_ready()
            for number in range(self.plan.nodes):
                wait_until(lambda number=number: self.is_whole(number), 30, "a worker is missing")  # type: ignore[misc]
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, problem, trace)

    def _node(self, number: int) -> Node:
        options = [*OPTIONS, "--num-procs", str(self.plan.workers), "--durability", self.plan.durability]
        options += ["--redis-url", self.lines.urls[number]]
        launcher: list[str] = []
        if self.namespaces is not None:
            address = self.namespaces.addresses[number]
            options += ["--address", address, "--admin-address", address]
            launcher = self.namespaces.inside(number)
        env = {"APP_RUNS": str(self.runs)}
        node = Node("soaked.py", options=options, env=env, wait=False, launcher=launcher)
        if self.plan.mistake:
            env["PYTHONPATH"] = str(Path(__file__).parents[1])
            node = _Mistaken("soaked.py", options=options, env=env, wait=False, launcher=launcher)
            node.command = ("-m", "soak.mistakes", self.plan.mistake, "serve")
        return node

    # What may be of the past

    @contextmanager
    def weakened(self, *numbers: int) -> Iterator[None]:
        """These nodes may lose their sessions to others and not learn of it yet, in this block and for a while after.

        Without Redis a node goes on with what it has: its viewers see each other, and with `ack` no change of theirs is
        acknowledged.
        """
        for number in numbers:
            self._weak[number] = math.inf
        try:
            yield
        finally:
            for number in numbers:
                self._weak[number] = time.monotonic() + LEARN_SECONDS

    def is_weak(self, number: int) -> bool:
        """Whether a node is one of those."""
        return time.monotonic() < self._weak.get(number, 0.0)

    # What is there

    def is_whole(self, number: int) -> bool:
        """Whether a node has all of its workers, and takes new sessions."""
        try:
            node = self.nodes[number]
            return len(node.workers()) == self.plan.workers and fetch(node.admin_url + "/readyz").status == 200
        except (AssertionError, OSError, ValueError):
            return False

    def workers(self, number: int) -> list[int]:
        """The processes of a node's workers, as far as its gateway answers."""
        try:
            return self.nodes[number].worker_pids()
        except (AssertionError, OSError, ValueError, KeyError):
            return []

    def order_sessions(self, number: int, what: str) -> list[str]:
        """Have the admin port of a node `move` or `end` its sessions; the beginnings of their ids, where it did."""
        node, done = self.nodes[number], []
        try:
            for row in node.sessions():
                url = f"{node.admin_url}/sessions/{row['id']}/{what}"
                if fetch(url, "POST", {"X-Aperture": "1"}).status == 200:
                    done.append(str(row["id"]))
        except (AssertionError, OSError, ValueError):
            pass  # it is not there, or not for long
        return done

    def fail_over(self) -> None:
        """Kill Redis, and have a replica take its place; what the replica has not had yet is lost.

        As Sentinel does it, but that everybody finds the new one where the old one was: how Sentinel is asked is tested
        elsewhere.
        """
        old, new = self.server, _redis_server(replicaof=f"127.0.0.1 {self.server.port}")
        self._stack.enter_context(new)
        wait_until(lambda: new.info("replication")["master_link_status"] == "up", 30, "the replica copies nothing")
        old.kill()
        new.promote(old.socket_path)
        self.server = new

    def redis(self) -> redis.Redis:
        """A client of the site's Redis; close it."""
        return redis.Redis(unix_socket_path=str(self.server.socket_path), socket_timeout=5)

    def log(self) -> str:
        """What all nodes have logged."""
        ended = "".join(f"--- a node that has ended\n{log}" for log in self.ended_logs)
        return ended + "".join(f"--- node {number}\n{node.log()}" for number, node in enumerate(self.nodes))

    async def aside(self, act: Callable[..., T], *arguments: Any, **keywords: Any) -> T:
        """Run something that blocks, while people go on."""
        return await asyncio.to_thread(act, *arguments, **keywords)


def signal_process(pid: int, sign: int) -> bool:
    """Send a signal, if the process is still there."""
    try:
        os.kill(pid, sign)
    except ProcessLookupError:
        return False
    return True
