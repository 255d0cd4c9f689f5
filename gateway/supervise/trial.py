"""Find out in a process that is thrown away what the supervisor must not do itself, because forks would not divide it.

A thread exists in the process that started it and in no fork of it; a connection would be shared by all of them, and a
child has one parent. Only doing it shows what an import starts, and what is imported cannot be un-imported. So it is
done once for nothing, in a fork of the supervisor, and then for good where it is fit: there or in each worker.

Runs in the supervisor, before it has any other child.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from aperture.gateway.supervise.children import Child
from aperture.inheritance import open_descriptors

__all__ = ["Unfit", "first_unfit", "left_behind"]

EXIT_TIME = 1.0
"""Seconds for what was registered to run at exit: the first worker waits for it."""

_DONE = "."
_BETWEEN = "\t"


@dataclass(frozen=True, slots=True)
class Unfit:
    """A step that is not for the supervisor.

    Args:
        step: as it was named.
        reason: what it does, as the end of a sentence.
    """

    step: str
    reason: str


def first_unfit(steps: Iterator[str]) -> Unfit | None:
    """Carry the steps out in a fork of this process, and return the first that leaves behind what no fork divides.

    Args:
        steps: yields a name without tabs and line ends for what it does next. What it prints and logs is dropped.
    """
    with tempfile.TemporaryFile() as said:  # no pipe: what a step has started may hold its other end for ever
        child = Child("trial", EXIT_TIME)
        child.fork(_be_alone, lambda: _try(steps, said.fileno()))
        assert child.pid is not None, "it has just been forked"
        try:
            os.waitpid(child.pid, 0)
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(child.pid, signal.SIGKILL)  # what the steps have started, or a trial that is interrupted
        said.seek(0)
        return _verdict(said.read().decode())


def left_behind() -> Callable[[], str | None]:
    """Take note of what this process has; the function that is returned says what has come to it since, if anything."""
    threads, descriptors, children = threading.active_count(), open_descriptors(), _has_children()

    def look() -> str | None:
        if threading.active_count() > threads:
            return "starts threads"
        if open_descriptors() - descriptors:
            return "opens sockets"
        if _has_children() and not children:
            return "starts processes"
        return None

    return look


def _has_children() -> bool:
    if not hasattr(os, "waitid"):
        return False  # macOS, before Python 3.13
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def _be_alone() -> None:
    """In the child: nobody sees what the steps write, and what they start can be found by its group."""
    os.setpgid(0, 0)
    logging.disable()
    nothing = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nothing, standard)


def _try(steps: Iterator[str], saying: int) -> int:
    look = left_behind()
    for number, step in enumerate(steps):
        # Whatever a step has left behind is there by the time that the next one is named.
        if number and (reason := look()) is not None:
            return _say(saying, _BETWEEN + reason)
        _say(saying, f"\n{step}")
    return _say(saying, _BETWEEN + reason if (reason := look()) is not None else f"\n{_DONE}")


def _say(saying: int, words: str) -> int:
    os.write(saying, words.encode())
    return 0


def _verdict(said: str) -> Unfit | None:
    last = said.rpartition("\n")[2]
    if last in ("", _DONE):
        return None
    step, _, reason = last.partition(_BETWEEN)
    return Unfit(step, reason or "ends the process")
