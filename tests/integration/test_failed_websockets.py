"""Websockets that the server fails for what their peer sends: the peer learns why, however much it still sends."""

from __future__ import annotations

import asyncio
import base64
import os
import socket
import struct
import zlib
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from support.aside import ServerAside
from support.fetch import fetch
from support.memory import peak
from support.node import Node
from support.patience import run, seconds, wait_until
from support.redis import eventually
from support.wire import page_token

from aperture import Server, lingering
from aperture.lingering import Lingering
from aperture.protocol.closing import MESSAGE_TOO_BIG, NO_TEXT, PROTOCOL_ERROR

APP = "/relayed"
LIMIT = 100_000
REST = b"x" * (8 * 1024 * 1024)
"""What the peer goes on sending before it reads: more than both ends' kernels hold."""

BREACHES = {
    "a message that is too large": (struct.pack("!BBQ4s", 0x82, 0xFF, len(REST), bytes(4)), MESSAGE_TOO_BIG),
    "a reserved bit": (struct.pack("!BB4s", 0xB1, 0x80, bytes(4)), PROTOCOL_ERROR),
    "an opcode that there is not": (struct.pack("!BB4s", 0x83, 0x80, bytes(4)), PROTOCOL_ERROR),
    "a fragment of nothing": (struct.pack("!BB4s", 0x80, 0x80, bytes(4)), PROTOCOL_ERROR),
    "a ping that is too long": (struct.pack("!BBH4s", 0x89, 0xFE, 126, bytes(4)), PROTOCOL_ERROR),
    "text that is none": (struct.pack("!BB4s", 0x81, 0x81, bytes(4)) + b"\xff", NO_TEXT),
}


def compressed(opcode: int, payload: bytes) -> bytes:
    """A final frame that says that it is."""
    size = len(payload)
    head = (
        struct.pack("!BB", 0xC0 | opcode, 0x80 | size) if size < 126 else struct.pack("!BBH", 0xC0 | opcode, 0xFE, size)
    )
    return head + bytes(4) + payload


def deflated(data: bytes) -> bytes:
    """As RFC 7692 has it, without the end of a block."""
    compressor = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    return (compressor.compress(data) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]


COMPRESSED_BREACHES = {
    "what is not compressed": (compressed(1, b"\xff" * 50), PROTOCOL_ERROR),
    "a ping": (compressed(9, deflated(b"x" * 500)), PROTOCOL_ERROR),
    "a message that is too large": (compressed(1, deflated(b"x" * 21 * 1024 * 1024)), MESSAGE_TOO_BIG),
    "a message that is too large to be read": (
        compressed(1, deflated(b"[%s]" % (b"{}," * 6_500_000))),
        MESSAGE_TOO_BIG,
    ),
}
TAKEN = 300 * 1024 * 1024
"""Bytes that a worker may take for a frame of 20 KB, which inflates to 20 MB and would be parsed to 600 MB."""


@pytest.fixture(scope="module", params=["1", "3"])
def compressing(request: pytest.FixtureRequest) -> Iterator[Node]:
    with Node("relayed.py", options=["--websocket-compression-level", "6", "--num-procs", request.param]) as node:
        yield node


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    with Node("relayed.py", options=["--websocket-max-message-size", str(LIMIT)]) as node:
        yield node


def opened(ws_url: str, token: str, extensions: str = "none") -> socket.socket:
    """A socket behind the handshake."""
    where = urlsplit(ws_url)
    connected = socket.create_connection((where.hostname or "", where.port or 0), seconds(20))
    key = base64.b64encode(os.urandom(16)).decode()
    connected.sendall(
        f"GET {where.path} HTTP/1.1\r\nHost: {where.netloc}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n"
        f"Sec-WebSocket-Protocol: bokeh, {token}\r\nSec-WebSocket-Extensions: {extensions}\r\n\r\n".encode()
    )
    seen = b""
    while b'"ACK"' not in seen:
        seen += (more := connected.recv(4096))
        assert more, f"closed after {seen!r}"
    return connected


def close_code(connected: socket.socket) -> int:
    """Of the close frame that is all that still comes, before the end of the connection in good order."""
    received = b""
    while more := connected.recv(4096):
        received += more
    frame = received[received.rindex(b"\x88") :]
    assert frame[1] == len(frame) - 2, received
    return int.from_bytes(frame[2:4], "big")


@pytest.mark.parametrize("breach", BREACHES)
def test_a_peer_that_goes_on_sending_learns_why_it_was_closed(node: Node, breach: str) -> None:
    """A close frame with its code, and no reset, though megabytes were sent behind what was wrong."""
    frame, code = BREACHES[breach]
    with opened(node.ws_url(APP), page_token(node.app_url(APP))) as connected:
        connected.sendall(frame + REST)
        assert close_code(connected) == code
    assert "Traceback" not in node.log()


@pytest.mark.parametrize("breach", COMPRESSED_BREACHES)
def test_a_compressed_frame_takes_no_more_than_it_may(compressing: Node, breach: str) -> None:
    """And is answered with a close frame and a line of the log."""
    frame, code = COMPRESSED_BREACHES[breach]
    before = {pid: peak(pid) for pid in compressing.worker_pids()}
    lines = compressing.log().count("broke the protocol")
    with opened(compressing.ws_url(APP), page_token(compressing.app_url(APP)), "permessage-deflate") as connected:
        connected.sendall(frame + REST)
        assert close_code(connected) == code
    compressing.wait_for_log("broke the protocol", lines + 1)
    assert compressing.log().count("broke the protocol") == lines + 1
    assert "Traceback" not in compressing.log()
    assert compressing.worker_pids() == list(before)
    assert max(peak(pid) - most for pid, most in before.items()) < TAKEN


def test_what_lingers_is_gone_when_its_server_has_stopped() -> None:
    """A program's event loop is left as it was."""
    with ServerAside(Server, {"/app": lambda document: None}, websocket_max_message_size=LIMIT) as server:
        frame, _ = BREACHES["a message that is too large"]
        with opened(f"ws{server.url.removeprefix('http')}/app/ws", page_token(f"{server.url}/app")) as connected:
            connected.sendall(frame)
            assert close_code_of_half_closed(connected) == MESSAGE_TOO_BIG
            assert fetch(f"{server.url}/app").status == 200
    # The end of the block checks that the thread with the loop has ended.


def close_code_of_half_closed(connected: socket.socket) -> int:
    """The server's side has ended, and this one goes on."""
    code = close_code(connected)
    connected.sendall(b"x")
    return code


async def pairs(count: int, left: Lingering) -> list[socket.socket]:
    """So many peers of connections that are being left."""
    peers = []
    for _ in range(count):
        ours, peer = socket.socketpair()
        ours.setblocking(False)
        peer.setblocking(False)
        left.add(ours)
        peers.append(peer)
    return peers


def test_one_that_sends_too_much_is_closed() -> None:
    """Above the bytes that one may send."""

    async def scenario() -> None:
        left = Lingering(asyncio.get_running_loop(), most_bytes=1000, most_of_all=10_000)
        (peer,) = await pairs(1, left)
        assert peer.recv(1) == b""
        peer.send(b"x" * 1000)
        await asyncio.sleep(0.05)
        assert len(left) == 1
        peer.send(b"x")
        await eventually(lambda: len(left) == 0)
        peer.close()

    run(scenario())


def test_many_that_send_too_much_together_are_closed() -> None:
    """A peer that goes beyond what all may send; what is closed no longer counts."""

    async def scenario() -> None:
        left = Lingering(asyncio.get_running_loop(), most_bytes=1000, most_of_all=2500)
        peers = await pairs(4, left)
        for peer in peers[:3]:
            peer.send(b"x" * 1000)
        await eventually(lambda: len(left) == 3)
        peers[3].send(b"x" * 500)
        await asyncio.sleep(0.05)
        assert len(left) == 3
        left.close()
        assert len(left) == 0
        for peer in peers:
            peer.close()

    run(scenario())


def test_too_many_close_the_oldest(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that bad peers cannot use up the descriptors."""
    monkeypatch.setattr(lingering, "MAX_LINGERING", 2)

    async def scenario() -> None:
        left = Lingering(asyncio.get_running_loop(), most_bytes=1000, most_of_all=1000)
        oldest, *others = await pairs(3, left)
        assert len(left) == 2
        with pytest.raises(BrokenPipeError):
            oldest.send(b"x")
        assert [peer.send(b"x") for peer in others] == [1, 1]
        left.close()
        for peer in (oldest, *others):
            peer.close()

    run(scenario())


def test_a_peer_that_says_nothing_more_is_left_at_once(node: Node) -> None:
    """And one that never closes is left in the end: no descriptor stays."""
    pid = node.worker_pids()[0]
    frame, _ = BREACHES["a message that is too large"]
    fetch(node.app_url(APP))
    silent = opened(node.ws_url(APP), page_token(node.app_url(APP)))
    with silent:
        before = len(os.listdir(f"/proc/{pid}/fd"))
        silent.sendall(frame)
        wait_until(lambda: len(os.listdir(f"/proc/{pid}/fd")) < before, 20, "its descriptor was kept")
