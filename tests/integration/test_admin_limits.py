"""What strangers may send to the admin port, and how they may leave: of a node, and of a server in a program."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from typing import cast
from urllib.parse import urlsplit

import pytest
from support.fetch import fetch
from support.node import Node
from support.patience import run
from support.redis import free_port

from aperture import Server
from aperture.config.settings import Settings
from aperture.gateway.admin.endpoints import MAX_BODY, MAX_HEAD, admin_application, serve_admin
from aperture.gateway.front.workers import NodeWorkers, Survey
from aperture.wire.accounts import Load, SessionRow
from aperture.wire.node_messages import LoadReport

TOKEN = "a-token-of-the-test"
TOO_MUCH = 50_000_000


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    with Node("context.py", options=["--admin-token", TOKEN]) as node:
        yield node


def order(*headers: str) -> bytes:
    """The head of a POST that brings no token."""
    return "\r\n".join(["POST /sessions/abcdefgh/end HTTP/1.1", "Host: localhost", *headers, "", ""]).encode()


CHUNK = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
STRANGERS = [
    pytest.param(order(f"Content-Length: {TOO_MUCH}"), 400, id="a length over the limit"),
    pytest.param(order("Transfer-Encoding: chunked") + CHUNK + CHUNK, 400, id="chunks over the limit"),
    pytest.param(order(f"Cookie: {'x' * MAX_HEAD}"), None, id="a head over the limit"),
]


async def status_of(port: int, sent: bytes) -> int | None:
    """What is answered to these bytes before anything else is sent; None for a close without a word."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(sent)
        line = await reader.readline()
        return int(line.split()[1]) if line else None
    except ConnectionError:
        return None
    finally:
        writer.close()


@pytest.mark.parametrize(("sent", "status"), STRANGERS)
def test_the_gateway_keeps_nothing_large_for_strangers(node: Node, sent: bytes, status: int | None) -> None:
    """It refuses by the head, before the body and before it asks for the token, and goes on."""
    assert run(status_of(urlsplit(node.admin_url).port or 0, sent)) == status
    assert fetch(node.admin_url + "/livez").status == 200
    assert "Traceback" not in node.log()


@pytest.mark.parametrize(("sent", "status"), STRANGERS)
def test_nor_does_a_server_in_a_program(sent: bytes, status: int | None) -> None:
    """The same limits."""
    port = free_port()

    async def scenario() -> None:
        async with Server(lambda document: None, port=0, admin_port=port, admin_token=TOKEN):
            assert await status_of(port, sent) == status

    run(scenario())


def test_a_small_body_is_nobodys_trouble(node: Node) -> None:
    """Some clients send one with every POST; without a token it is 401 that they get."""
    assert fetch(f"{node.admin_url}/sessions/abcdefgh/end", "POST", body=b"x" * MAX_BODY).status == 401


SESSIONS = 60_000
"""More than ten megabytes of rows, which no socket's buffers hold."""


class _Crowded:
    """The workers of a node with one worker with many sessions."""

    draining = False
    workers = range(1)
    up = (0,)
    pids: dict[int, int] = {0: os.getpid()}  # noqa: RUF012

    @property
    def table(self) -> _Crowded:
        return self

    def last_report(self, worker: int) -> LoadReport:
        return LoadReport(Load(SESSIONS, 0, 0.0, 0), 0)

    async def ask(self, workers: Iterable[int], deadline: float) -> Survey:
        rows = [SessionRow(f"{number:044}", "/app", 1, 0, 0, 1.0) for number in range(SESSIONS)]
        return Survey(0, set(), sessions={0: rows})


@asynccontextmanager
async def endpoints() -> AsyncIterator[int]:
    """The admin endpoints of that worker; their port."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    application = admin_application(cast("NodeWorkers", _Crowded()), os.getpid(), Settings(admin_port=1))
    server = serve_admin(application, [listener])
    try:
        yield listener.getsockname()[1]
    finally:
        server.stop()
        await server.close_all_connections()


def test_who_leaves_a_long_list_is_not_mentioned(caplog: pytest.LogCaptureFixture) -> None:
    """Their connection ends in the middle of an answer that has millions of bytes to go."""
    caplog.set_level(logging.INFO)

    async def scenario() -> None:
        async with endpoints() as port:
            others = asyncio.all_tasks()
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /sessions HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert b"200" in await reader.readline()
            writer.transport.abort()
            while asyncio.all_tasks() - others:
                await asyncio.sleep(0)

    run(scenario())
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
