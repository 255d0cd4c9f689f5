"""Deadlines of many connections with one timer.

Thousands of connections may be waiting for their first byte. All of one kind have the same time limit, so they expire
in the order in which they came: an ordered dictionary and a single timer for the oldest are enough. One timer each
would cost the event loop a heap of thousands of cancelled timers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

__all__ = ["Deadlines"]

T = TypeVar("T", bound=Hashable)


class Deadlines(Generic[T]):
    """Items with the same time to live, oldest first.

    Args:
        loop: the event loop that runs the timer.
        delay: seconds an item may stay.
        on_due: called with an expired item, after it was removed.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, delay: float, on_due: Callable[[T], None]) -> None:
        self._loop = loop
        self._delay = delay
        self._on_due = on_due
        self._due_at: dict[T, float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._due_at)

    def __contains__(self, item: T) -> bool:
        return item in self._due_at

    def add(self, item: T) -> None:
        """Start an item's time to live."""
        self._due_at[item] = self._loop.time() + self._delay
        if self._timer is None:
            self._arm()

    def discard(self, item: T) -> bool:
        """Remove an item; False if it was not in."""
        return self._due_at.pop(item, None) is not None

    def pop_oldest(self) -> T | None:
        """Remove the item that would expire first; None if there is none."""
        for item in self._due_at:
            del self._due_at[item]
            return item
        return None

    def clear(self) -> list[T]:
        """Remove all items, oldest first, and stop the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        items = list(self._due_at)
        self._due_at.clear()
        return items

    def _arm(self) -> None:
        for due_at in self._due_at.values():
            self._timer = self._loop.call_at(due_at, self._expire)
            return
        self._timer = None

    def _expire(self) -> None:
        try:
            self._expire_due()
        finally:
            self._arm()

    def _expire_due(self) -> None:
        # The loop's clock is coarse: an item due within its resolution is due now.
        now = self._loop.time() + 0.001
        while self._due_at:
            item = next(iter(self._due_at))
            if self._due_at[item] > now:
                return
            del self._due_at[item]
            self._on_due(item)
