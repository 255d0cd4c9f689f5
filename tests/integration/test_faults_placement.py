"""Faults of peers, of ids and of descriptors, with a worker, with several, and over two nodes."""

from __future__ import annotations

import re
import resource
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote, urlsplit

import pytest
from support.cluster import PLACEMENTS, placed, session_of
from support.fetch import fetch
from support.node import Node
from support.patience import run, seconds, wait_until
from support.wire import Viewer, page_token

APP = "/relayed"
OPTIONS = ["--unused-session-lifetime", "300", "--check-unused-sessions", "200"]
LONG_ID = "\N{TURTLE}" * 1024
"""4,096 bytes, and three times as many in a URL."""
LONG_IDS = 60
"""More than a datagram between the processes of a node holds."""
DROPS = 400
PAGES = 60


@pytest.fixture(scope="module", params=PLACEMENTS)
def nodes(request: pytest.FixtureRequest) -> Iterator[tuple[Node, Node]]:
    """Where pages are made, and where their viewers connect."""
    with placed(request.param, "relayed.py", *OPTIONS) as nodes:
        yield nodes


def sessions(nodes: tuple[Node, Node]) -> set[str]:
    """How the ids of all sessions begin."""
    return {row["id"] for node in set(nodes) for row in node.sessions()}


def test_a_page_that_is_cut_off_keeps_its_session(nodes: tuple[Node, Node]) -> None:
    """Also where another node has the session: it outlives one whose page was closed after it."""
    made, visited = nodes
    lost, closed = page_token(made.app_url(APP)), page_token(made.app_url(APP))

    async def scenario() -> None:
        async with Viewer.open(visited.ws_url(APP), lost) as viewer:
            await viewer.pull()
            stream: Any = cast("Any", viewer._connection.protocol).stream  # Tornado has no other way to its socket
            stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            stream.close()
        async with Viewer.open(visited.ws_url(APP), closed) as viewer:
            await viewer.pull()

    run(scenario())
    wait_until(lambda: session_of(closed)[:8] not in sessions(nodes), 20, "the session of a closed page stays")
    assert session_of(lost)[:8] in sessions(nodes)
    assert re.search(rf"closed GET {APP}/ws \(\S+\) code 1006", visited.log())


def test_long_session_ids_cost_no_other_session_anything(nodes: tuple[Node, Node]) -> None:
    """They are refused, or served; the list of sessions is whole, and new pages are made."""
    made, _ = nodes
    answers = {fetch(f"{made.app_url(APP)}?bokeh-session-id={quote(f'{n}{LONG_ID}')}").status for n in range(LONG_IDS)}
    assert answers <= {200, 400, 403, 414, 431}, answers
    token = page_token(made.app_url(APP))
    assert session_of(token)[:8] in sessions(nodes)
    assert "Traceback" not in made.log()


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def open_and_ask(node: Node) -> socket.socket:
    where = urlsplit(node.app_url(APP))
    assert where.hostname is not None
    assert where.port is not None
    peer = socket.create_connection((where.hostname, where.port), timeout=seconds(20))
    peer.sendall(f"GET {APP} HTTP/1.1\r\nHost: {where.netloc}\r\n\r\n".encode())
    return peer


def test_connections_dropped_for_want_of_descriptors_do_not_count_as_load(nodes: tuple[Node, Node]) -> None:
    """While the workers can open nothing, requests are answered or closed; afterwards every new page is made."""
    made, _ = nodes
    pids = made.worker_pids()
    before = {pid: resource.prlimit(pid, resource.RLIMIT_NOFILE) for pid in pids}
    for pid in pids:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (descriptors(pid), before[pid][1]))
    served = 0
    try:
        for _ in range(DROPS):
            with open_and_ask(made) as peer:
                served += peer.recv(12) == b"HTTP/1.1 200"  # else a 503, or the end
    finally:
        for pid, limits in before.items():
            resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
    assert served < DROPS / 2, "nothing was dropped, so the test shows nothing"
    assert made.worker_pids() == pids
    wait_until(lambda: fetch(made.app_url(APP)).status == 200, 20, "no page is made")
    assert [fetch(made.app_url(APP)).status for _ in range(PAGES)] == [200] * PAGES
