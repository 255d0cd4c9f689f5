"""Finds out in a throw-away process which steps the supervisor must not run: those whose effects a fork breaks.

A thread exists in the process that started it and in no fork of it; a connection would be shared by all of them; a
child has one parent. What an import starts is known only after running it, and an import cannot be undone. So each step
runs once as a trial in a fork of the supervisor, and then for real where it is safe: there or in each worker.

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
"""Seconds for exit handlers: the first worker waits for them."""

_DONE = "."
_BETWEEN = "\t"


@dataclass(frozen=True, slots=True)
class Unfit:
    """A step that the supervisor must not run.

    Args:
        step: its name.
        reason: what it does, as the end of a sentence.
    """

    step: str
    reason: str


def first_unfit(steps: Iterator[str]) -> Unfit | None:
    """Run the steps in a fork of this process; return the first that leaves something behind that a fork cannot share.

    Args:
        steps: yields a name without tabs and line ends for each next step. Output and log lines are discarded.
    """
    with tempfile.TemporaryFile() as said:  # no pipe: a process that a step started may hold its other end for ever
        child = Child("trial", EXIT_TIME)
        child.fork(_be_alone, lambda: _try(steps, said.fileno()))
        assert child.pid is not None, "it has just been forked"
        try:
            os.waitpid(child.pid, 0)
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(child.pid, signal.SIGKILL)  # processes that the steps have started, or an interrupted trial
        said.seek(0)
        return _verdict(said.read().decode())


def left_behind() -> Callable[[], str | None]:
    """Record this process's threads, children and sockets; the returned function names one added since, if any."""
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
    """In the child: discard what the steps write, and give the processes that they start a group to kill them by."""
    os.setpgid(0, 0)
    logging.disable()
    nothing = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nothing, standard)


def _try(steps: Iterator[str], saying: int) -> int:
    look = left_behind()
    for number, step in enumerate(steps):
        # Anything that the previous step leaves behind exists by the time the next one is named.
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
