"""The worker's own timers: things done every so often, and how late the event loop is with them."""

from __future__ import annotations

import asyncio
import logging
import resource
import sys
from collections import deque
from collections.abc import Awaitable, Callable
from pathlib import Path

from aperture.errors import BusDown

__all__ = ["LoopLag", "every", "resident_bytes"]

log = logging.getLogger(__name__)

_LAG_INTERVAL = 0.1
"""Seconds between two looks at the clock. A stall shorter than this may go unseen; none of half a second does."""

_LATELY = 150
"""Looks in 15 seconds, the usual time between two scrapes."""

_PAGE = resource.getpagesize()


def every(seconds: float, act: Callable[[], Awaitable[None]]) -> asyncio.Task[None]:
    """Await `act` again and again, `seconds` after it was last done. A failure is logged and does not end it."""

    async def repeat() -> None:
        while True:
            await asyncio.sleep(seconds)
            try:
                await act()
            except BusDown as problem:
                log.debug("%s is left out: %s", getattr(act, "__qualname__", act), problem)  # the bus has said why
            except Exception:
                log.exception("%s failed", getattr(act, "__qualname__", act))

    return asyncio.create_task(repeat())


class LoopLag:
    """How much later than asked for the event loop calls back, in seconds."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.longest = 0.0
        """Since it was last taken by `take_longest`."""
        self._recent: deque[float] = deque([0.0], maxlen=_LATELY)

    def start(self) -> asyncio.Task[None]:
        return asyncio.create_task(self._watch())

    def take_longest(self) -> float:
        """The longest lag since the last call."""
        longest, self.longest = self.longest, 0.0
        return longest

    @property
    def longest_lately(self) -> float:
        """The longest lag of the last 15 seconds: a reader that comes as often misses none."""
        return max(self._recent)

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            asked_for = loop.time() + _LAG_INTERVAL
            await asyncio.sleep(_LAG_INTERVAL)
            self.seconds = max(0.0, loop.time() - asked_for)
            self.longest = max(self.longest, self.seconds)
            self._recent.append(self.seconds)


def resident_bytes() -> int:
    """This process's resident memory. Without /proc (macOS) it is the highest it ever was."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE
    except OSError:
        highest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return highest if sys.platform == "darwin" else highest * 1024
