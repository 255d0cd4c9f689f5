"""How long one connection may keep the event loop to itself.

Messages are acted on as they are read, and nothing between two of them gives way: a frame that is in the buffer already
is read without a turn of the loop. So a burst of slider changes would hold up every other session of the worker until
the last of them has run its callbacks.
"""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["SLICE", "Slice"]

SLICE = 0.002
"""Seconds of work after which a connection lets the others have their turn: some twenty changes without a callback, so
that the turn's 20 us are lost among them, and far below what a user notices."""


class Slice:
    """Adds up how long a connection's messages have taken since it last gave way.

    Args:
        clock: seconds that only grow.
    """

    __slots__ = ("_clock", "_started", "_used")

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._used = 0.0
        self._started = 0.0

    def begin(self) -> None:
        """Work for the connection begins."""
        self._started = self._clock()

    def end(self) -> bool:
        """The work is done. Returns whether the connection must give way now."""
        self._used += self._clock() - self._started
        if self._used < SLICE:
            return False
        self._used = 0.0
        return True
