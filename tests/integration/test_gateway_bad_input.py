"""What a hostile or broken client can send to the gateway, and what it gets."""

from __future__ import annotations

import contextlib
import resource
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.echo_node import EchoNode, echo_node, request
from support.patience import wait_until

HEAD_TIMEOUT = 2.0


@pytest.fixture(scope="module")
def node() -> Iterator[EchoNode]:
    """A node with a short patience for heads."""
    with echo_node(2, head_timeout=HEAD_TIMEOUT, max_head_size=100_000) as running:
        yield running


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"\x00\xff\xfe garbage \r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)), 400),
        (b"GET / HTTP/1.1\r\nA: b\r\n folded\r\n\r\n", 400),
        (b"GET / HTTP/4.0\r\n\r\n", 505),
        (b"GET /" + b"a" * 150_000 + b" HTTP/1.1\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\nCookie: " + b"a" * 150_000 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nCookie: " + b"a" * 1_000_000 + b"\r\n\r\n", 431),
    ],
)
def test_bad_heads_are_answered_and_the_node_goes_on(node: EchoNode, sent: bytes, status: int) -> None:
    """The answer arrives whole even while the client is still sending, and the next client is served."""
    connection = node.connect()
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        connection.send(sent)
    assert connection.response()[0] == status
    assert connection.rest() == b""
    connection.close()
    assert node.ask()["session"] is None


def test_a_refused_client_may_go_on_sending_for_a_while(node: EchoNode) -> None:
    """A reset would destroy the answer on its way to a client that has not read it yet."""
    connection = node.connect()
    connection.send(b"\x00 garbage")
    assert connection.response()[0] == 400
    for _ in range(3):
        connection.send(b"more garbage")
        time.sleep(0.05)
    assert connection.rest() == b""


def test_a_head_sent_one_byte_a_time_is_answered_408_at_the_deadline(node: EchoNode) -> None:
    """Each byte does not buy more time."""
    connection = node.connect()
    started = time.monotonic()
    connection.sock.settimeout(0.1)
    for byte in request("/" + "a" * 500):
        with contextlib.suppress(OSError):
            connection.send(bytes([byte]))
        with contextlib.suppress(TimeoutError):
            if connection.sock.recv(1, socket.MSG_PEEK):
                break
    connection.sock.settimeout(10)
    assert connection.response()[0] == 408
    assert time.monotonic() - started >= HEAD_TIMEOUT * 0.9
    connection.close()


def test_a_connection_that_sends_nothing_is_closed_without_a_word(node: EchoNode) -> None:
    """There is no client to answer."""
    connection = node.connect()
    assert connection.rest() == b""
    connection.close()


def test_a_connection_that_ends_before_its_request_is_nobodys_trouble(node: EchoNode) -> None:
    """Health checks of load balancers connect and leave."""
    for sent in (b"", b"GET / HT"):
        connection = node.connect()
        connection.send(sent)
        connection.close()
    assert node.ask()["session"] is None


def test_the_largest_session_id_and_head_still_fit_a_hand_over(node: EchoNode) -> None:
    """Limits are such that nothing acceptable is too large for one datagram."""
    name = "%C3%A9" * 512
    answer = node.ask(f"/?bokeh-session-id={name}", "Cookie: " + "c" * 90_000)
    assert answer["session"] == "é" * 512


def silent(port: int, count: int) -> list[socket.socket]:
    """Connections that send nothing."""
    return [socket.create_connection(("127.0.0.1", port), timeout=10) for _ in range(count)]


def test_silent_connections_above_the_bound_push_out_the_oldest() -> None:
    """Those in reading never exceed the setting, and new ones are always served."""
    with echo_node(1, max_pending_connections=50, head_timeout=60.0) as node:
        sockets = silent(node.port, 200)
        assert node.ask()["session"] is None
        sockets[0].settimeout(10)
        assert sockets[0].recv(1) == b""
        sockets[-1].sendall(request())
        assert sockets[-1].recv(15) == b"HTTP/1.1 200 OK"
        for sock in sockets:
            sock.close()


MOST_PER_CONNECTION = 4096
"""Bytes of the gateway's memory: a few Python objects and no buffer."""


def resident(pid: int) -> int:
    """Bytes of memory that a process has."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()


def test_ten_thousand_silent_connections_keep_nobody_out() -> None:
    """A flood of idle connections costs the node nothing but its own bound, in memory, too."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 11_000:
        pytest.skip(f"this machine allows only {hard} descriptors")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 11_000), hard))
    try:
        with echo_node(1, head_timeout=60.0) as node:
            assert node.ask()["session"] is None
            before = resident(node.gateway())
            sockets = silent(node.port, 10_000)
            try:
                for _ in range(20):
                    assert node.ask()["session"] is None
                assert resident(node.gateway()) - before < MOST_PER_CONNECTION * 10_000
            finally:
                for sock in sockets:
                    sock.close()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_running_out_of_descriptors_is_survived() -> None:
    """The gateway sheds what is oldest, pauses, and serves again."""
    with echo_node(1, max_pending_connections=100_000, head_timeout=3.0) as node:
        limit = 60
        resource.prlimit(node.gateway(), resource.RLIMIT_NOFILE, (limit, limit))
        sockets = silent(node.port, 200)
        wait_until(lambda: "cannot accept" in node.logged())
        for sock in sockets:
            sock.close()
        assert node.ask()["session"] is None
