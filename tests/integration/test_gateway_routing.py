"""Connections reach the worker they belong to, through real processes."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from support.echo_node import Connection, EchoNode, echo_node, request
from support.patience import wait_until

from aperture.gateway.front.routing import SILENCE


@pytest.fixture
def node() -> Iterator[EchoNode]:
    """A node with three workers."""
    with echo_node(3) as running:
        yield running


def token(session_id: str) -> str:
    """A token as Bokeh writes it."""
    return base64.urlsafe_b64encode(json.dumps({"session_id": session_id}).encode()).decode().rstrip("=")


def test_a_session_stays_with_its_worker_wherever_its_id_is_found(node: EchoNode) -> None:
    """Query, token, header and subprotocol lead to the same worker."""
    for number in range(6):
        name = f"session{number}"
        answers = [
            node.ask(f"/?bokeh-session-id={name}"),
            node.ask(f"/?bokeh-token={token(name)}"),
            node.ask("/", f"Bokeh-Session-Id: {name}"),
            node.ask("/ws", f"Sec-WebSocket-Protocol: bokeh, {token(name)}.signature"),
        ]
        assert {answer["session"] for answer in answers} == {name}
        assert len({answer["pid"] for answer in answers}) == 1


def test_new_sessions_spread_over_the_workers(node: EchoNode) -> None:
    """The least loaded worker gets the next unknown session; the exact order is tested with the table alone."""
    share = Counter(answer["worker"] for answer in node.sessions_of_all().values())
    assert set(share) == {0, 1, 2}


def test_the_whole_request_reaches_the_worker(node: EchoNode) -> None:
    """What was read beyond the head travels along, and a head in pieces is put together."""
    raw = b"POST /x HTTP/1.1\r\nContent-Length: 5\r\nCookie: " + b"c" * 65_536 + b"\r\n\r\nhello"
    connection = node.connect()
    for start in range(0, len(raw), 9_000):
        connection.send(raw[start : start + 9_000])
        time.sleep(0.002)
    status, body = connection.response()
    assert (status, json.loads(body)["received"]) == (200, len(raw))
    connection.close()


def test_a_kept_alive_connection_is_routed_again_for_each_session(node: EchoNode) -> None:
    """An ingress sends requests of many people down one connection; each finds its own worker."""
    owners = {name: answer["worker"] for name, answer in node.sessions_of_all().items()}
    connection = node.connect()
    for name in [*owners, *owners, *reversed(owners)]:
        assert connection.ask(f"/?bokeh-session-id={name}")["worker"] == owners[name]
    assert connection.echo(b"still here") == b"still here"
    connection.close()


def test_a_worker_that_is_stuck_gets_no_new_sessions(node: EchoNode) -> None:
    """Its load report grows old, and the others are chosen."""
    stuck = node.ask()
    os.kill(stuck["pid"], signal.SIGSTOP)
    try:
        wait_until(lambda: node.lag(stuck["worker"]) > SILENCE, 20, "its report is not overdue")
        assert stuck["worker"] not in {node.ask()["worker"] for _ in range(6)}
    finally:
        os.kill(stuck["pid"], signal.SIGCONT)


def test_kill_9_of_the_gateway_leaves_connections_and_sessions_alone(node: EchoNode) -> None:
    """Established connections do not notice, and new ones find their sessions through the next gateway."""
    owners = {name: node.ask(f"/?bokeh-session-id={name}")["worker"] for name in map(str, range(9))}
    connections = [node.connect() for _ in range(5)]
    for connection in connections:
        connection.ask("/")
    before = node.gateway()
    os.kill(before, signal.SIGKILL)
    # All of them are there before the next gateway has heard from any worker.
    waiting = {name: node.connect() for name in reversed(owners)}
    for name, connection in waiting.items():
        connection.send(request(f"/?bokeh-session-id={name}"))
    found = {name: json.loads(connection.response()[1])["worker"] for name, connection in waiting.items()}
    assert found == owners
    for connection in connections:
        assert connection.echo(b"alive") == b"alive"
        connection.close()
    assert node.gateway() != before


def test_kill_9_of_a_worker_moves_its_waiting_connections_to_the_others(node: EchoNode) -> None:
    """Connections that it had not adopted yet are answered by another worker, and other sessions do not notice."""
    answers = node.sessions_of_all()
    (victim, answer), *others = answers.items()
    other = next(name for name, its in others if its["worker"] != answer["worker"])
    bystander = node.connect()
    bystander.ask(f"/?bokeh-session-id={other}")
    os.kill(answer["pid"], signal.SIGSTOP)
    waiting = [node.connect() for _ in range(5)]
    for connection in waiting:
        connection.send(request(f"/?bokeh-session-id={victim}"))
    time.sleep(0.3)  # the gateway hands them over; a later one would find the worker dead
    os.kill(answer["pid"], signal.SIGKILL)
    responses = [connection.response() for connection in waiting]
    assert [status for status, _ in responses] == [200] * 5
    served_by = {(json.loads(body)["worker"], json.loads(body)["generation"]) for _, body in responses}
    assert len(served_by) == 1
    assert served_by != {(answer["worker"], 0)}
    assert bystander.echo(b"alive") == b"alive"
    wait_until(lambda: len(node.workers()) == 3, why="the worker is replaced")
    assert answer["pid"] not in node.workers().values()
    bystander.close()
    for connection in waiting:
        connection.close()


def test_connections_wait_while_no_worker_is_up() -> None:
    """With its only worker dead, a node keeps new connections until the next one serves."""
    with echo_node(1, mode="slow boot") as node:
        pid = node.ask("/?bokeh-session-id=a")["pid"]
        os.kill(pid, signal.SIGKILL)
        time.sleep(0.2)
        answer = node.ask("/?bokeh-session-id=a")
        assert (answer["generation"], answer["pid"] != pid) == (1, True)


def test_a_unix_socket_serves_too() -> None:
    """The same node behind a socket file, which it removes when it ends; a stale file is no obstacle."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "node.sock"
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(path))
        with echo_node(1, unix_socket=str(path)):
            sock = socket.socket(socket.AF_UNIX)
            sock.connect(str(path))
            connection = Connection(sock)
            assert connection.ask("/?bokeh-session-id=a")["peer"] is None
            connection.close()
        assert not path.exists()


def test_sessions_and_workers_are_listed(node: EchoNode) -> None:
    """Operators see every session, its id cut short, and every worker."""
    for number in range(7):
        node.ask(f"/?bokeh-session-id=secret-session-{number}")
    listed = json.loads(node.admin("/sessions")[1])
    assert listed["missing"] == []
    assert [row["id"] for row in listed["sessions"]] == ["secret-s"] * 7
    assert set(listed["sessions"][0]) == {
        "id", "app", "node", "worker", "pid", "epoch", "connections", "edges", "age_seconds",
    }  # fmt: skip
    workers = json.loads(node.admin("/workers")[1])
    assert workers["supervisor"]["pid"] == node.process.pid
    assert [row["worker"] for row in workers["workers"]] == [0, 1, 2]


def test_a_worker_that_does_not_answer_is_listed_as_missing(node: EchoNode) -> None:
    """One stuck worker does not hide the sessions of the others."""
    answers = list(node.sessions_of_all().values())
    stuck = answers[0]
    os.kill(stuck["pid"], signal.SIGSTOP)
    try:
        listed = json.loads(node.admin("/sessions")[1])
    finally:
        os.kill(stuck["pid"], signal.SIGCONT)
    assert listed["missing"] == [stuck["worker"]]
    assert len(listed["sessions"]) == sum(answer["worker"] != stuck["worker"] for answer in answers)


def is_another(node: EchoNode, worker: int, pid: int) -> bool:
    """Whether this place has not, or no longer, that process."""
    return node.workers().get(worker) != pid


def test_readiness_follows_the_workers(node: EchoNode) -> None:
    """Alive is not ready: with a worker down the node says so, and which."""
    assert node.admin("/livez") == (200, "ok")
    assert node.admin("/readyz")[0] == 200
    assert node.admin("/readyz", "HEAD") == (200, "")

    def falls_short() -> str:
        """Each death in a row is answered with a longer delay."""
        pid = wait_until(lambda: node.workers().get(1, 0))
        os.kill(pid, signal.SIGKILL)
        wait_until(partial(is_another, node, 1, pid))
        status, text = node.admin("/readyz?verbose")
        return text if status == 503 else ""

    assert "[-] worker-1" in wait_until(falls_short, 30)
    wait_until(lambda: node.admin("/readyz")[0] == 200)


def test_extensions_known_to_one_worker_are_told_to_the_next(node: EchoNode) -> None:
    """The folders of all workers are merged."""
    pid = node.workers()[0]
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: node.workers().get(0, pid) != pid)
    wait_until(lambda: any(len(node.ask()["extensions"]) == 3 for _ in range(3)))
