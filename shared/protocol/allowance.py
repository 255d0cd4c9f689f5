"""What a peer's messages may cost to decode: memory that is allocated for them, and how deeply they nest.

A message is bounded by its size, and a small one can still ask for a lot: zeros in gzip inflate a thousandfold, each
of many arrays copies the one buffer that they name, forty bytes make a `Plot` of 50 KB. So what decoding allocates is
counted, over all of a message and over all messages of a connection in a time. What is in proportion to the bytes that
were sent is free: there the peer's line and the size of a message are the bound.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from aperture.errors import ProtocolError

__all__ = ["BUDGET_FACTOR", "MAX_DEPTH", "MIN_BUDGET", "MODEL_BYTES", "UNLIMITED", "USUAL_MESSAGE_SIZE", "Allowance"]

USUAL_MESSAGE_SIZE = 20 * 1024 * 1024
"""What `--websocket-max-message-size` is unless it is chosen."""

BUDGET_FACTOR = 25
"""A connection's budget in sizes of the largest message: 500 MiB by default, which a worker survives."""

MIN_BUDGET = 64 * 1024 * 1024
"""Small messages, too, may make a document of some hundred models."""

FREE_FACTOR = 10
"""Bytes that may be allocated for each byte received: lists of pairs of short numbers, the most wasteful of what honest
peers send, take 9."""

REFILL_SECONDS = 60.0
"""In which an empty budget fills up."""

MAX_DEPTH = 100
"""Lists and maps inside each other. Bokeh's own values nest to about ten, models within models to some dozens; the
encoders fail from 237 on."""

MODEL_BYTES = 32 * 1024
"""What a new model counts; measured are 8 KB for a `Div` and 51 KB for a `Plot`, without what they hold."""

_TOO_BIG = 1009


class Allowance:
    """The budget of one connection. Not thread-safe.

    Args:
        budget: bytes that may be allocated beyond what is in proportion to what was received.
        depth: to which values may nest.
        clock: seconds.
    """

    __slots__ = ("_budget", "_clock", "_free", "_left", "_refilled", "depth")

    def __init__(self, budget: int, *, depth: int = MAX_DEPTH, clock: Callable[[], float] = time.monotonic) -> None:
        self.depth = depth
        self._budget = budget
        self._clock = clock
        self._free = 0
        self._left = float(budget)
        self._refilled = clock()

    @classmethod
    def for_messages_of(cls, max_message_size: int) -> Allowance:
        """The allowance of a connection whose messages may be of that size."""
        return cls(max(MIN_BUDGET, BUDGET_FACTOR * max_message_size))

    @property
    def left(self) -> int:
        """Bytes that may still be allocated for this message."""
        return self._free + int(self._left)

    def begin(self, received: int) -> None:
        """A message of so many bytes is about to be decoded."""
        now = self._clock()
        self._left = min(self._budget, self._left + (now - self._refilled) * self._budget / REFILL_SECONDS)
        self._refilled = now
        self._free = FREE_FACTOR * received

    def take(self, size: int) -> None:
        """Count what is about to be allocated.

        Raises:
            ProtocolError: it is more than is left; the connection is to be closed.
        """
        self._free -= size
        if self._free >= 0:
            return
        self._left += self._free
        self._free = 0
        if self._left < 0:
            raise ProtocolError("too much memory is needed to decode what was sent", _TOO_BIG)


UNLIMITED = Allowance(sys.maxsize, depth=sys.maxsize)
"""For what this project has written itself."""
