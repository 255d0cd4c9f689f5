"""What strangers may hold of a worker behind the hand-over: the second head of a connection, and bodies."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import closing
from urllib.parse import urlsplit

import pytest
from support.fetch import fetch
from support.node import Node
from support.patience import seconds

from aperture.worker.http.bodies import OWN_BODY


@pytest.fixture(scope="module", params=["1", "3"])
def node(request: pytest.FixtureRequest) -> Iterator[Node]:
    """A node with a short time for heads."""
    with Node("raising.py", options=["--num-procs", request.param, "--head-timeout", "1"]) as node:
        yield node
        assert fetch(node.app_url("/raising")).status == 200, "the server did not go on"


def connect(node: Node) -> socket.socket:
    """A connection of its own."""
    where = urlsplit(node.url)
    return socket.create_connection((where.hostname, where.port), timeout=seconds(30))


def until_closed(connection: socket.socket) -> bytes:
    """Everything that still comes."""
    received = b""
    while chunk := connection.recv(65536):
        received += chunk
    return received


def test_a_second_head_that_does_not_end_is_answered_and_closed(node: Node) -> None:
    """As a first one is by the gateway."""
    with closing(connect(node)) as connection:
        connection.sendall(b"GET /raising/autoload.js?bokeh-autoload-element=1 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        head = b""
        while b"\r\n\r\n" not in head:
            head += connection.recv(65536)
        assert head.startswith(b"HTTP/1.1 200 ")
        connection.sendall(b"GET /raising HTTP/1.1\r\nHost:")
        assert b"HTTP/1.1 408 " in until_closed(connection)


def test_a_second_head_with_folded_lines_is_refused(node: Node) -> None:
    """As a first one is: what two parsers read differently is how requests are smuggled."""
    with closing(connect(node)) as connection:
        connection.sendall(b"GET /raising/autoload.js?bokeh-autoload-element=1 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        while b"\r\n\r\n" not in connection.recv(65536):
            pass
        connection.sendall(b"GET /raising HTTP/1.1\r\nHost: localhost\r\nX-A: b\r\n c\r\n\r\n")
        assert b"HTTP/1.1 200" not in until_closed(connection)


def test_a_body_that_no_route_of_ours_reads_is_refused_before_it_is_sent(node: Node) -> None:
    """By what the head says, so nothing of it is held."""
    with closing(connect(node)) as connection:
        connection.sendall(b"POST /raising HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % (OWN_BODY + 1))
        assert until_closed(connection).startswith(b"HTTP/1.1 413 ")


def test_a_body_without_a_length_is_bounded_as_well(node: Node) -> None:
    """The connection is closed when more has come than is taken."""
    chunk = b"1000\r\n" + b"x" * 0x1000 + b"\r\n"
    with closing(connect(node)) as connection:
        connection.sendall(b"POST /raising HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
        try:
            for _ in range(10_000):
                connection.sendall(chunk)
        except OSError:
            return
        raise AssertionError("40 MB were taken")
