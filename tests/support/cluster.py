"""Several nodes over one Redis, behind nginx: the whole installation, for the time of a `with` block."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import redis
from support.node import Node
from support.patience import POLL, wait_until
from support.proxy import Nginx
from support.redis import RedisServer
from support.wire import ConnectionEnded, Viewer, WireMessage
from tornado.httpclient import HTTPClientError

from aperture.protocol.tokens import read_session_id

__all__ = [
    "NAMESPACE",
    "PLACEMENTS",
    "Cluster",
    "Follower",
    "Owner",
    "patches_of",
    "placed",
    "places_of",
    "session_of",
    "steady_viewer",
]

NAMESPACE = "cluster-test"


@dataclass(frozen=True, slots=True)
class Owner:
    """Who has a session: the node, and the row of `/sessions` that says so."""

    node: Node
    row: Mapping[str, Any]

    @property
    def pid(self) -> int:
        pid: int = self.row["pid"]
        return pid

    @property
    def epoch(self) -> int:
        epoch: int = self.row["epoch"]
        return epoch


class Cluster:
    """Nodes over one Redis behind a proxy that knows nothing of sessions.

    Args:
        apps: that each node serves.
        nodes: how many.
        workers: of each node.
        options: of each node.
        env: of each node.
        server: the Redis, running already; by default one is started for the cluster.
        redis_urls: where each node thinks that Redis is, if there is something in between; by default where it is.
        kind: of node, by the command that it runs.
    """

    name: ClassVar[str] = "cluster"

    def __init__(
        self,
        *apps: str | Path,
        nodes: int = 2,
        workers: int = 2,
        options: Sequence[str] = (),
        env: Mapping[str, str | None] | None = None,
        server: RedisServer | None = None,
        redis_urls: Sequence[str] | None = None,
        kind: type[Node] = Node,
    ) -> None:
        self.server = server or RedisServer()
        self._owns_server = server is None
        shared = ["--redis-namespace", NAMESPACE, "--num-procs", str(workers), *options]
        urls = redis_urls or [self.server.url] * nodes
        self.nodes = [kind(*apps, options=["--redis-url", url, *shared], env=env, wait=False) for url in urls]
        self._workers = workers
        self._stack = ExitStack()
        self.url = ""
        """Of the proxy, without a trailing slash."""

    def __enter__(self) -> Cluster:
        with ExitStack() as stack:
            if self._owns_server:
                stack.enter_context(self.server)
            for node in self.nodes:
                stack.enter_context(node)
            for node in self.nodes:
                node.await_ready()
            wait_until(lambda: all(self._is_whole(node) for node in self.nodes), 30, "a worker is missing")
            proxy = stack.enter_context(Nginx([f"127.0.0.1:{node.port}" for node in self.nodes]))
            self.url = proxy.url
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc_info: Any) -> None:
        self._stack.__exit__(*exc_info)

    def _is_whole(self, node: Node) -> bool:
        return len(node.workers()) == self._workers

    # Where

    def app_url(self, app: str) -> str:
        """The URL of an app, through the proxy."""
        return self.url + app

    def ws_url(self, app: str) -> str:
        """The websocket URL of an app, through the proxy."""
        return "ws" + self.url.removeprefix("http") + app + "/ws"

    # Who

    def worker_pids(self) -> list[int]:
        """Of all nodes."""
        return [pid for node in self.nodes for pid in node.worker_pids()]

    def owners(self, session_id: str) -> list[Owner]:
        """All who say that they have the session."""
        return [
            Owner(node, row) for node in self.nodes for row in node.sessions() if session_id.startswith(str(row["id"]))
        ]

    def owner(self, session_id: str) -> Owner:
        """Who has the session; there must be exactly one."""
        found = self.owners(session_id)
        assert len(found) == 1, f"{len(found)} workers have the session"
        return found[0]

    def other(self, node: Node) -> Node:
        """Another node."""
        return next(other for other in self.nodes if other is not node)

    def log(self) -> str:
        """What all nodes have logged so far."""
        return "".join(node.log() for node in self.nodes)

    # Redis

    def redis(self) -> redis.Redis:
        """A client of the cluster's Redis; close it."""
        return redis.Redis(unix_socket_path=str(self.server.socket_path))

    def commands(self) -> dict[str, int]:
        """How often each command of Redis has been called so far, those of scripts among them."""
        with self.redis() as client:
            stats = client.info("commandstats")
        return {name.removeprefix("cmdstat_"): row["calls"] for name, row in stats.items()}


def session_of(token: str) -> str:
    """The session that a token is for."""
    session_id = read_session_id(token)
    assert session_id is not None
    return session_id


PLACEMENTS = ("1 worker", "3 workers", "two nodes")
"""Ways in which a page's worker and its viewers' can be apart."""


@contextmanager
def placed(
    placement: str, app: str, *options: str, env: Mapping[str, str | None] | None = None
) -> Iterator[tuple[Node, Node]]:
    """The node where pages are made, and the one where their viewers connect, in one of `PLACEMENTS`."""
    with ExitStack() as stack:
        if placement == "two nodes":
            server = stack.enter_context(RedisServer())
            shared = ["--redis-url", server.url, "--redis-namespace", NAMESPACE, "--num-procs", "1", *options]
            made, visited = (stack.enter_context(Node(app, options=shared, env=env)) for _ in range(2))
        else:
            alone = Node(app, options=["--num-procs", placement[0], *options], env=env)
            made = visited = stack.enter_context(alone)
        yield made, visited


@asynccontextmanager
async def steady_viewer(ws_url: str, token: str) -> AsyncIterator[Viewer]:
    """A viewer that has pulled the document."""
    async with Viewer.open(ws_url, token) as viewer:
        await viewer.pull()
        yield viewer


@dataclass(slots=True)
class Follower:
    """A viewer that comes back whenever it is closed, as BokehJS does, until it has seen what it waits for.

    Args:
        url: of the websocket.
        token: of the page.
    """

    url: str
    token: str
    closes: list[int | None] = field(default_factory=list)
    """With what codes it was closed."""
    places: list[tuple[int, int]] = field(default_factory=list)
    """Epoch and sequence number of each patch received over the last connection."""
    connected: asyncio.Event = field(default_factory=asyncio.Event)
    """While it has the document."""

    async def follow(self, done: Callable[[Viewer], bool]) -> None:
        """Read until the condition holds for the viewer and its document."""
        while not await self._connection(done):
            await asyncio.sleep(POLL)

    async def _connection(self, done: Callable[[Viewer], bool]) -> bool:
        try:
            async with steady_viewer(self.url, self.token) as viewer:
                self.connected.set()
                try:
                    while not done(viewer):
                        await viewer.next_message()
                finally:
                    self.connected.clear()
                    self.places = places_of(viewer)
                return True
        except ConnectionEnded as ended:
            self.closes.append(ended.code)
        except (HTTPClientError, OSError):
            self.closes.append(None)
        return False


def patches_of(viewer: Viewer) -> list[WireMessage]:
    """The patches that a viewer has received."""
    return [message for message in viewer.received if message.msgtype == "PATCH-DOC"]


def places_of(viewer: Viewer) -> list[tuple[int, int]]:
    """Epoch and sequence number of each patch that a viewer has received."""
    return [(message.metadata["epoch"], message.metadata["seq"]) for message in patches_of(viewer)]
