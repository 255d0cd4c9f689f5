"""Who changed what lately: how two people who drag the same slider end up with the same value.

A viewer is not sent its own changes back. That alone lets two viewers diverge: each applies the other's change after
its own. The browser does not say which patches it had seen when it made a change, so time has to do: an attribute that
a viewer changes within a while of another writer's change is contested. What is certain is what the server had not sent
yet when a change came in, however long that then waited for the document or for the bus; so that is looked at, too.
Once it is uncontested for a moment, the owner sends its value to everyone; sooner, it would jump back
under the hand that still drags it.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

__all__ = ["Contention", "Key"]

Key = tuple[str | None, str]
"""A model id and an attribute; no model id for what belongs to the document itself."""

WINDOW = 5.0
"""Seconds that a patch may take to a browser and its answer back. Longer costs patches that change nothing, shorter
costs agreement."""

_REMEMBERED = 10_000
"""Attributes remembered at most; beyond it the oldest is forgotten, though still inside the window."""


class _Write(NamedTuple):
    """When something was written: on the clock, and in the sequence of the session's patches."""

    at: float
    sequence: int


_NEVER = _Write(-math.inf, -1)


class Contention:
    """The last writers of each attribute of one session's document."""

    __slots__ = ("_clock", "_forgotten", "_seen", "_sequence", "_writes")

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        # key -> last writer, when it wrote, and when any other writer last did
        self._writes: OrderedDict[Key, tuple[object, _Write, _Write]] = OrderedDict()
        self._forgotten = -1
        self._sequence = 0
        self._seen = 0

    def begin(self, sequence: int, seen: int) -> None:
        """Start a batch: the next writes belong together.

        Args:
            sequence: of the patch that it makes.
            seen: of the last patch that can have been sent to its origin when the change came in.
        """
        self._sequence = sequence
        self._seen = seen

    def note(self, key: Key, origin: object | None) -> bool:
        """Record a write. True if `origin` is a viewer and another writer wrote the same key within the window."""
        written = _Write(self._clock(), self._sequence)
        known = self._writes.get(key)
        if known is None:
            # The writer of a forgotten key is unknown: a change that came in that late counts as contested, to be safe.
            others_wrote = _Write(-math.inf, self._forgotten)
        else:
            writer, last, others = known
            others_wrote = last if writer is not origin else others
        recently = written.at - others_wrote.at < WINDOW
        overtaken = origin is not None and (recently or others_wrote.sequence > self._seen)
        # The correction overwrites whatever the viewer changes until it arrives, as another's change would.
        self._writes[key] = (origin, written, written if overtaken else others_wrote)
        self._writes.move_to_end(key)
        self._forget(written.at)
        return overtaken

    def _forget(self, now: float) -> None:
        while self._writes:
            key, (_, last, _) = next(iter(self._writes.items()))
            if now - last.at < WINDOW and len(self._writes) <= _REMEMBERED:
                return
            self._forgotten = max(self._forgotten, last.sequence)
            del self._writes[key]
