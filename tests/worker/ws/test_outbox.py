"""The way of frames to a socket: in order, never mixed, bounded, over a stream and a kernel that are only played."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.clock import in_fake_time
from support.peers import in_loop
from tornado.iostream import SSLIOStream, StreamClosedError

from aperture.protocol.closing import TRY_AGAIN_LATER
from aperture.protocol.frames import FrameRun
from aperture.worker.patch.viewer import Offer
from aperture.worker.ws.outbox import StreamOutbox
from aperture.worker.ws.progress import Progress
from aperture.worker.ws.refresh_room import RefreshRoom

LIMIT = 1024 * 1024


class Kernel:
    """Stands in for a socket: takes at most so many bytes per call, and keeps them."""

    def __init__(self, takes: list[int] | None = None, otherwise: int = 1 << 30) -> None:
        self.taken = bytearray()
        self.calls = 0
        self.broken = False
        self._takes = list(takes or [])
        self._otherwise = otherwise

    def send(self, frames: bytes | memoryview) -> int:
        self.calls += 1
        if self.broken:
            raise ConnectionResetError
        size = self._takes.pop(0) if self._takes else self._otherwise
        if size == 0:
            raise BlockingIOError
        self.taken += frames[:size]
        return min(size, len(frames))


class Stream:
    """Stands in for Tornado's stream: what is written waits until `drain`."""

    def __init__(self, kernel: Kernel | None) -> None:
        self.socket = kernel
        self.closed = False
        self._waiting: list[tuple[bytes, asyncio.Future[None]]] = []

    def writing(self) -> bool:
        return bool(self._waiting)

    def write(self, frames: bytes | memoryview) -> asyncio.Future[None]:
        if self.closed:
            raise StreamClosedError
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((bytes(frames), written))
        return written

    async def drain(self) -> None:
        """The socket becomes writable and takes all that waits."""
        while self._waiting:
            frames, written = self._waiting.pop(0)
            assert self.socket is not None
            self.socket.taken += frames
            written.set_result(None)
            await asyncio.sleep(0)

    async def fail(self) -> None:
        """The peer is gone: all that waits fails."""
        self.closed = True
        waiting, self._waiting = self._waiting, []
        for _, written in waiting:
            written.set_exception(StreamClosedError())
        await asyncio.sleep(0)


class Desk:
    """An outbox with everything around it played."""

    def __init__(
        self,
        takes: list[int] | None = None,
        *,
        limit: int = LIMIT,
        timeout: float = 60,
        otherwise: int = 1 << 30,
        **options: Any,
    ):
        self.kernel = Kernel(takes, otherwise)
        self.stream = Stream(self.kernel)
        self.closes: list[tuple[int, str]] = []
        self.timeouts = 0
        self.progress = Progress(0, 0)
        self.outbox = StreamOutbox(
            self.stream,  # type: ignore[arg-type]
            limit=limit,
            timeout=timeout,
            close=lambda code, reason: self.closes.append((code, reason)),
            timed_out=self._count_timeout,
            progress=lambda stream: self.progress,
            **options,
        )

    def _count_timeout(self) -> None:
        self.timeouts += 1

    def offer(self, frames: bytes) -> Offer:
        return self.outbox.offer(FrameRun(frames))

    def send(self, frames: bytes) -> None:
        self.outbox.send(FrameRun(frames))

    @property
    def taken(self) -> bytes:
        return bytes(self.kernel.taken)


@in_loop
async def test_a_viewer_that_keeps_up_costs_one_send_per_run() -> None:
    """Nothing is copied, queued or given to the stream."""
    desk = Desk()
    for frames in (b"one", b"two", b"three"):
        desk.send(frames)
    assert desk.taken == b"onetwothree"
    assert desk.kernel.calls == 3
    assert not desk.stream.writing()
    assert desk.outbox.waiting == 0


@in_loop
async def test_what_the_kernel_does_not_take_goes_through_the_stream() -> None:
    """The rest of a run first, then what was sent meanwhile, in one piece."""
    desk = Desk([2])
    for frames in (b"first", b"second", b"third"):
        desk.send(frames)
    assert desk.taken == b"fi"
    assert desk.outbox.waiting == len(b"rstsecondthird")
    await desk.stream.drain()
    assert desk.taken == b"firstsecondthird"
    assert desk.outbox.waiting == 0
    assert desk.kernel.calls == 2


@in_loop
async def test_a_full_kernel_is_no_error() -> None:
    """The whole run waits in the stream."""
    desk = Desk([0])
    desk.send(b"first")
    assert desk.taken == b""
    await desk.stream.drain()
    desk.send(b"second")
    assert desk.taken == b"firstsecond"


@in_loop
async def test_nothing_overtakes_what_the_stream_still_writes() -> None:
    """Tornado's own frames, a pong for example, may be half written: ours go behind them."""
    desk = Desk()
    desk.stream.write(b"pong")
    desk.send(b"run")
    assert desk.taken == b""
    await desk.stream.drain()
    assert desk.taken == b"pongrun"


@in_loop
async def test_a_viewer_that_is_behind_is_refused_patches() -> None:
    """From the first on that does not fit, also smaller ones, until it has caught up; what waits still goes out."""
    desk = Desk([0], limit=100)
    assert desk.offer(b"x" * 10) is Offer.QUEUED
    assert desk.offer(b"y" * 90) is Offer.QUEUED
    assert desk.outbox.waiting == 100
    assert desk.offer(b"z") is Offer.REFUSED
    assert desk.outbox.behind
    await desk.stream.drain()
    assert desk.offer(b"z") is Offer.REFUSED
    desk.outbox.resume()
    assert desk.offer(b"z") is Offer.WRITTEN
    assert desk.taken == b"x" * 10 + b"y" * 90 + b"z"
    assert desk.closes == []


@in_loop
async def test_one_large_message_passes_through_an_empty_outbox() -> None:
    """A document or a picture may be larger than the mark; no viewer could ever get it otherwise."""
    desk = Desk([5, 5], limit=100)
    for send in (desk.send, desk.offer):
        send(b"x" * 1000)
        await desk.stream.drain()
    assert desk.taken == b"x" * 2000
    assert desk.closes == []


@in_loop
async def test_patches_do_not_wait_behind_a_large_message() -> None:
    """What is above the mark is the one that passes."""
    desk = Desk([5], limit=100)
    desk.send(b"x" * 1000)
    assert desk.offer(b"y") is Offer.REFUSED
    assert desk.outbox.waiting == 995


@in_loop
async def test_answers_are_not_refused() -> None:
    """Those to a viewer that is behind wait, and one of them may be a document."""
    desk = Desk([0], limit=100)
    desk.offer(b"x" * 100)
    desk.offer(b"y")
    desk.send(b"ok")
    desk.send(b"z" * 1000)
    await desk.stream.drain()
    assert desk.taken == b"x" * 100 + b"ok" + b"z" * 1000
    assert desk.closes == []


@in_loop
async def test_a_viewer_that_asks_for_more_than_it_reads_is_closed() -> None:
    """With 1013, once, and what waited for it is dropped; so it can fill no memory."""
    desk = Desk([0], limit=100)
    desk.send(b"x" * 1000)
    desk.send(b"y" * 1000)
    assert desk.closes == []
    desk.send(b"z")
    desk.send(b"z")
    assert desk.closes == [(TRY_AGAIN_LATER, "too slow")]
    await desk.stream.drain()
    assert desk.taken == b"x" * 1000


@in_loop
async def test_who_waits_for_the_socket_is_told_when_it_has_drained() -> None:
    """Once, when nothing waits any more; at once, but not within the call, when nothing waits now."""
    waited: list[int] = []
    desk = Desk([0])
    desk.send(b"first")
    desk.send(b"second")
    desk.outbox.when_drained(lambda: waited.append(desk.outbox.waiting))
    assert waited == []
    await desk.stream.drain()
    await asyncio.sleep(0)
    assert waited == [0]
    desk.outbox.when_drained(lambda: waited.append(-1))
    assert waited == [0]
    await asyncio.sleep(0)
    assert waited == [0, -1]
    desk.kernel.broken = True
    desk.send(b"lost")
    desk.outbox.when_drained(lambda: waited.append(-2))
    await asyncio.sleep(0)
    assert waited == [0, -1]


@in_fake_time
async def test_a_socket_that_takes_nothing_is_closed(caplog: pytest.LogCaptureFixture) -> None:
    """After the timeout, with one line, and not sooner; what comes meanwhile does not put it off."""
    desk = Desk([0], timeout=10)
    desk.send(b"first")
    await asyncio.sleep(9.9)
    desk.send(b"second")
    assert desk.closes == []
    await asyncio.sleep(2.6)
    assert desk.closes == [(TRY_AGAIN_LATER, "too slow")]
    assert desk.timeouts == 1
    await asyncio.sleep(60)
    assert [record.message for record in caplog.records] == [
        "viewer has taken nothing for 10 s and is closed; it may come back"
    ]


@in_fake_time
async def test_a_socket_that_takes_a_byte_now_and_then_is_not_closed() -> None:
    """However slow it is: it makes progress."""
    desk = Desk([0], timeout=10)
    desk.send(b"first")
    for taken in range(1, 10):
        await asyncio.sleep(9)
        desk.progress = Progress(taken, 0)
    assert desk.closes == []
    await asyncio.sleep(9)
    await desk.stream.drain()
    await asyncio.sleep(60)
    assert desk.closes == []
    assert desk.timeouts == 0


@in_loop
async def test_closing_is_done_once() -> None:
    """Later sends and closes do nothing."""
    desk = Desk()
    for _ in range(2):
        desk.outbox.close(1011, "broken")
    desk.send(b"late")
    assert desk.closes == [(1011, "broken")]
    assert desk.taken == b""


@in_loop
async def test_stopping_tells_nobody() -> None:
    """The socket is gone already."""
    desk = Desk([0])
    desk.send(b"first")
    desk.send(b"second")
    desk.outbox.stop()
    desk.outbox.close(1011, "broken")
    await desk.stream.drain()
    assert desk.taken == b"first"
    assert desk.closes == []


def _reset(desk: Desk) -> None:
    desk.kernel.broken = True


def _without_socket(desk: Desk) -> None:
    desk.stream.socket = None


def _closed_behind_writing(desk: Desk) -> None:
    desk.stream.write(b"pong")
    desk.stream.closed = True


@pytest.mark.parametrize("end", [_reset, _without_socket, _closed_behind_writing])
@in_loop
async def test_a_peer_that_is_gone_is_no_error(end: Callable[[Desk], None]) -> None:
    """However it shows, the outbox stops and later sends do nothing."""
    desk = Desk()
    end(desk)
    desk.send(b"lost")
    calls = desk.kernel.calls
    desk.send(b"lost too")
    assert desk.kernel.calls == calls
    assert desk.taken == b""


@in_loop
async def test_a_peer_that_goes_while_bytes_wait_is_no_error() -> None:
    """The future of the write fails, and nothing more is written."""
    desk = Desk([0])
    desk.send(b"first")
    desk.send(b"second")
    await desk.stream.fail()
    desk.send(b"third")
    assert desk.taken == b""
    assert desk.kernel.calls == 1


@in_loop
async def test_a_stream_with_tls_is_never_written_around() -> None:
    """Plain bytes on its socket would be garbage."""

    class Tls(Stream, SSLIOStream):  # type: ignore[misc]
        def __init__(self, kernel: Kernel) -> None:
            Stream.__init__(self, kernel)

        def __del__(self) -> None:
            pass

    desk = Desk()
    stream = Tls(desk.kernel)
    outbox = StreamOutbox(
        stream, limit=LIMIT, timeout=60, close=lambda code, reason: None, progress=lambda stream: Progress(0, 0)
    )
    outbox.send(FrameRun(b"run"))
    assert desk.kernel.calls == 0
    await stream.drain()
    assert desk.taken == b"run"


@in_loop
async def test_the_agreed_form_of_a_run_is_sent() -> None:
    """Deflated for those who agreed on it."""
    desk = Desk(frames_of=lambda run: run.deflated(6, None))
    run = FrameRun.build([b"x" * 1000])
    desk.outbox.send(run)
    assert desk.taken == run.deflated(6, None) != run.plain


runs = st.lists(st.one_of(st.integers(1, 40), st.none()), max_size=30)


@given(runs, st.lists(st.integers(0, 30), max_size=40), st.integers(0, 30))
@settings(deadline=None)
def test_whole_runs_arrive_in_order_whatever_the_kernel_takes(
    steps: list[int | None], takes: list[int], otherwise: int
) -> None:
    """Sends of some size, and moments at which the socket drains (None): every byte arrives once, in order."""

    async def scenario() -> None:
        desk = Desk(takes, otherwise=otherwise)
        sent = bytearray()
        for number, step in enumerate(steps):
            if step is None:
                await desk.stream.drain()
                continue
            frames = bytes([number % 256]) * step
            sent += frames
            desk.send(frames)
            assert sent.startswith(desk.taken)
            assert len(desk.taken) + desk.outbox.waiting == len(sent)
        while desk.stream.writing():
            await desk.stream.drain()
            await asyncio.sleep(0)
        assert desk.taken == sent
        assert desk.outbox.waiting == 0
        assert desk.closes == []

    asyncio.run(scenario())


@in_loop
async def test_viewers_that_are_behind_wait_for_room() -> None:
    """One that keeps up again waits for no other; each is called when those before it have read what they were sent."""
    room = RefreshRoom(1)
    called: list[int] = []
    desks = [Desk([0, 0], limit=100, room=room) for _ in range(2)]
    for number, desk in enumerate(desks):
        desk.offer(b"x")
        assert desk.offer(b"y" * 200) is Offer.REFUSED
        desk.outbox.when_drained(lambda number=number: called.append(number))  # type: ignore[misc]
        await desk.stream.drain()
        await asyncio.sleep(0)
    assert called == [0]
    first, second = desks
    assert first.outbox.expected == 200
    first.outbox.resume()
    first.send(b"z")  # the refresh
    first.outbox.when_drained(lambda: called.append(2))
    await asyncio.sleep(0)
    assert called == [0]
    await first.stream.drain()
    await asyncio.sleep(0)
    assert called == [0, 1, 2]
    second.outbox.stop()
