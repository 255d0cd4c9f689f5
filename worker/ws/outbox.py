"""The way of ready frames to one socket: written at once where nothing is queued, bounded where something is.

A patch to a viewer that keeps up costs one `send` and nothing else. What the kernel does not take is given to Tornado's
stream in one piece, and only what comes meanwhile is queued here. So frames of two messages can never be mixed, and
Tornado's own control frames always come between messages.

A viewer on a slow line is not closed for that. Above the high-water mark its patches are refused, and it is sent the
present values instead when its socket has drained (`aperture.worker.patch.fanout`). It is closed when its socket takes
nothing at all for some time, or when it asks for more than it reads.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from tornado.iostream import IOStream, SSLIOStream, StreamClosedError

from aperture.protocol.closing import TRY_AGAIN_LATER
from aperture.protocol.frames import FrameRun
from aperture.worker.patch.viewer import Offer
from aperture.worker.ws.progress import Progress, progress_of
from aperture.worker.ws.refresh_room import RefreshRoom

if TYPE_CHECKING:
    from asyncio import Future

__all__ = ["StreamOutbox"]

log = logging.getLogger(__name__)

_LOOKS = 4
"""How often in `timeout` it is looked whether the socket has taken something: a viewer is closed at most a quarter of
that time late."""

_UNSENT_LIMIT = 128 * 1024
"""Bytes that the kernel may hold of a viewer that has been behind, without having sent them. By itself it holds up to
4 MB: four seconds of old pictures on a line of 1 MB/s, in front of the one that is new. What is sent and not
acknowledged does not count, so a fast line far away is as fast as before."""


_WRITTEN = Offer.WRITTEN
"""Read from the class it costs as much as all the rest of an offer that calls no other function."""


class StreamOutbox:
    """An `aperture.worker.patch.viewer.Outbox` over a Tornado stream.

    Args:
        stream: of an open websocket; others may write whole frames to it too.
        limit: the high-water mark, in bytes that may wait here. One larger patch may pass while nothing else waits.
        timeout: seconds without any progress after which the connection is closed.
        close: closes the websocket with a code and a reason.
        frames_of: picks the plain or the deflated form, whichever was agreed on in the handshake.
        timed_out: called when the viewer is closed because its socket takes nothing.
        progress: what of a stream changes with each byte that its peer takes.
        room: that all outboxes of the worker share for what they send to viewers that were behind.
    """

    __slots__ = (
        "_close",
        "_closed",
        "_drained",
        "_frames_of",
        "_limit",
        "_passing",
        "_plain",
        "_progress_of",
        "_queue",
        "_refused",
        "_room",
        "_stream",
        "_timed_out",
        "_timeout",
        "_waiting",
        "_watch",
        "behind",
        "sent",
        "sent_bytes",
    )

    def __init__(
        self,
        stream: IOStream,
        *,
        limit: int,
        timeout: float,
        close: Callable[[int, str], None],
        frames_of: Callable[[FrameRun], bytes] | None = None,
        timed_out: Callable[[], None] = lambda: None,
        progress: Callable[[IOStream], Progress] = progress_of,
        room: RefreshRoom | None = None,
    ) -> None:
        self._stream = stream
        self._plain = not isinstance(stream, SSLIOStream)  # else only the stream may write
        self._limit = limit
        self._timeout = timeout
        self._close = close
        self._frames_of = frames_of
        self._timed_out = timed_out
        self._progress_of = progress
        self._room = room or RefreshRoom()
        self._queue: list[bytes] = []  # an empty deque is 760 bytes, and there are thousands of connections
        self._waiting = 0
        self._passing = 0
        self._refused = 0
        """Bytes of the largest patch that was refused since the viewer is behind."""
        self._closed = False
        self._drained: Callable[[], None] | None = None
        self._watch: asyncio.TimerHandle | None = None
        self.behind = False
        """Whether patches are refused: one was, and the viewer has not caught up yet."""
        self.sent = 0
        """What was given to this to be sent, in pieces and in bytes."""
        self.sent_bytes = 0

    @property
    def waiting(self) -> int:
        """Bytes that the kernel has not taken yet."""
        return self._waiting

    @property
    def expected(self) -> int:
        """Bytes that wait, or are likely to when the viewer is sent what it was refused."""
        return max(self._waiting, self._refused)

    def offer(self, run: FrameRun) -> Offer:
        # Nearly always: nothing waits. This is what a patch costs for each viewer, so it calls nothing else.
        if self._waiting or self.behind or self._closed:
            return self._offer_late(run)
        frames = run.plain if self._frames_of is None else self._frames_of(run)
        self.sent += 1
        self.sent_bytes += len(frames)
        return self._write(frames)

    def _offer_late(self, run: FrameRun) -> Offer:
        if not self._closed and (self.behind or self._waiting + len(run) > self._limit):
            self._fall_behind()
            self._refused = max(self._refused, len(run))
            return Offer.REFUSED
        self.send(run)
        return Offer.QUEUED if self._waiting else Offer.WRITTEN

    def send(self, run: FrameRun) -> None:
        if self._closed:
            return
        frames = run.plain if self._frames_of is None else self._frames_of(run)
        self.sent += 1
        self.sent_bytes += len(frames)
        if self._waiting:
            self._enqueue(frames)
        else:
            self._write(frames)

    def when_drained(self, act: Callable[[], None]) -> None:
        if self._waiting:
            self._drained = act
        elif not self._closed:
            self._tell_drained(act)

    def resume(self) -> None:
        self.behind = False
        self._refused = 0

    def close(self, code: int, reason: str) -> None:
        if self._closed:
            return
        self.stop()
        self._close(code, reason)

    def stop(self) -> None:
        """Drop what waits and take nothing more: the socket is gone."""
        self._closed = True
        self.behind = False
        self._drained = None
        self._room.leave(self)
        self._queue.clear()
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None

    def _fall_behind(self) -> None:
        if self.behind:
            return
        self.behind = True
        # For good, but not before: who reads fast has its bursts in the kernel, and gets each patch.
        with suppress(AttributeError, OSError):  # not every system, nor every kind of socket, has the option
            self._stream.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT_LIMIT)

    def _enqueue(self, frames: bytes) -> None:
        # Only answers come this far: one document may wait behind the mark, as its viewer reads it first of all.
        if self._waiting - self._passing > self._limit:
            log.warning("viewer asks for more than it reads, is %d bytes behind and is closed", self._waiting)
            self.close(TRY_AGAIN_LATER, "too slow")
            return
        self._queue.append(frames)
        self._waiting += len(frames)

    def _write(self, frames: bytes) -> Offer:
        rest: bytes | memoryview = frames
        if self._plain and not self._stream.writing():
            try:
                sent = self._stream.socket.send(frames)
            except BlockingIOError:
                sent = 0
            except (OSError, AttributeError):  # Tornado sets the socket of a closed stream to None
                self.stop()
                return _WRITTEN
            if sent == len(frames):
                return _WRITTEN
            rest = memoryview(frames)[sent:]
        self._write_through_stream(rest)
        return Offer.QUEUED

    def _write_through_stream(self, rest: bytes | memoryview) -> None:
        size = self._passing = len(rest)
        self._waiting += size
        try:
            written = self._stream.write(rest)
        except StreamClosedError:
            self.stop()
            return
        written.add_done_callback(lambda future: self._on_written(future, size))
        if self._watch is None:
            loop = asyncio.get_running_loop()
            self._watch = loop.call_later(self._timeout / _LOOKS, self._look, self._progress_of(self._stream), 1)

    def _on_written(self, future: Future[None], size: int) -> None:
        self._waiting -= size
        self._passing = 0
        if self._closed:
            return
        if future.cancelled() or future.exception() is not None:
            self.stop()
        elif self._queue:
            frames = b"".join(self._queue)
            self._queue.clear()
            self._waiting -= len(frames)
            self._write(frames)
        if not self._waiting and self._drained is not None:
            drained, self._drained = self._drained, None
            self._tell_drained(drained)

    def _tell_drained(self, act: Callable[[], None]) -> None:
        self._room.leave(self)
        if self.behind:  # what it is sent next may be as large as the document
            self._room.enter(self, act)
        else:
            asyncio.get_running_loop().call_soon(act)

    def _look(self, before: Progress, idle: int) -> None:
        """Look whether the socket has taken something since `before`, which was so for the last `idle` looks."""
        self._watch = None
        if not self._waiting:
            return  # the next bytes that wait are watched anew
        now = self._progress_of(self._stream)
        if now == before and idle >= _LOOKS:
            log.warning("viewer has taken nothing for %g s and is closed; it may come back", self._timeout)
            self._timed_out()
            self.close(TRY_AGAIN_LATER, "too slow")
            return
        idle = idle + 1 if now == before else 1
        self._watch = asyncio.get_running_loop().call_later(self._timeout / _LOOKS, self._look, now, idle)
