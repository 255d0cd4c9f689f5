"""Viewers that misbehave: they stop reading, leave in crowds, or come and go while others work."""

from __future__ import annotations

import asyncio
import base64
import os
import re
import socket
import struct
from collections.abc import Iterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from support.fetch import fetch
from support.node import Node
from support.patience import run, seconds, wait_until
from support.wire import Viewer, page_token

from aperture.protocol.tokens import read_session_id


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    options = ["--unused-session-lifetime", "300", "--check-unused-sessions", "200", "--viewer-timeout", "3"]
    with Node("broadcast.py", options=options) as node:
        yield node


class RawViewer:
    """A websocket by hand: it pulls the document and then reads only when asked, with as small a buffer as may be."""

    def __init__(self, url: str, token: str) -> None:
        where = urlsplit(url)
        self.socket = socket.socket()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.socket.settimeout(seconds(20))
        self.socket.connect((where.hostname, where.port))
        key = base64.b64encode(os.urandom(16)).decode()
        self.socket.sendall(
            f"GET {where.path} HTTP/1.1\r\nHost: {where.netloc}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n"
            f"Sec-WebSocket-Protocol: bokeh, {token}\r\n\r\n".encode()
        )
        self._read_until(b'"ACK"')
        for text in (b'{"msgid":"1","msgtype":"PULL-DOC-REQ"}', b"{}", b"{}"):
            self.socket.sendall(_masked(text))
        self._read_until(b"PULL-DOC-REPLY")

    def reset(self) -> None:
        """End the connection as a machine does that has lost it: without a close frame, and without a FIN."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def _read_until(self, mark: bytes) -> None:
        seen = b""
        while mark not in seen:
            more = self.socket.recv(4096)
            assert more, f"closed after {seen!r}"
            seen += more

    def read_rest(self) -> bytes:
        """All that is still in the socket, up to its end."""
        parts = []
        with self.socket, suppress(ConnectionResetError):
            while part := self.socket.recv(65536):
                parts.append(part)
        return b"".join(parts)


def _masked(text: bytes, opcode: int = 1) -> bytes:
    assert len(text) < 126
    return struct.pack("!BB4s", 0x80 | opcode, 0x80 | len(text), b"\0\0\0\0") + text


def _memory(node: Node) -> int:
    rss: int = node.workers()[0]["rss_bytes"]
    return rss


def test_a_viewer_that_stops_reading_is_closed_and_holds_back_nobody(node: Node) -> None:
    """1,000 patches of 20 KB reach everybody who reads; the one who does not is closed, and holds no memory."""
    rounds = 1000

    async def scenario() -> tuple[bytes, int]:
        token = page_token(node.app_url("/broadcast"))
        url = node.ws_url("/broadcast")
        async with Viewer.open(url, token) as mover, Viewer.open(url, token) as watcher:
            await mover.pull()
            await watcher.pull()
            stalled = await asyncio.to_thread(RawViewer, url, token)
            before = _memory(node)
            watching = asyncio.create_task(watcher.wait_for_value("seen", "text", str(rounds)))
            for value in range(1, rounds + 1):
                reply = await mover.set("slider", "value", value)
                assert reply.msgtype == "OK"
            await watching
            grown = _memory(node) - before
            patches = [m for m in watcher.received if m.msgtype == "PATCH-DOC"]
            assert len(patches) == rounds
            await asyncio.to_thread(node.wait_for_log, "viewer has taken nothing for 3 s and is closed")
            return await asyncio.to_thread(stalled.read_rest), grown

    rest, grown = run(scenario(), 120)
    assert len(rest) < rounds * 20_000, "nothing was held back, so the test shows nothing"
    assert grown < 16 * 1024 * 1024, f"memory grew by {grown} bytes for one stalled viewer"


@pytest.mark.parametrize("end", ["reset", "process killed"])
def test_a_page_that_is_cut_off_keeps_its_session(node: Node, end: str) -> None:
    """The access line says 1006, and the session outlives one whose page was closed a moment later."""
    tokens = [page_token(node.app_url("/broadcast")) for _ in range(2)]
    cut_off, closed = ((read_session_id(token) or "")[:8] for token in tokens)
    lines = len(re.findall(r"closed GET /broadcast/ws \(\S+\) code 1006", node.log()))
    viewer = RawViewer(node.ws_url("/broadcast"), tokens[0])
    if end == "reset":
        viewer.reset()
    else:
        viewer.socket.close()  # what the kernel does for a process that was killed
    node.wait_for_log(r"closed GET /broadcast/ws \(\S+\) code 1006", lines + 1)

    async def open_and_close() -> None:
        async with Viewer.open(node.ws_url("/broadcast"), tokens[1]) as viewer:
            await viewer.pull()

    run(open_and_close())
    wait_until(lambda: closed not in known(node), 20, "the session of a closed page stays")
    assert cut_off in known(node)


def known(node: Node) -> set[str]:
    """The sessions that live, by how their ids begin."""
    return {session["id"] for session in node.sessions()}


def test_what_comes_behind_a_close_of_the_server_is_discarded(node: Node) -> None:
    """A peer has more under way when the server closes: that is neither an error of the app nor a line in the log."""
    viewer = RawViewer(node.ws_url("/broadcast"), page_token(node.app_url("/broadcast")))
    refused = (b'{"msgid":"2","msgtype":"ACK"}', b"{}", b"{}")
    late = (b'{"msgid":"3","msgtype":"PULL-DOC-REQ"}', b"{}", b"{}")
    viewer.socket.sendall(b"".join(map(_masked, (*refused, *late))) + _masked(b"\x03\xea", opcode=8))
    assert b"\x03\xea" in viewer.read_rest()  # 1002
    node.wait_for_log(r"closed GET /broadcast/ws \(\S+\) code 1002")
    assert "ERROR" not in node.log()
    assert "AssertionError" not in node.log()


def test_one_message_above_the_bound_passes_through_an_empty_outbox(node: Node) -> None:
    """A viewer that reads gets a patch of 3 MB although its outbox holds 1 MB."""

    async def scenario() -> None:
        token = page_token(node.app_url("/broadcast"))
        async with (
            Viewer.open(node.ws_url("/broadcast"), token) as mover,
            Viewer.open(node.ws_url("/broadcast"), token) as watcher,
        ):
            await mover.pull()
            await watcher.pull()
            reply = await mover.set("filler", "text", "y" * 3_000_000)
            assert reply.msgtype == "OK"
            await watcher.wait_for_value("filler", "text", "y" * 3_000_000)

    run(scenario())


def test_three_hundred_tabs_closed_at_once_leave_the_server_answering() -> None:
    """While 300 sessions are discarded, pages are served as before, and all sessions and their memory go."""
    tabs = 300
    lifetime = round(seconds(8000))
    options = ["--unused-session-lifetime", str(lifetime), "--check-unused-sessions", "200"]

    async def scenario(node: Node) -> None:
        async with AsyncExitStack() as stack:
            for _ in range(tabs):
                token = await asyncio.to_thread(page_token, node.app_url("/broadcast"))
                viewer = await stack.enter_async_context(Viewer.open(node.ws_url("/broadcast"), token))
                await viewer.pull()
            closing = {row["id"] for row in node.sessions()}
            assert len(closing) == tabs
        pages = 0
        while closing & {row["id"] for row in node.sessions()}:
            assert (await asyncio.to_thread(fetch, node.app_url("/broadcast"))).status == 200
            pages += 1
        assert pages > 0

    with Node("broadcast.py", options=options) as node:
        run(scenario(node), 120)
        wait_until(lambda: not node.sessions(), 20, "sessions were left behind")


def test_a_burst_of_one_viewer_lets_other_sessions_have_their_turn(tmp_path: Path) -> None:
    """However many of its changes have come already, another session's is acted on between two of them."""
    turns, gate, burst = tmp_path / "turns", tmp_path / "gate", 40
    env = {"TURNS": str(turns), "GATE": str(gate)}

    def move(viewer: Viewer, value: int) -> list[dict[str, Any]]:
        return [{"kind": "ModelChanged", "model": {"id": viewer.model("slider").id}, "attr": "value", "new": value}]

    async def scenario(node: Node) -> None:
        tokens = [page_token(node.app_url("/queueing") + f"?who={who}") for who in "ab"]
        url = node.ws_url("/queueing")
        async with Viewer.open(url, tokens[0]) as busy, Viewer.open(url, tokens[1]) as patient:
            await busy.pull()
            await patient.pull()
            sent = [await busy.send_patch(move(busy, value)) for value in range(1, burst + 1)]
            other = await patient.send_patch(move(patient, 2))
            gate.touch()
            await patient.wait_for("OK", other)
            await busy.wait_for("OK", sent[-1])

    with Node("queueing.py", options=["--num-procs", "1"], env=env) as node:
        run(scenario(node))
    taken = turns.read_text()
    assert taken.count("a") == burst
    assert taken.index("b") < burst / 2, "the burst was acted on in one go"


def test_pongs_that_no_one_reads_do_not_pile_up(node: Node) -> None:
    """Of a flood of pings only the newest is still to be answered (RFC 6455, section 5.5.3)."""
    pings = 200_000
    (pid,) = node.worker_pids()
    raw = RawViewer(node.ws_url("/broadcast"), page_token(node.app_url("/broadcast")))
    before = resident(pid)
    batch = _masked(b"x" * 125, opcode=9) * 1000
    for _ in range(pings // 1000):
        raw.socket.sendall(batch)
    with raw.socket:
        assert resident(pid) - before < pings * 125 // 3


def resident(pid: int) -> int:
    """Bytes of memory that a process has."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
