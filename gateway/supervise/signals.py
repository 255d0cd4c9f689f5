"""Signals as an object to select on, so that no code runs inside a signal handler.

Python's C-level handler writes each signal's number into a socket; the supervisor's one loop reads it there. Runs in
the supervisor only: a child must not share the socket, or its signals would look like the supervisor's.
"""

from __future__ import annotations

import contextlib
import signal
import socket
from collections.abc import Iterable
from types import FrameType
from typing import Any

__all__ = ["SignalQueue", "signals_blocked"]

_MOST_AT_ONCE = 4096


class SignalQueue:
    """Collects signals for a loop to read. Main thread only, like everything about signals.

    Args:
        names: the signals, such as "SIGTERM"; one that this platform lacks is left out.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
        self._before: dict[int, Any] = {}
        self._wakeup_before = -1
        self._read_end, self._write_end = socket.socketpair()
        self._read_end.setblocking(False)
        self._write_end.setblocking(False)

    def fileno(self) -> int:
        return self._read_end.fileno()

    def open(self) -> None:
        """Collect from now on."""
        self._wakeup_before = signal.set_wakeup_fd(self._write_end.fileno(), warn_on_full_buffer=False)
        for number in self._numbers:
            before = signal.getsignal(number)
            if number == getattr(signal, "SIGHUP", None) and before is signal.SIG_IGN:
                continue  # ignored since the start, as `nohup` does with SIGHUP: leave it so
            self._before[number] = signal.signal(number, _ignore)

    def take(self) -> list[signal.Signals]:
        """The signals that have come since the last call.

        The wake-up byte is written for every signal with a handler in Python. A module that an app imports may have
        installed one; that handler has run, and its signal is skipped here.
        """
        with contextlib.suppress(BlockingIOError, InterruptedError):
            return [signal.Signals(number) for number in self._read_end.recv(_MOST_AT_ONCE) if number in self._before]
        return []

    def close(self) -> None:
        """Restore the handlers and the wake-up descriptor."""
        if self._before:
            signal.set_wakeup_fd(self._wakeup_before)
            for number, handler in self._before.items():
                signal.signal(number, handler)
            self._before.clear()
        self._read_end.close()
        self._write_end.close()

    def abandon(self) -> None:
        """In a child, right after the fork and before signals are unblocked: default actions, nothing shared."""
        signal.set_wakeup_fd(-1)
        for number in self._before:
            signal.signal(number, signal.SIG_DFL)
        self._read_end.close()
        self._write_end.close()


class signals_blocked:  # noqa: N801 - used as a statement
    """Blocks signals, so that none reaches a new child while it still has its parent's handlers."""

    def __enter__(self) -> signals_blocked:
        self._before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.release()

    def release(self) -> None:
        """Let signals through again; called also by a child, which never leaves the block."""
        signal.pthread_sigmask(signal.SIG_SETMASK, self._before)


def _ignore(number: int, frame: FrameType | None) -> None:
    """Does nothing: a handler must exist for the wake-up byte to be written; the loop that reads it does the work."""
