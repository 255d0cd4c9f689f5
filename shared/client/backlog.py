"""The changes made here that the server has not answered: those that wait, those under way, those to be made again.

All of them are bytes in memory, so all of them count against one bound. A change that was under way when the
connection was lost is made again if twice is the same as once, and only once more: if the connection is lost under it
again, it may be the change itself that ends the server.
"""

from __future__ import annotations

from collections.abc import Sequence

from bokeh.document.events import ModelChangedEvent, TitleChangedEvent

from aperture.client.mirror import Change

__all__ = ["Backlog"]

MAX_UNANSWERED = 64
"""Patches under way at a time: enough to fill a long line, few enough that a burst becomes a few large patches."""

UNANSWERED_SIZE = 4 * 1024 * 1024
"""Bytes under way above which no further patch is sent; a single change may be larger."""

MAX_SIZE = 64 * 1024 * 1024
"""Bytes of changes that the server has not answered."""

PATCH_SIZE = 1024 * 1024
"""Bytes after which a patch is full; a single change may be larger."""

_REPEATABLE = (ModelChangedEvent, TitleChangedEvent)


class Backlog:
    """Changes in the order in which they were made."""

    def __init__(self) -> None:
        self.waiting: list[Change] = []
        self.under_way: dict[str, list[Change]] = {}
        """By the request that carries them."""
        self.again: list[Change] = []
        """To be made on the next document."""
        self.size = 0
        """Bytes, of all of them."""
        self._size_under_way = 0

    def has_room_for(self, change: Change) -> bool:
        return self.size + change.size <= MAX_SIZE

    def add(self, change: Change) -> None:
        """It waits for the server."""
        self.waiting.append(change)
        self.size += change.size

    @property
    def may_send(self) -> bool:
        """Whether little enough is under way."""
        return len(self.under_way) < MAX_UNANSWERED and self._size_under_way < UNANSWERED_SIZE

    @property
    def unsent(self) -> int:
        """How many have never been sent, or are to be sent once more."""
        return len(self.waiting) + len(self.again)

    def next_batch(self, limit: int) -> list[Change]:
        """Those that the next patch has room for, which do not wait any more."""
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
        """They are under way."""
        self.under_way[msgid] = batch
        self._count(_size_of(batch))

    def answered(self, msgid: str) -> bool:
        """The server has answered what was sent so; whether that was a patch."""
        batch = self.under_way.pop(msgid, None)
        if batch is None:
            return False
        self._count(-_size_of(batch))
        return True

    def _count(self, size: int) -> None:
        self.size += size
        self._size_under_way += size

    def keep_for_later(self) -> None:
        """What waits is made again on the next document instead of being sent as it is."""
        self.again += self.waiting
        self.waiting = []

    def lost(self, *, refused: bool) -> list[Change]:
        """Nobody will answer what is under way: keep what may be made again.

        Args:
            refused: whether something that was under way is the reason.

        Returns:
            What may be, but for having been in the way of the connection.
        """
        changes = [change for batch in self.under_way.values() for change in batch]
        self._count(-_size_of(changes))
        self.under_way = {}
        repeatable = [change for change in changes if isinstance(change.event, _REPEATABLE)]
        dropped = [change for change in repeatable if refused or change.losses]
        kept = [change for change in repeatable if not refused and not change.losses]
        for change in kept:
            change.losses += 1
        self.again += kept
        self.size += _size_of(kept)
        return dropped

    def take_again(self) -> list[Change]:
        """Those that are to be made now."""
        again, self.again = self.again, []
        self.size -= _size_of(again)
        return again

    def forget(self) -> None:
        """All that was not sent is of no interest any more."""
        self.size = self._size_under_way
        self.waiting, self.again = [], []


def _size_of(changes: Sequence[Change]) -> int:
    return sum(change.size for change in changes)
