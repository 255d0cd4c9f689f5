"""A `Server` inside a program as a node of a cluster, beside one of `aperture serve`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from support.aside import ServerAside
from support.node import APPS, Node
from support.patience import run, wait_until
from support.redis import RedisServer
from support.wire import Viewer, page_token

from aperture import Server
from aperture.gateway.cli import load_applications

NAMESPACE = "server-in-a-cluster"
ROUTE = "/counting"


@dataclass(frozen=True, slots=True)
class Pair:
    """A program's server and a node of two workers over one Redis."""

    aside: ServerAside
    node: Node

    @property
    def inside(self) -> str:
        return f"{self.aside.ws_url}{ROUTE}/ws"

    @property
    def outside(self) -> str:
        return self.node.ws_url(ROUTE)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    runs = str(tmp_path_factory.mktemp("runs") / "runs")
    with RedisServer() as redis, pytest.MonkeyPatch.context() as patch:
        patch.setenv("APP_RUNS", runs)
        options = ["--redis-url", redis.url, "--redis-namespace", NAMESPACE, "--num-procs", "2"]
        apps = load_applications([str(APPS / "counting.py")], [])
        with (
            Node("counting.py", options=options) as node,
            ServerAside(Server, apps, redis_url=redis.url, redis_namespace=NAMESPACE) as aside,
        ):
            yield Pair(aside, node)


def title_of(viewer: Viewer) -> str:
    return str(viewer.value("plot", "title").text)


async def rename(viewer: Viewer, title: str) -> None:
    model = {"id": viewer.value("plot", "title").id}
    event = {"kind": "ModelChanged", "model": model, "attr": "text", "new": title}
    assert (await viewer.patch([event])).msgtype == "OK"


def test_a_session_of_the_program_seen_from_the_node(pair: Pair) -> None:
    """The program has it; a viewer on the node sees its changes and makes some."""
    token = wait_for_page(f"{pair.aside.url}{ROUTE}")

    async def scenario() -> None:
        async with Viewer.open(pair.inside, token) as here, Viewer.open(pair.outside, token) as there:
            await here.pull()
            await there.pull()
            await rename(here, "from inside")
            while title_of(there) != "from inside":
                await there.next_message()
            await rename(there, "from outside")
            while title_of(here) != "from outside":
                await here.next_message()
            assert len(pair.aside.server.get_sessions(ROUTE)) == 1
            (session,) = pair.aside.server.get_sessions(ROUTE)
            assert session.connection_count == 2

    run(scenario())


def test_a_session_of_the_node_seen_from_the_program(pair: Pair) -> None:
    """The other way round: the program carries bytes, and app code runs once, on the node."""
    before = {session.id for session in pair.aside.server.get_sessions()}
    token = page_token(pair.node.app_url(ROUTE))

    async def scenario() -> None:
        async with Viewer.open(pair.inside, token) as here, Viewer.open(pair.outside, token) as there:
            await here.pull()
            await there.pull()
            await rename(here, "by an edge")
            while title_of(there) != "by an edge":
                await there.next_message()

    run(scenario())
    assert {session.id for session in pair.aside.server.get_sessions()} <= before


def test_what_the_program_had_goes_on_elsewhere(pair: Pair) -> None:
    """When a program's server stops, it hands its sessions over: the page comes back to the node, state and all."""
    apps = load_applications([str(APPS / "counting.py")], [])
    redis = pair.aside.server._form.settings.redis_url
    with ServerAside(Server, apps, redis_url=redis, redis_namespace=NAMESPACE) as other:
        token = wait_for_page(f"{other.url}{ROUTE}")

        async def change() -> None:
            async with Viewer.open(f"{other.ws_url}{ROUTE}/ws", token) as viewer:
                await viewer.pull()
                await rename(viewer, "kept")

        run(change())

    async def look() -> str:
        async with Viewer.open(pair.outside, token) as viewer:
            await viewer.pull()
            return title_of(viewer)

    assert run(look()) == "kept"


def wait_for_page(url: str) -> str:
    """A server in a cluster accepts as soon as it has entered it."""
    tokens: list[str] = []

    def ask() -> bool:
        try:
            tokens.append(page_token(url))
        except OSError:
            return False
        return True

    wait_until(ask)
    return tokens[-1]
