"""The way of ready frames to one socket: written at once where nothing is queued, bounded where something is.

A patch to a viewer that keeps up costs one `send` and nothing else. What the kernel does not take is given to Tornado's
stream in one piece, and only what comes meanwhile is queued here. So frames of two messages can never be mixed, and
Tornado's own control frames always come between messages.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from tornado.iostream import IOStream, SSLIOStream, StreamClosedError

from aperture.protocol.closing import TRY_AGAIN_LATER
from aperture.protocol.frames import FrameRun

if TYPE_CHECKING:
    from asyncio import Future

__all__ = ["StreamOutbox"]

log = logging.getLogger(__name__)


class StreamOutbox:
    """An `aperture.worker.patch.viewer.Outbox` over a Tornado stream.

    Args:
        stream: of an open websocket; others may write whole frames to it too.
        limit: bytes that may wait here. One larger message may pass while nothing else waits, and as much may wait
            behind it.
        close: closes the websocket with a code and a reason.
        frames_of: picks the plain or the deflated form, whichever was agreed on in the handshake.
    """

    __slots__ = (
        "_close",
        "_closed",
        "_frames_of",
        "_limit",
        "_passing",
        "_queue",
        "_stream",
        "_waiting",
        "sent",
        "sent_bytes",
    )

    def __init__(
        self,
        stream: IOStream,
        *,
        limit: int,
        close: Callable[[int, str], None],
        frames_of: Callable[[FrameRun], bytes] | None = None,
    ) -> None:
        self._stream = stream
        self._limit = limit
        self._close = close
        self._frames_of = frames_of
        self._queue: deque[bytes] = deque()
        self._waiting = 0
        self._passing = 0
        self._closed = False
        self.sent = 0
        """What was given to this to be sent, in pieces and in bytes."""
        self.sent_bytes = 0

    @property
    def waiting(self) -> int:
        """Bytes that the kernel has not taken yet."""
        return self._waiting

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

    def close(self, code: int, reason: str) -> None:
        if self._closed:
            return
        self.stop()
        self._close(code, reason)

    def stop(self) -> None:
        """Drop what waits and take nothing more: the socket is gone."""
        self._closed = True
        self._queue.clear()

    def _enqueue(self, frames: bytes) -> None:
        # A large document that changes all the time could not be pulled if its patches had to wait for room, too.
        larger = self._passing if self._passing > self._limit else 0
        if self._waiting + len(frames) > self._limit + larger:
            log.warning("viewer is %d bytes behind and is closed; it may come back", self._waiting)
            self.close(TRY_AGAIN_LATER, "too slow")
            return
        self._queue.append(frames)
        self._waiting += len(frames)

    def _write(self, frames: bytes) -> None:
        rest: bytes | memoryview = frames
        if not isinstance(self._stream, SSLIOStream) and not self._stream.writing():
            try:
                sent = self._stream.socket.send(frames)
            except BlockingIOError:
                sent = 0
            except (OSError, AttributeError):  # Tornado sets the socket of a closed stream to None
                self.stop()
                return
            if sent == len(frames):
                return
            rest = memoryview(frames)[sent:]
        self._write_through_stream(rest)

    def _write_through_stream(self, rest: bytes | memoryview) -> None:
        size = self._passing = len(rest)
        self._waiting += size
        try:
            written = self._stream.write(rest)
        except StreamClosedError:
            self.stop()
            return
        written.add_done_callback(lambda future: self._on_written(future, size))

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
