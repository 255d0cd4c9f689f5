"""How lines leave the process: in one write each, so that processes do not mix theirs, and without ever holding it up.

A log is of less worth than what it tells of. Where it cannot be written, because the reader has gone or stands still or
the disk is full, lines are lost, counted, and the loss is reported in the first line that gets through.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import socket
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

__all__ = ["FileSink", "FloodGate", "LineHandler", "Sink", "StreamSink"]

PATIENCE = 0.05
PATIENCE_PERIOD = 5.0
"""So many seconds of so many the lines of a process wait for a reader that is behind, all of them together: one that is
always behind would hold up the event loop with each line. After a line that was lost none waits until one gets through.
"""

_LEAST_WAIT = 0.001
"""Seconds; a poll knows nothing shorter."""

ATOMIC = 4096
"""Bytes that a pipe takes in one piece, and a poll promises room for (PIPE_BUF on Linux)."""

BURST = 50
REFILL = 0.5
"""A stranger can provoke so many lines of one kind at once, and then so many a second."""

QUIET = ("opentelemetry", "urllib3")
QUIET_BURST = 3
QUIET_REFILL = 1 / 60
"""A dead collector is reported once a minute in each worker, and not at each attempt."""

KINDS = 500
"""Kinds of lines that are counted; they are as many as there are places in code, unless a library makes its own."""

STRANGERS = (
    "aperture.gateway.front.dispatch",
    "aperture.gateway.front.listener",
    "aperture.wire.node_messages",
    "aperture.worker.http.auth",
    "aperture.worker.gateway_link",
    "aperture.worker.relay.remote_messages",
    "aperture.worker.patch.inbound",
    "aperture.worker.ws",
    "bokeh.core",
    "bokeh.document",
    "bokeh.model",
    "bokeh.util",
    "opentelemetry",
    "tornado",
    "urllib3",
)
"""Loggers whose lines a client can cause without limit."""


class Sink(Protocol):
    """Takes lines."""

    def write(self, line: bytes) -> int:
        """Write as much of the line as can be written now; returns how much that was. Raises OSError."""
        ...

    def wait(self, seconds: float) -> None:
        """Return when there may be room, after `seconds` at the latest."""
        ...

    def close(self) -> None:
        """Nothing is written any more."""
        ...


class StreamSink:
    """A file descriptor that belongs to others, too: standard error.

    Making it non-blocking would make it so for all who share it, so it is opened once more where the system lets us;
    otherwise a poll says whether there is room for a piece.

    Args:
        descriptor: written to, and never closed.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._reopened: int | None = None
        self._piece = ATOMIC
        self._is_socket = False
        try:
            mode = os.fstat(descriptor).st_mode
        except OSError:
            return  # closed: every write will fail, and is borne
        self._is_socket = stat.S_ISSOCK(mode)
        if stat.S_ISREG(mode):
            self._piece = 1 << 30
        elif stat.S_ISFIFO(mode):
            self._reopened = _open_again(descriptor)

    def write(self, line: bytes) -> int:
        if self._reopened is not None:
            return _unless_full(lambda: os.write(self._reopened or 0, line))
        if self._is_socket:
            with socket.socket(fileno=os.dup(self._descriptor)) as borrowed:
                return _unless_full(lambda: borrowed.send(line, socket.MSG_DONTWAIT))
        if not _has_room(self._descriptor, 0):
            return 0
        return _unless_full(lambda: os.write(self._descriptor, line[: self._piece]))

    def wait(self, seconds: float) -> None:
        _has_room(self._descriptor if self._reopened is None else self._reopened, seconds)

    def close(self) -> None:
        if self._reopened is not None:
            os.close(self._reopened)
            self._reopened = None


class FileSink:
    """A file that all processes of the node append to; opened again when another file has its name.

    Args:
        path: of the file.

    Raises:
        OSError: it cannot be opened.
    """

    def __init__(self, path: str) -> None:
        self._path = os.path.abspath(path)
        self._descriptor = self._open()

    def write(self, line: bytes) -> int:
        self._follow()
        return os.write(self._descriptor, line)

    def wait(self, seconds: float) -> None:
        """A file has room or has none."""

    def close(self) -> None:
        os.close(self._descriptor)

    def _open(self) -> int:
        return os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)

    def _follow(self) -> None:
        """After a rotation write to the new file; if it cannot be made, go on with the old one."""
        mine = os.fstat(self._descriptor)
        try:
            named = os.stat(self._path)
            if (named.st_dev, named.st_ino) == (mine.st_dev, mine.st_ino):
                return
        except OSError:
            pass  # rotated, and not created again yet
        try:
            fresh = self._open()
        except OSError:
            return
        os.close(self._descriptor)
        self._descriptor = fresh


class LineHandler(logging.Handler):
    """Writes each record as one line. Never raises, and never blocks for longer than `PATIENCE`.

    Args:
        sink: where the lines go.
        clock: in seconds.
    """

    def __init__(self, sink: Sink, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self.lost = 0
        """Lines that could not be written since the last one that could."""
        self._sink = sink
        self._clock = clock
        self._patience, self._patience_at = PATIENCE, clock()
        self._broken_off = False
        """The last line is there in part, so the next one begins with a line's end."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record).encode("utf-8", "backslashreplace") + b"\n"
            if self.lost:
                line = self._dropped_notice().encode("utf-8", "backslashreplace") + b"\n" + line
            self._write(b"\n" + line if self._broken_off else line)
        except RecursionError:
            raise
        except Exception:
            self.lost += 1

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._sink.close()
        super().close()

    def _write(self, line: bytes) -> None:
        written = self._write_some(line)
        self._broken_off = 0 < written < len(line) or (self._broken_off and written == 0)
        self.lost = 0 if written == len(line) else self.lost + 1

    def _write_some(self, line: bytes) -> int:
        written = 0
        while written < len(line):
            try:
                taken = self._sink.write(line[written:])
            except OSError:
                break  # the reader has gone, or the disk is full
            written += taken
            if not taken and not self._wait():
                break
        return written

    def _wait(self) -> bool:
        """Give a reader that is behind some time; False if it has had what there was."""
        now = self._clock()
        regained = (now - self._patience_at) * PATIENCE / PATIENCE_PERIOD
        self._patience, self._patience_at = min(PATIENCE, self._patience + regained), now
        if self.lost or self._patience < _LEAST_WAIT:
            return False
        self._sink.wait(self._patience)
        self._patience_at = self._clock()
        self._patience -= self._patience_at - now
        return True

    def _dropped_notice(self) -> str:
        record = logging.LogRecord(
            __name__, logging.WARNING, "", 0, "%d lines of the log were lost", (self.lost,), None
        )
        return self.format(record)


@dataclass(slots=True)
class _Kind:
    left: float
    at: float
    held_back: int = 0


class FloodGate(logging.Filter):
    """Bounds the lines that strangers can cause: so many of a kind, then a few, which say how many there were."""

    def __init__(self) -> None:
        super().__init__()
        self._kinds: dict[tuple[str, str], _Kind] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if not record.name.startswith(STRANGERS):
            return True
        quiet = record.name.startswith(QUIET)
        burst, refill = (QUIET_BURST, QUIET_REFILL) if quiet else (BURST, REFILL)
        kind = self._kind(record, burst, whole=quiet)
        kind.left = min(burst, kind.left + max(0.0, record.created - kind.at) * refill)
        kind.at = record.created
        if kind.left < 1:
            kind.held_back += 1
            return False
        kind.left -= 1
        if kind.held_back:
            record.held_back = kind.held_back
            record.msg, record.args = _with_count(record, kind.held_back), None
            kind.held_back = 0
        return True

    def _kind(self, record: logging.LogRecord, burst: int, *, whole: bool) -> _Kind:
        if len(self._kinds) > KINDS:
            self._kinds.clear()
        # The template is the same for all lines of a place; who formats his own text is bounded as a whole.
        template = record.msg if isinstance(record.msg, str) and record.args else ""
        key = (record.name.partition(".")[0], "") if whole else (record.name, template)
        return self._kinds.setdefault(key, _Kind(burst, record.created))


def _with_count(record: logging.LogRecord, held_back: int) -> str:
    return f"{record.getMessage()} (and {held_back} more like this)"


def _open_again(descriptor: int) -> int | None:
    """The same pipe, by an opening of our own, which may be non-blocking without an effect on other processes."""
    try:
        return os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None  # not Linux, or another user's pipe


def _has_room(descriptor: int, seconds: float) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    return bool(poll.poll(seconds * 1000))


def _unless_full(write: Callable[[], int]) -> int:
    try:
        return write()
    except BlockingIOError:
        return 0
