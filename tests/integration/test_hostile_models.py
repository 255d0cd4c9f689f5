"""Messages that ask for far more work or memory than they are long, or nest deeper than encoders can follow: refused
wherever the session is, and others are served."""

from __future__ import annotations

import asyncio
import base64
import gzip
import signal
from collections.abc import Iterator
from functools import reduce
from typing import Any

import pytest
from support.cluster import PLACEMENTS, Follower, Owner, placed, session_of
from support.memory import peak
from support.node import Node
from support.patience import run
from support.wire import ConnectionEnded, Viewer, page_token

APP = "/relayed"

TOO_BIG = 1009

INFLATED = 128 * 1024 * 1024
TEXTS = 6
TAKEN = 1024 * 1024 * 1024
"""Bytes that a worker may take for such a message at most: its budget, beside what Python takes in passing."""

DEPTHS = (90, 316, 400, 480)
"""The first is taken; the others can be decoded, and what holds them can be encoded by nothing."""


@pytest.fixture(scope="module", params=PLACEMENTS)
def nodes(request: pytest.FixtureRequest) -> Iterator[tuple[Node, Node]]:
    """Where pages are made, and where their viewers connect."""
    with placed(request.param, "relayed.py", "--durability", "ack") as nodes:
        yield nodes


def owner_of(nodes: tuple[Node, Node], token: str) -> Owner:
    """Who has the session of a token."""
    found = {
        row["pid"]: Owner(node, row)
        for node in nodes
        for row in node.sessions()
        if session_of(token).startswith(str(row["id"]))
    }
    assert len(found) == 1, f"{len(found)} workers have the session"
    return next(iter(found.values()))


def change(viewer: Viewer, new: list[Any]) -> list[dict[str, Any]]:
    return [{"kind": "ModelChanged", "model": {"id": viewer.model("seen").id}, "attr": "tags", "new": new}]


def test_twenty_thousand_plots_by_name_cost_their_sender_the_connection(nodes: tuple[Node, Node]) -> None:
    """In 900 KB; the other viewer of the session goes on."""
    made, visited = nodes

    async def scenario() -> None:
        token = page_token(made.app_url(APP))
        url = visited.ws_url(APP)
        async with Viewer.open(url, token) as bad, Viewer.open(url, token) as good:
            await bad.pull()
            await good.pull()
            plots = [{"type": "object", "name": "Figure", "id": f"n{number}"} for number in range(20_000)]
            await bad.send_patch(change(bad, plots))
            assert await bad.wait_closed() == TOO_BIG
            assert (await good.set("slider", "value", 2)).msgtype == "OK"

    run(scenario())
    owner = made if "broke the protocol" in made.log() else visited
    assert owner.log().count("broke the protocol: too many models") == 1


def test_a_chain_of_models_over_messages_is_refused_while_others_can_still_pull(nodes: tuple[Node, Node]) -> None:
    """Each message is flat, and nests what the one before it has made."""
    made, visited = nodes

    async def scenario() -> None:
        token = page_token(made.app_url(APP))
        url = visited.ws_url(APP)
        async with Viewer.open(url, token) as bad:
            await bad.pull()
            inside: list[Any] = []
            for number in range(150):
                model = {"type": "object", "name": "Div", "id": f"n{number}", "attributes": {"tags": inside}}
                if (await bad.patch(change(bad, [model]))).msgtype == "ERROR":
                    break
                inside = [{"id": f"n{number}"}]
            else:
                raise AssertionError("there is no bound")
            assert number > 20
            async with Viewer.open(url, token) as other:
                await other.pull()
                assert other.value("slider", "value") == 0

    run(scenario())


def test_six_texts_of_gzipped_zeros_take_no_gigabytes(nodes: tuple[Node, Node]) -> None:
    """In 1 MB; their sender is closed with one line, and the other viewer and the neighbours go on."""
    made, visited = nodes
    text = base64.b64encode(gzip.compress(bytes(INFLATED))).decode()

    async def scenario(token: str, url: str) -> None:
        neighbour = await asyncio.to_thread(page_token, made.app_url(APP))
        async with (
            Viewer.open(url, token) as bad,
            Viewer.open(url, token) as good,
            Viewer.open(url, neighbour) as beside,
        ):
            for viewer in (bad, good, beside):
                await viewer.pull()
            await bad.send_patch(change(bad, [{"type": "bytes", "data": text}] * TEXTS))
            assert await bad.wait_closed() == TOO_BIG
            assert (await good.set("slider", "value", 3)).msgtype == "OK"
            assert (await beside.set("slider", "value", 4)).msgtype == "OK"

    token = page_token(made.app_url(APP))
    pids = {pid: node for node in nodes for pid in node.worker_pids()}
    before = {pid: peak(pid) for pid in pids}
    run(scenario(token, visited.ws_url(APP)))
    assert {pid for node in nodes for pid in node.worker_pids()} == set(pids), "a worker has ended"
    assert max(peak(pid) - before[pid] for pid in pids) < TAKEN
    session = session_of(token)[:8]
    lines = [line for node in set(nodes) for line in node.log().splitlines() if "broke the protocol" in line]
    assert len([line for line in lines if session in line]) == 1, lines


def test_a_list_nested_too_deeply_costs_nobody_the_session(nodes: tuple[Node, Node]) -> None:
    """In one message; others can still pull, and what was stored is still there when the worker is killed."""
    made, visited = nodes

    async def nest(url: str, token: str, depth: int) -> str:
        nested: list[Any] = reduce(lambda inside, _: [inside], range(depth), [])
        async with Viewer.open(url, token) as bad:
            await bad.pull()
            try:
                return (await bad.patch(change(bad, nested))).msgtype
            except ConnectionEnded as ended:
                return str(ended.code)

    async def scenario(token: str, url: str) -> None:
        async with Viewer.open(url, token) as viewer:
            await viewer.pull()
            for number, depth in enumerate(DEPTHS, 1):
                assert (await viewer.set("slider", "value", number)).msgtype == "OK"
                assert await nest(url, token, depth) == ("OK" if depth == DEPTHS[0] else "ERROR")
                async with Viewer.open(url, token) as other:
                    await other.pull()
                    assert other.value("slider", "value") == number
        owner = await asyncio.to_thread(owner_of, nodes, token)
        owner.node.kill(owner.pid, signal.SIGKILL)
        await Follower(url, token).follow(lambda found: bool(found.value("slider", "value") == len(DEPTHS)))

    run(scenario(page_token(made.app_url(APP)), visited.ws_url(APP)))
    for node in set(nodes):
        assert "starts afresh" not in node.log()
        assert "Traceback" not in node.log()
