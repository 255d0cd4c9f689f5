"""Garbage collection that does not stall the event loop.

A full collection visits every object of every session: a second for a thousand of them, and Python starts one whenever
it thinks fit. So the objects of a new session are set aside (`gc.freeze`) once the young garbage of its creation is
gone: later collections, automatic ones included, look only at what is new. A discarded session is taken apart by hand
(`aperture.worker.document.teardown`) and needs no collection.

What apps tie into cycles of their own outlives that, among the objects set aside. It is collected, with everything
else, at a quiet moment after enough sessions have gone: when nobody is connected, or nobody has sent anything for a
while.
"""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Callable

__all__ = ["GarbageCollector", "LeftToPython"]

log = logging.getLogger(__name__)

QUIET = 2.0
"""Seconds without a message after which a pause of some 100 ms is likely to be noticed by nobody."""

GONE_WHILE_EMPTY = 1
GONE_WHILE_CONNECTED = 256
"""Discarded sessions that make a full collection worth its pause, with nobody and with somebody connected."""


class GarbageCollector:
    """Decides when to collect. All calls come from the worker's event loop.

    Args:
        clock: seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._gone = 0
        self._last_activity = clock()

    def session_created(self) -> None:
        """Collect what the creation left behind and set the session's objects aside."""
        gc.collect(1)
        gc.freeze()

    def session_discarded(self) -> None:
        self._gone += 1

    def activity(self) -> None:
        """Somebody sent something: not now."""
        self._last_activity = self._clock()

    def is_due(self, connections: int) -> bool:
        """Whether a full collection is worth its pause now."""
        if self._clock() - self._last_activity < QUIET:
            return False
        return self._gone >= (GONE_WHILE_CONNECTED if connections else GONE_WHILE_EMPTY)

    def collect(self) -> None:
        """Collect everything, the objects set aside too. A pause in proportion to all that lives."""
        started = self._clock()
        gc.unfreeze()
        found = gc.collect()
        gc.freeze()
        self._gone = 0
        log.debug("collected %d objects in %.0f ms", found, (self._clock() - started) * 1000)


class LeftToPython(GarbageCollector):
    """For a server in somebody's program, whose garbage is not ours to set aside or to collect.

    What is set aside while it is garbage already, a notebook's large arrays perhaps, would stay for as long as somebody
    looks at a session.
    """

    def session_created(self) -> None:
        """Nothing is set aside."""

    def is_due(self, connections: int) -> bool:
        return False
