"""What a process that an app's code forks must not have of this one: its connections, its polls, its signals.

A connection stays open for as long as any process has it: a browser would learn that its worker is dead, or has closed
the connection, when the app's child ends. A poll is shared: what a child's garbage takes out of it is taken out of the
worker's. And a signal handler of asyncio's writes to a descriptor that the worker reads, so that what was to end the
child would end the worker.

Who owns such descriptors names them when a fork happens, in the child. Programs that are executed get none of this:
descriptors are closed by then, and handlers are the default again, but what is ignored stays ignored.

Nor may a child go on as a second worker: where the app's code comes back into ours, it ends (`end_if_forked`).
"""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Mapping
from types import FrameType
from typing import Any, Protocol
from weakref import WeakSet

__all__ = [
    "Holder",
    "end_if_forked",
    "open_descriptors",
    "restore_signals_in_children",
    "withhold",
    "withhold_descriptors",
]

Handler = Callable[[int, FrameType | None], Any] | int | signal.Handlers | None


class Holder(Protocol):
    """Has descriptors that come and go."""

    def descriptors(self) -> Iterable[int]:
        """Those that are open. Called in a forked child; a number that has been reused since must not be among them."""
        ...


_holders: WeakSet[Holder] = WeakSet()
_for_life: set[int] = set()
_forked = False
"""Whether this is a child of a worker."""

_held_back = threading.local()
"""The signal mask of a thread that is forking."""


def withhold(holder: Holder) -> None:
    """Have children forked from now on lose what this object holds; it is referred to weakly."""
    _holders.add(holder)


def withhold_descriptors(numbers: Iterable[int]) -> None:
    """The same for descriptors that are open for as long as this process lives."""
    _for_life.update(numbers)


def open_descriptors() -> set[tuple[int, int]]:
    """The sockets and polls that are open, each with its inode, which tells one from the next under the same number."""
    found = set()
    for name in os.listdir("/dev/fd"):
        with contextlib.suppress(OSError):  # the listing's own, for one
            state = os.fstat(int(name))
            # What Linux has for polls and wake-ups is of no type at all; elsewhere they are pipes or are not inherited.
            if stat.S_ISSOCK(state.st_mode) or stat.S_IFMT(state.st_mode) == 0:
                found.add((int(name), state.st_ino))
    return found


def restore_signals_in_children(handlers: Mapping[signal.Signals, Handler]) -> None:
    """Have children of this process begin with these handlers, and with no wake-up descriptor. Once per process.

    Signals are held back over the fork: one that is sent to the child at once would still find the parent's handlers.
    """

    def restore() -> None:
        global _forked
        _forked = True
        signal.set_wakeup_fd(-1)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        _let_signals_through()

    os.register_at_fork(before=_hold_signals_back, after_in_parent=_let_signals_through, after_in_child=restore)


def end_if_forked(problem: BaseException | None = None) -> None:
    """End this process if app code has forked it from a worker, and has now come back or has raised `problem`.

    The event loop has no poll there, and aborts; a thread would wait for work for ever. The exit status is the one that
    Python would end with. No exit handlers run: they are the worker's.
    """
    if not _forked:
        return
    code = 0
    if isinstance(problem, SystemExit):
        code = problem.code if isinstance(problem.code, int) else int(problem.code is not None)
        if isinstance(problem.code, str):
            sys.stderr.write(f"{problem.code}\n")
    elif problem is not None:
        code = 1
        traceback.print_exception(problem)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(code & 0xFF)


def _hold_signals_back() -> None:
    _held_back.mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())


def _let_signals_through() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _held_back.mask)


def _let_go() -> None:
    """In a child, right after the fork.

    The numbers stay taken, by what reads as empty: objects that the child has copies of will close them, or use them,
    and must not meet what got the number next.
    """
    numbers = set(_for_life)
    for holder in _holders:
        with contextlib.suppress(Exception):  # caught in the middle of a change; the others are let go all the same
            numbers.update(holder.descriptors())
    _for_life.clear()
    _holders.clear()
    if not numbers:
        return
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in numbers - {-1}:
        with contextlib.suppress(OSError):
            os.dup2(nothing, number, inheritable=False)
    os.close(nothing)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)
