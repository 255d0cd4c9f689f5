"""How the supervisor sees that a worker's event loop is stuck, and learns where (`--max-callback-seconds`).

The loop counts in a page of memory that both share. A thread of the worker could not do that for it: code that holds
the interpreter stops all threads. For the same reason it is `faulthandler` that writes the stacks, at a signal: it
needs no interpreter. It writes into files without a name, so that the supervisor can put them into its log.

Of all threads it writes the hundred that began last, and so not the loop's, which is the first, where there are more.
The loop's own stack has a signal and a file of its own.
"""

from __future__ import annotations

import faulthandler
import mmap
import os
import re
import signal
import struct
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import BinaryIO, cast

from aperture.wire.seats import BEAT_INTERVAL

__all__ = ["DUMP_TIME", "STACKS_SIGNALS", "LoopWatch"]

DUMP_TIME = 0.3
"""Seconds for the stacks to be written."""

_LOOP_SIGNAL = getattr(signal, "SIGRTMIN", signal.SIGUSR1)  # macOS has no real-time signals
_THREADS_SIGNAL = signal.SIGUSR2

STACKS_SIGNALS = (_LOOP_SIGNAL, _THREADS_SIGNAL)
"""Make a worker write its stacks, if it is watched."""

_MOST_READ = 8 * 1024 * 1024
"""Bytes of stacks that are read: a hundred threads of a hundred frames, each with a long path, have less."""

_MOST_LOGGED = 16 * 32 * 1024
_A_LINE = 32 * 1024
"""Characters of stacks that are logged, and in one line of the log, which is cut at 64 KB."""

_HEAD = re.compile(r"^(Current thread|Thread|Stack)\b.* \(most recent call first\):\n", re.MULTILINE)

_BEATS = struct.Struct("Q")


class LoopWatch:
    """Watches the event loop of the worker in one place of the node.

    Made by the supervisor before the first fork. `begin` and `beat` run in the worker.
    """

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, _BEATS.size)
        self._loop_stack = _file_without_a_name()
        self._thread_stacks = _file_without_a_name()
        self._beats = 0
        """Of the worker, as of its last beat."""
        self._last = 0
        """As of the last look."""
        self._looked_at = 0.0
        self._silent = 0.0

    def reset(self) -> None:
        """Another worker is about to be forked."""
        for file in (self._loop_stack, self._thread_stacks):
            file.truncate(0)
            os.lseek(file.fileno(), 0, os.SEEK_SET)
        self._looked_at = self._silent = 0.0

    def begin(self) -> None:
        """Have this process write its stacks on signals; from the loop's thread, which is the one that gets them."""
        faulthandler.register(_LOOP_SIGNAL, file=self._loop_stack, all_threads=False, chain=False)
        faulthandler.register(_THREADS_SIGNAL, file=self._thread_stacks, all_threads=True, chain=False)

    def beat(self) -> None:
        """The loop runs."""
        self._beats += 1
        _BEATS.pack_into(self._memory, 0, self._beats)

    def silent_for(self, now: float) -> float:
        """Look, and say for how many seconds the loop has not run.

        Args:
            now: seconds that only grow. Of those since the last look no more count than a few: if the supervisor has
                stood still, so may have the worker.
        """
        (beats,) = _BEATS.unpack_from(self._memory)
        passed = min(now - self._looked_at, 4 * BEAT_INTERVAL) if self._looked_at else 0.0
        self._silent = 0.0 if beats != self._last else self._silent + passed
        self._last, self._looked_at = beats, now
        return self._silent

    def stacks(self) -> list[str]:
        """What the worker has written of its stacks, the loop's first: texts for a line of the log each, perhaps none.

        Threads at the same place are one stack.
        """
        own = [stack for _, stack in _stacks_in(self._loop_stack)]
        threads = list(_stacks_in(self._thread_stacks))
        loops = own or [stack for head, stack in threads if head == "Current thread"]
        others = Counter(stack for head, stack in threads if head != "Current thread")
        counted = (f"{'a thread' if count == 1 else f'{count} threads'}:\n{stack}" for stack, count in others.items())
        return list(_filled([*(f"the event loop:\n{stack}" for stack in loops), *counted]))

    def close(self) -> None:
        """Give the memory and the file back."""
        self._memory.close()
        self._loop_stack.close()
        self._thread_stacks.close()


def _stacks_in(file: BinaryIO) -> Iterator[tuple[str, str]]:
    """What `faulthandler` has written: the beginning of each head, and the frames."""
    parts = _HEAD.split(os.pread(file.fileno(), _MOST_READ, 0).decode(errors="replace"))
    for head, stack in zip(parts[1::2], parts[2::2], strict=True):
        yield head, stack.strip("\n")


def _filled(stacks: Iterable[str]) -> Iterator[str]:
    """As many stacks to a text as it holds; what is beyond the most that is logged is only counted."""
    text, logged, left = "", 0, 0
    for stack in stacks:
        stack = stack[:_A_LINE]
        if logged + len(stack) > _MOST_LOGGED:
            left += 1
            continue
        logged += len(stack)
        if text and len(text) + len(stack) > _A_LINE:
            yield text
            text = ""
        text += f"\n{stack}" if text else stack
    if left:
        text += f"\nand {left} more"
    if text:
        yield text


def _file_without_a_name() -> BinaryIO:
    if hasattr(os, "memfd_create"):  # on Linux, where a container's root may be read-only
        return open(os.memfd_create("stacks"), "r+b", buffering=0)
    return cast("BinaryIO", tempfile.TemporaryFile(buffering=0))
