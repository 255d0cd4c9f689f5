"""Sets that keep the order of adding, in place of those in which Bokeh keeps callbacks."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, MutableSet
from typing import Generic, TypeVar

__all__ = ["AddedCallbacks", "OrderedSet"]

T = TypeVar("T")


class OrderedSet(MutableSet[T], Generic[T]):
    """A set that is gone through in the order in which its members were added."""

    def __init__(self) -> None:
        self._members: dict[T, None] = {}

    def __contains__(self, member: object) -> bool:
        return member in self._members

    def __iter__(self) -> Iterator[T]:
        return iter(tuple(self._members))  # at once: another thread may add meanwhile

    def __len__(self) -> int:
        return len(self._members)

    def add(self, value: T) -> None:
        self._members[value] = None

    def discard(self, value: T) -> None:
        self._members.pop(value, None)

    def clear(self) -> None:
        self._members.clear()


class AddedCallbacks(OrderedSet[T]):
    """The session callbacks of a document, each to be scheduled once.

    Any thread may add one, also before there is a session that could schedule it, and while that session begins.
    """

    def __init__(self) -> None:
        super().__init__()
        self._waiting: deque[T] = deque()
        self._scheduling = threading.Lock()

    def add(self, value: T) -> None:
        super().add(value)
        self._waiting.append(value)

    def clear(self) -> None:
        super().clear()
        self._waiting.clear()

    def schedule(self, act: Callable[[T], None]) -> None:
        """Call `act` with each that was added since, in their order, whichever thread has added it."""
        with self._scheduling:
            while self._waiting:
                value = self._waiting.popleft()
                if value in self:
                    act(value)
