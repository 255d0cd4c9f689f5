"""Connections that a worker waits for: bounded in number and in time, without a socket."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

from support.clock import in_fake_time
from tornado.http1connection import HTTP1ServerConnection

from aperture.worker.waiting import STALL_TIME, Waiting

HEAD_TIMEOUT = 10.0
NO_DESCRIPTOR = 2**31 - 1
"""The kernel can say nothing of it."""


class Connection:
    """What a `Waiting` uses of Tornado's connection."""

    def __init__(self) -> None:
        self.context = "192.0.2.7"
        self.written = b""
        self.closed = False
        self.answering = False
        self.stream = SimpleNamespace(
            _read_buffer_size=0,
            _total_write_done_index=0,
            write=self._write,
            close=self._close,
            writing=lambda: self.answering,
            closed=lambda: self.closed,
            socket=SimpleNamespace(fileno=lambda: NO_DESCRIPTOR),
        )

    def receive(self, size: int) -> None:
        self.stream._read_buffer_size += size

    def take(self, size: int) -> None:
        self.stream._total_write_done_index += size

    def _write(self, data: bytes) -> None:
        self.written += data

    def _close(self) -> None:
        self.closed = True


def of(connection: Connection) -> HTTP1ServerConnection:
    """The fake as the type that it stands in for."""
    return cast("HTTP1ServerConnection", cast("Any", connection))


@in_fake_time
async def test_a_first_head_has_its_time_from_the_start() -> None:
    """It is answered with 408 when that is over, though not a byte of it came."""
    waiting, connection = Waiting(HEAD_TIMEOUT, 100), Connection()
    waiting.for_head(of(connection), begun=True)
    await asyncio.sleep(HEAD_TIMEOUT - 1)
    assert not connection.closed
    await asyncio.sleep(2)
    assert connection.closed
    assert connection.written.startswith(b"HTTP/1.1 408 ")
    assert len(waiting) == 0


@in_fake_time
async def test_a_later_head_has_its_time_from_its_first_byte() -> None:
    """A kept-alive connection may be idle; one that trickles may not."""
    waiting, idle, trickling = Waiting(HEAD_TIMEOUT, 100), Connection(), Connection()
    waiting.for_head(of(idle), begun=False)
    waiting.for_head(of(trickling), begun=False)
    await asyncio.sleep(20 * HEAD_TIMEOUT)
    assert not trickling.closed
    for _ in range(int(HEAD_TIMEOUT) + 3):
        trickling.receive(1)
        await asyncio.sleep(1)
    assert (trickling.closed, idle.closed) == (True, False)


@in_fake_time
async def test_a_head_that_has_come_is_waited_for_no_longer() -> None:
    """Nor is one whose connection has ended; saying so twice changes nothing."""
    waiting, connection = Waiting(HEAD_TIMEOUT, 100), Connection()
    waiting.for_head(of(connection), begun=True)
    waiting.no_longer(of(connection))
    waiting.no_longer(of(connection))
    await asyncio.sleep(2 * HEAD_TIMEOUT)
    assert (connection.closed, connection.written, len(waiting)) == (False, b"", 0)


@in_fake_time
async def test_their_number_is_bounded_as_a_whole() -> None:
    """The longest idle goes first, then what has begun: heads, and bodies among them."""
    waiting = Waiting(HEAD_TIMEOUT, 3)
    head, body, first, second, third = (Connection() for _ in range(5))
    waiting.for_head(of(head), begun=True)
    waiting.for_body(of(body))
    waiting.for_head(of(first), begun=False)
    waiting.for_head(of(second), begun=False)
    assert [c.closed for c in (head, body, first, second)] == [False, False, True, False]
    waiting.for_body(of(third))
    assert [c.closed for c in (head, body, second, third)] == [False, False, True, False]
    waiting.for_body(of(Connection()))
    assert [c.closed for c in (head, body, third)] == [True, False, False]
    waiting.for_body(of(Connection()))
    assert [c.closed for c in (body, third)] == [True, False]
    assert len(waiting) == 3


@in_fake_time
async def test_a_peer_that_takes_nothing_of_an_answer_is_closed() -> None:
    """One that takes a byte now and then is not, nor is one whose answer the app has not made yet."""
    waiting, stalled, slow, patient = Waiting(HEAD_TIMEOUT, 100), Connection(), Connection(), Connection()
    stalled.answering = slow.answering = True
    for connection in (stalled, slow, patient):
        waiting.for_answer(of(connection))
    for _ in range(4):
        await asyncio.sleep(STALL_TIME / 2)
        slow.take(1)
    assert (stalled.closed, slow.closed, patient.closed) == (True, False, False)
    assert len(waiting) == 0, "an answer that is under way takes the place of no request"


@in_fake_time
async def test_an_answer_that_was_taken_is_waited_for_no_longer() -> None:
    """Nor is one whose connection became a websocket: those have bounds of their own."""
    waiting, connection = Waiting(HEAD_TIMEOUT, 100), Connection()
    connection.answering = True
    waiting.for_answer(of(connection))
    waiting.no_longer(of(connection))
    await asyncio.sleep(2 * STALL_TIME)
    assert not connection.closed
