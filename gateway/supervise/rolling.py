"""Which workers are still to be replaced, one after the other (`SIGHUP`, `--dev`)."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Generic, TypeVar

__all__ = ["RollingRestart"]

W = TypeVar("W")


class RollingRestart(Generic[W]):
    """The order of the replacements. The supervisor retires and forks."""

    def __init__(self) -> None:
        self._waiting: deque[W] = deque()
        """The first one is being replaced, or is the next."""
        self._replacing = False
        """The first of them is retiring, or died before it could: the next process that boots in its slot is new."""

    def __len__(self) -> int:
        return len(self._waiting)

    def extend(self, workers: Iterable[W]) -> None:
        """Have these replaced, too, behind those that wait already."""
        self._waiting.extend(workers)

    @property
    def next(self) -> W | None:
        """The worker to be replaced now; None if there is none, or one is being replaced."""
        return self._waiting[0] if self._waiting and not self._replacing else None

    def begin(self) -> None:
        """The next worker is being replaced from here on."""
        self._replacing = True

    def note_booted(self, worker: W) -> None:
        """A process has booted in this slot; if it was the one being replaced, its replacement is complete."""
        if self._replacing and self._waiting[0] is worker:
            self._waiting.popleft()
            self._replacing = False

    def give_up(self) -> int:
        """Replace none of them any more. Returns how many they were."""
        left = len(set(self._waiting))
        self._waiting.clear()
        self._replacing = False
        return left
