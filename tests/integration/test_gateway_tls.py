"""TLS ends in the gateway, and the worker behind it sees plain bytes."""

from __future__ import annotations

import asyncio
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import cast

import pytest
from support.echo_node import PATIENCE, Connection, EchoNode, Plan, echo_node, request
from support.node import Node
from support.patience import run, seconds, wait_until
from support.wire import Viewer, page_token

from aperture.errors import ExitCode
from aperture.gateway.front.tls import Pumps
from aperture.liveness import UNACKNOWLEDGED_LIMIT

HEAD_TIMEOUT = 2.0


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A self-signed certificate and its key."""
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-days", "2", "-subj", "/CN=localhost", "-keyout", str(key), "-out", str(cert)]
    subprocess.run(command, check=True, capture_output=True)
    return str(cert), str(key)


@pytest.fixture(scope="module")
def node(certificate: tuple[str, str]) -> Iterator[EchoNode]:
    """A node that speaks TLS."""
    with echo_node(2, tls=certificate, head_timeout=HEAD_TIMEOUT) as running:
        yield running


def secure(node: EchoNode) -> Connection:
    """A TLS connection to the node."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return node.wrap(context.wrap_socket(socket.create_connection(("127.0.0.1", node.port), timeout=PATIENCE)))


def test_requests_and_echoes_pass_through_tls(node: EchoNode) -> None:
    """The worker learns that it was TLS, and the connection goes both ways afterwards."""
    connection = secure(node)
    answer = connection.ask("/?bokeh-session-id=t")
    assert (answer["tls"], answer["session"]) == (True, "t")
    assert connection.echo(b"x" * 100_000) == b"x" * 100_000
    assert connection.ask("/?bokeh-session-id=t")["pid"] == answer["pid"]
    connection.close()


def test_a_session_keeps_its_worker_over_many_tls_connections(node: EchoNode) -> None:
    """Routing is the same as without TLS, also when a request is handed back."""
    connection = secure(node)
    for name in ("a", "b", "a", "b"):
        other = secure(node)
        assert other.ask(f"/?bokeh-session-id={name}")["pid"] == connection.ask(f"/?bokeh-session-id={name}")["pid"]
        other.close()
    connection.close()


def test_a_large_response_arrives_whole_however_slowly_it_is_read(node: EchoNode) -> None:
    """The pump holds little, and waits for both sides; the end of the response is the end of the connection."""
    size = 8_000_000
    connection = secure(node)
    connection.send(request(f"/big?{size}"))
    assert connection.response()[0] == 200
    time.sleep(0.5)
    assert connection.rest() == b"z" * size
    connection.close()


def test_what_the_client_said_before_its_end_is_still_answered(node: EchoNode) -> None:
    """A client that closes its sending side, without TLS's own notice as many programs do, gets its answer."""
    connection = secure(node)
    connection.ask()
    connection.send(b"last words\n")
    socket.socket.shutdown(connection.sock, socket.SHUT_WR)
    assert connection.rest() == b"last words\n"


def test_a_notice_of_the_end_in_the_same_packet_as_the_request_leaves_the_answer(node: EchoNode) -> None:
    """The client's close_notify ends its own direction only."""
    raw = socket.create_connection(("127.0.0.1", node.port), timeout=PATIENCE)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing)
    with raw:
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                raw.sendall(outgoing.read())
                incoming.write(raw.recv(65_536))
        tls.write(request())
        with pytest.raises(ssl.SSLWantReadError):
            tls.unwrap()  # has written close_notify, and would wait for the other side's
        raw.sendall(outgoing.read())
        while received := raw.recv(65_536):
            incoming.write(received)
    assert tls.read(65_536).startswith(b"HTTP/1.1 200 OK")


def test_a_client_that_takes_nothing_does_not_hold_up_the_end(certificate: tuple[str, str]) -> None:
    """It is left behind, with what it was still to be sent; the node ends by itself."""
    with echo_node(1, tls=certificate, shutdown_grace=6.0) as node:
        connection = secure(node)
        connection.send(request("/pour?50000000"))
        assert connection.response()[0] == 200
        secure(node).ask("/stuck?3")  # the worker has given up pouring, and takes half of the grace period to end
        node.process.terminate()
        assert node.wait() == ExitCode.OK


def test_a_client_that_takes_its_time_gets_all_before_the_end(certificate: tuple[str, str]) -> None:
    """As long as it takes something."""
    size = 3_000_000
    with echo_node(1, tls=certificate, shutdown_grace=seconds(6.0)) as node:
        connection = secure(node)
        connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        connection.send(request(f"/big?{size}"))
        assert connection.response()[0] == 200
        node.process.terminate()
        assert connection.rest() == b"z" * size
        assert node.wait() == ExitCode.OK


def test_the_gateway_notices_that_a_client_is_lost() -> None:
    """As the worker does where it holds the connection itself."""

    async def options() -> tuple[int, int]:
        with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
            browser, _ = server.accept()
            browser.setblocking(False)
            pumps = Pumps(asyncio.get_running_loop())
            pumps.start(cast(ssl.SSLSocket, browser)).close()
            found = (
                browser.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE),
                browser.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT),
            )
            client.close()
            pumps.close()
            return found

    assert asyncio.run(options()) == (1, UNACKNOWLEDGED_LIMIT)


def test_a_client_that_vanishes_takes_its_pump_with_it(node: EchoNode) -> None:
    """The worker sees the end of the connection, and the gateway keeps no descriptor."""
    descriptors = Path(f"/proc/{node.gateway()}/fd")
    before = len(list(descriptors.iterdir()))
    connections = [secure(node) for _ in range(20)]
    for connection in connections:
        connection.ask()
    for connection in connections:
        connection.close()
    wait_until(lambda: len(list(descriptors.iterdir())) <= before)


def test_plain_http_on_a_tls_port_does_no_harm(node: EchoNode) -> None:
    """A client that mistook the port gets an answer that says so."""
    plain = node.connect()
    plain.send(request())
    status, body = plain.response()
    assert (status, b"https" in body) == (400, True)
    plain.close()
    assert secure(node).ask()["tls"] is True


def test_a_handshake_that_never_comes_ends_at_the_deadline(node: EchoNode) -> None:
    """Silent connections are closed on a TLS port too."""
    plain = node.connect()
    plain.send(b"\x16\x03\x01\x02\x00")
    assert plain.rest() == b""
    plain.close()


def test_bad_heads_are_answered_through_tls(node: EchoNode) -> None:
    """400 for garbage, 408 for a slow head."""
    connection = secure(node)
    connection.send(b"\x00\x01\x02 garbage\r\n\r\n")
    assert connection.response()[0] == 400
    assert connection.rest() == b""
    connection.close()
    slow = secure(node)
    slow.send(b"GET / HTTP/1.1\r\n")
    assert slow.response()[0] == 408
    slow.close()


def test_the_end_of_the_node_closes_tls_connections_too(certificate: tuple[str, str]) -> None:
    """What workers say last passes through before the gateway goes."""
    with echo_node(1, tls=certificate) as node:
        connection = secure(node)
        connection.ask()
        node.process.terminate()
        assert node.wait() == 0
        assert connection.rest() == b""
        connection.close()


def test_a_certificate_that_cannot_be_read_stops_the_start() -> None:
    """It is reported at once, in one line, and not by a gateway that dies again and again."""
    node = EchoNode(Plan(1, tls=("/nonexistent/cert.pem", "/nonexistent/key.pem")))
    try:
        assert node.wait() != 0
        assert "cannot use the certificate" in node.logged()
    finally:
        node.stop()


def pages_of_both(node: Node, trust: ssl.SSLContext) -> list[str]:
    """Tokens of pages, made until each of two workers has a session."""
    tokens: list[str] = []

    def made() -> bool:
        tokens.append(page_token(node.app_url("/relayed"), trust=trust))
        return {row["worker"] for row in node.sessions()} == {0, 1}

    wait_until(made, 20, "one worker gets no page")
    return tokens


def test_pages_and_websockets_of_two_workers_pass_through_tls(certificate: tuple[str, str]) -> None:
    """Real pages of Bokeh: each websocket is led to the worker of its page, and a slider moves what it moves."""
    cert, key = certificate
    trust = ssl.create_default_context(cafile=cert)
    options = ["--num-procs", "2", "--ssl-certfile", cert, "--ssl-keyfile", key]

    async def scenario(node: Node) -> None:
        websocket = node.ws_url("/relayed")
        tokens = await asyncio.to_thread(pages_of_both, node, trust)
        async with AsyncExitStack() as stack:
            viewers = [
                await stack.enter_async_context(Viewer.open(websocket, token, {"Origin": node.url}, trust=trust))
                for token in tokens
            ]
            for value, viewer in enumerate(viewers, 1):
                await viewer.pull()
                assert (await viewer.set("slider", "value", value)).msgtype == "OK"
                await viewer.wait_for_value("seen", "text", str(value))
            held = [(row["connections"], row["edges"]) for row in node.sessions()]
            assert held == [(1, 0)] * len(tokens), "a session for each page, and none goes through another worker"
            shown = [viewer.value("seen", "text") for viewer in viewers]
            assert shown == [str(value) for value in range(1, len(tokens) + 1)]
        async with Viewer.open(websocket, tokens[0], trust=trust) as again:
            await again.pull()
            assert again.value("slider", "value") == 1, "the session that it left"

    with Node("relayed.py", options=options) as node:
        assert node.url.startswith("https:")
        run(scenario(node))
