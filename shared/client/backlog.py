"""Local changes that the server has not answered: waiting, in flight, or to be made again after a reconnect.

All of them are bytes in memory, so all of them count against one bound. A change that was in flight when the connection
was lost is made again if it is idempotent, and only once: if the connection is lost under it again, the change itself
may be what breaks it.
"""

from __future__ import annotations

from collections.abc import Sequence

from bokeh.document.events import ModelChangedEvent, TitleChangedEvent

from aperture.client.mirror import Change

__all__ = ["Backlog"]

MAX_UNANSWERED = 64
"""Patches in flight: enough to fill a line with a long round trip, few enough that a burst becomes a few large patches.
"""

UNANSWERED_SIZE = 4 * 1024 * 1024
"""Bytes in flight above which no further patch is sent; a single change may be larger."""

MAX_SIZE = 64 * 1024 * 1024
"""Bytes of changes that the server has not answered."""

PATCH_SIZE = 1024 * 1024
"""Bytes after which a patch is full; a single change may be larger."""

_REPEATABLE = (ModelChangedEvent, TitleChangedEvent)


class Backlog:
    """Changes in the order in which they were made."""

    def __init__(self) -> None:
        self.waiting: list[Change] = []
        self.in_flight: dict[str, list[Change]] = {}
        """By the id of the request that carries them."""
        self.again: list[Change] = []
        """To be made on the next document."""
        self.size = 0
        """Bytes of all changes."""
        self._size_in_flight = 0

    def has_room_for(self, change: Change) -> bool:
        return self.size + change.size <= MAX_SIZE

    def add(self, change: Change) -> None:
        """Add a change to those that wait."""
        self.waiting.append(change)
        self.size += change.size

    @property
    def may_send(self) -> bool:
        """Whether another patch may be in flight."""
        return len(self.in_flight) < MAX_UNANSWERED and self._size_in_flight < UNANSWERED_SIZE

    @property
    def unsent(self) -> int:
        """How many changes were never sent, or are to be sent again."""
        return len(self.waiting) + len(self.again)

    def next_batch(self, limit: int) -> list[Change]:
        """Take the changes of the next patch from those that wait."""
        size = count = 0
        for change in self.waiting:
            full = size + change.size > min(PATCH_SIZE, limit)
            if count and (full or change.brings_back):
                break
            count, size = count + 1, size + change.size
        batch, self.waiting = self.waiting[:count], self.waiting[count:]
        self.size -= size
        return batch

    def sent(self, msgid: str, batch: list[Change]) -> None:
        """Note that a batch is in flight."""
        self.in_flight[msgid] = batch
        self._count(_size_of(batch))

    def answered(self, msgid: str) -> bool:
        """Note that the server has answered a request. Returns whether that was a patch."""
        batch = self.in_flight.pop(msgid, None)
        if batch is None:
            return False
        self._count(-_size_of(batch))
        return True

    def _count(self, size: int) -> None:
        self.size += size
        self._size_in_flight += size

    def hold_back(self) -> None:
        """Make waiting changes again on the next document, instead of sending them as they are."""
        self.again += self.waiting
        self.waiting = []

    def lost(self, *, refused: bool) -> list[Change]:
        """Sort out the changes in flight after the loss of a connection: the idempotent ones are made again.

        Args:
            refused: whether the server closed the connection because of one of them.

        Returns:
            Idempotent changes that are dropped all the same, because they may be why connections are lost.
        """
        changes = [change for batch in self.in_flight.values() for change in batch]
        self._count(-_size_of(changes))
        self.in_flight = {}
        repeatable = [change for change in changes if isinstance(change.event, _REPEATABLE)]
        dropped = [change for change in repeatable if refused or change.losses]
        again = [change for change in repeatable if not refused and not change.losses]
        for change in again:
            change.losses += 1
        self.again += again
        self.size += _size_of(again)
        return dropped

    def take_again(self) -> list[Change]:
        """Take the changes that are to be made again."""
        again, self.again = self.again, []
        self.size -= _size_of(again)
        return again

    def forget(self) -> None:
        """Drop all changes that were not sent."""
        self.size = self._size_in_flight
        self.waiting, self.again = [], []


def _size_of(changes: Sequence[Change]) -> int:
    return sum(change.size for change in changes)
