"""Sets that keep the order of adding, in place of those in which Bokeh keeps callbacks."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Set
from itertools import chain
from typing import Self, TypeVar

__all__ = ["AddedCallbacks", "OrderedSet"]

T = TypeVar("T")


class OrderedSet(set[T]):
    """A set that is gone through in the order in which its members were added.

    A `set`, as Bokeh's own are: HoloViews asks for that, and takes anything else for a dict. Whatever adds to it comes
    to `add`; what removes is the set's own, but for what would leave the order behind.
    """

    def __init__(self) -> None:
        super().__init__()
        self._order: dict[T, None] = {}

    def __iter__(self) -> Iterator[T]:
        # At once: another thread may add meanwhile. Members that a method of `set` has removed are left out.
        return iter([member for member in tuple(self._order) if member in self])

    def add(self, value: T) -> None:
        if value not in self:
            self._order.pop(value, None)  # it was removed by a method of `set`, and comes last now
        self._order[value] = None
        super().add(value)

    def update(self, *others: Iterable[T]) -> None:
        for value in chain(*others):
            self.add(value)

    def symmetric_difference_update(self, other: Iterable[T]) -> None:
        both = self & set(other)
        self.update(other)
        self -= both

    def __ior__(self, other: Set[T]) -> Self:  # type: ignore[override,misc]
        self.update(other)
        return self

    def __ixor__(self, other: Set[T]) -> Self:  # type: ignore[override,misc]
        self.symmetric_difference_update(other)
        return self

    def discard(self, value: object) -> None:
        super().discard(value)
        self._order.pop(value, None)  # type: ignore[arg-type]

    def remove(self, value: T) -> None:
        super().remove(value)
        self._order.pop(value, None)

    def clear(self) -> None:
        super().clear()
        self._order.clear()


class AddedCallbacks(OrderedSet[T]):
    """The session callbacks of a document, each to be scheduled once.

    Any thread may add one, also before there is a session that could schedule it, and while that session begins.
    """

    def __init__(self) -> None:
        super().__init__()
        self._waiting: list[T] = []  # hardly ever more than a few; an empty deque is 760 bytes
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
                value = self._waiting.pop(0)
                if value in self:
                    act(value)
