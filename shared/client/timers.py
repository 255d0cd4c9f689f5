"""When the callbacks of a document are due: `add_next_tick_callback`, `add_timeout_callback`, `add_periodic_callback`.

It has neither a clock nor a loop: the asynchronous session runs them on its loop, the blocking one while it waits.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Protocol

__all__ = ["Agenda", "Entry"]


class Entry(Protocol):
    """Bokeh's object for an `add_…_callback`: periodic ones have a `period`, timeouts a `timeout`, in ms."""

    @property
    def id(self) -> str: ...

    @property
    def callback(self) -> Callable[[], Any]: ...


class Agenda:
    """The callbacks of one document, and the times at which they are due. May be used from any thread.

    Args:
        clock: monotonic seconds.
        changed: called when a callback may be due earlier than before, in any thread.
    """

    def __init__(self, clock: Callable[[], float], changed: Callable[[], None]) -> None:
        self._clock = clock
        self._changed = changed
        self._guard = threading.Lock()
        self._entries: dict[str, Entry] = {}
        self._due: dict[str, float] = {}

    def add(self, entry: Entry) -> None:
        """Schedule a callback."""
        with self._guard:
            self._entries[entry.id] = entry
            self._due[entry.id] = self._clock() + _delay(entry)
        self._changed()

    def remove(self, entry: Entry) -> None:
        """Cancel a callback. Idempotent."""
        with self._guard:
            self._entries.pop(entry.id, None)
            self._due.pop(entry.id, None)

    def clear(self) -> None:
        """Cancel all callbacks."""
        with self._guard:
            self._entries.clear()
            self._due.clear()

    def next_due(self) -> float | None:
        """The time at which the next callback is due, on the clock; None without callbacks."""
        with self._guard:
            return min(self._due.values(), default=None)

    def take_due(self) -> list[Entry]:
        """Take the callbacks that are due, the longest due first. A periodic one is not due again before `finished`."""
        with self._guard:
            now = self._clock()
            names = sorted((name for name, due in self._due.items() if due <= now), key=self._due.__getitem__)
            for name in names:
                del self._due[name]
            return [self._entries[name] for name in names]

    def finished(self, entry: Entry, started: float) -> None:
        """Schedule a periodic callback again after a run that began at `started`, so that its own time counts against
        its period, as in Bokeh."""
        if getattr(entry, "period", None) is None:
            return
        with self._guard:
            if entry.id in self._entries:
                self._due[entry.id] = max(self._clock(), started + _delay(entry))
        self._changed()


def _delay(entry: Entry) -> float:
    """Seconds."""
    milliseconds = getattr(entry, "period", None) or getattr(entry, "timeout", None) or 0
    return float(milliseconds) / 1000
