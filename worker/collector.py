"""Garbage collection that rarely stalls the event loop, and memory that has a bound all the same.

A full collection visits every object of every session: a second for a thousand of them, and Python starts one whenever
it thinks fit. Here it comes when the worker thinks fit; Python itself goes on to collect what is young. What lives when
the worker begins to serve (Bokeh, the apps' modules) is set aside (`gc.freeze`) and never visited again, which also
leaves the pages that the node's processes share shared. A discarded session is taken apart by hand
(`aperture.worker.document.teardown`) and needs no collection.

What does need one: what apps tie into cycles of their own, and the models of a plot that a callback has replaced. A
full collection is one pause, for Python has none in steps: 1 ms with one session of a plot, 30 ms with 50, 150 ms with
300. It comes

- when memory has grown by half since the last one, and at least by 64 MB (`GROWTH`), not counting what further sessions
  of an ordinary size take, unless pauses would take more than a hundredth of the time (`URGENT_SHARE`);
- without that, as soon as pauses take no more than a two-thousandth of the time (`ROUTINE_SHARE`): every few seconds
  with one session, every five minutes with 300;
- when no message has come, and no session has gone, for a while: half-way to that growth, or, without connections,
  after any session has gone.

So garbage is bounded on a worker that is never quiet, too: by half of what lives, and by what apps throw away in 100
times the last pause. The routine collections are needed for that. Freed memory is not always given back to the system,
so growth alone would allow a little more each time.
"""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Callable

from aperture.worker.periodic import resident_bytes

__all__ = ["GarbageCollector", "LeftToPython"]

log = logging.getLogger(__name__)

QUIET = 2.0
"""Seconds without a message after which a pause of some 100 ms is unlikely to be noticed."""

GROWTH = 0.5
"""Of the memory after the last collection, by which it may grow until the next. Less would have a worker that fills
with sessions, which are no garbage, pause more often on the way."""

MIN_GROWTH = 64 * 1024 * 1024
"""Bytes by which even a small worker may grow: a session is a tenth of a megabyte, one with a large plot some ten."""

SESSION_BYTES = 80 * 1024
"""What a session of one plot takes. Three hundred that open at once are no garbage, and need no pause."""

URGENT_SHARE = 1 / 100
ROUTINE_SHARE = 1 / 2000
"""Of the time, that pauses may take: when memory grows, and when it does not."""

YOUNG_COLLECTIONS = 500
"""After so many collections of what is not quite young any more Python may start a full one itself. It is for a
callback that fills the memory without ever giving the event loop a turn: some 3.5 million objects."""


class GarbageCollector:
    """Decides when to collect. All calls come from the worker's event loop.

    Args:
        clock: seconds, monotonic.
        memory: bytes that the process takes.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, memory: Callable[[], int] = resident_bytes) -> None:
        self._clock = clock
        self._memory = memory
        self._gone = 0
        self._last_activity = self._last_collection = clock()
        self._last_pause = 0.0
        self._memory_then = memory()
        """What was left after the last collection, and how many sessions."""
        self._sessions_then = 0

    def start(self) -> None:
        """Set aside what lives before there are sessions, and have full collections left to this."""
        gc.set_threshold(*gc.get_threshold()[:2], YOUNG_COLLECTIONS)
        gc.collect()
        gc.freeze()
        self._memory_then = self._memory()

    def session_discarded(self) -> None:
        """A session has gone, or its creation has failed half-way. Where one goes others may be about to."""
        self._gone += 1
        self._last_activity = self._clock()

    def activity(self) -> None:
        """A message came: a pause would be noticed, and there may be new garbage."""
        self._last_activity = self._clock()

    def quiet_for(self, seconds: float) -> bool:
        """Whether no message and no request came in the last so many seconds."""
        return self._clock() - self._last_activity >= seconds

    def is_due(self, sessions: int, connections: int) -> bool:
        """Whether a full collection is worth its pause now."""
        now = self._clock()
        since = now - self._last_collection
        if since * URGENT_SHARE < self._last_pause:
            return False
        if since * ROUTINE_SHARE >= self._expected_pause(sessions) and self._anything_happened(connections):
            return True
        further = SESSION_BYTES * max(0, sessions - self._sessions_then)
        grown = self._memory() - self._memory_then - further
        allowed = max(MIN_GROWTH, GROWTH * self._memory_then)
        if now - self._last_activity < QUIET:
            return grown >= allowed
        return grown >= allowed / 2 or (self._gone > 0 and not connections)

    def collect(self, sessions: int) -> None:
        """Collect the garbage of all sessions. A pause in proportion to all that lives in them."""
        started = self._clock()
        found = gc.collect()
        self._last_collection = self._clock()
        self._last_pause = self._last_collection - started
        self._memory_then = self._memory()
        self._sessions_then = sessions
        self._gone = 0
        log.debug("collected %d objects in %.0f ms", found, self._last_pause * 1000)

    def _expected_pause(self, sessions: int) -> float:
        return self._last_pause * max(1, sessions) / max(1, self._sessions_then)

    def _anything_happened(self, connections: int) -> bool:
        # While a viewer is connected callbacks may run by the clock, without a message to count.
        return bool(connections or self._gone) or self._last_activity > self._last_collection


class LeftToPython(GarbageCollector):
    """For a server in a program of its user's, whose garbage is not ours to set aside or to collect.

    What is set aside while it is garbage already, a notebook's large arrays perhaps, would stay for ever.
    """

    def start(self) -> None:
        """Nothing is set aside, and Python collects when it thinks fit."""

    def is_due(self, sessions: int, connections: int) -> bool:
        return False
