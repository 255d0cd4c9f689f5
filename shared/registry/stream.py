"""What the stream of one session holds, as far as its owner has filled it, and from which entry on it fits the bounds.

Redis can trim a stream by the number of its entries and by their ids, not by their bytes. Only the owner appends, so it
knows what it has appended, and names the id below which nothing is kept any more. It takes an entry for kept that never
arrived, because Redis was away or came back empty: such entries are the first to be left out as others come.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

__all__ = ["ENTRY_BYTES", "LARGE_BYTES", "STREAM_BYTES", "STREAM_ENTRIES", "StreamLedger"]

STREAM_ENTRIES = 1024
STREAM_BYTES = 16 * 1024 * 1024
"""What the stream of one session may take; a single larger entry is kept by itself."""

LARGE_BYTES = 64 * 1024 * 1024
"""What payloads larger than an entry may take beside that: edges have them from nowhere else, so the next ones must not
drive out what has just been announced."""

ENTRY_BYTES = 1024 * 1024
"""Of one entry, and of what is published: what is larger takes several entries, and edges read it from there. Redis
cuts off a subscriber that is 32 MB behind, and while it takes one call in, or gives one answer, neighbours wait."""

_BLOCKS = 64
"""Into so many parts the bounds are divided: what is noted of a session is a few KB, however many its patches."""


@dataclass(slots=True)
class _Block:
    """Entries that are given up together."""

    last: int
    entries: int
    size: int
    large: int
    """Bytes of it in payloads that are larger than an entry."""


class StreamLedger:
    """The account of one stream.

    Args:
        epoch: of its owner; another one begins another stream.
    """

    __slots__ = ("_blocks", "_entries", "_large", "_size", "epoch", "floor")

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch
        self.floor = 0
        """Entries with lower ids have no room any more."""
        self._blocks: deque[_Block] = deque()
        self._entries = 0
        self._size = 0
        self._large = 0

    def note(self, last: int, size: int) -> None:
        """Count an entry in, and those out that have no room beside it.

        Args:
            last: its id. One that is not higher than all before it is a repetition, which Redis keeps once.
            size: its payload's, in bytes.
        """
        if self._blocks and last <= self._blocks[-1].last:
            return
        self._add(last, size)
        self._entries += 1
        self._size += size
        self._large += self._blocks[-1].large
        while len(self._blocks) > 1 and (self._size > self._limit or self._entries > STREAM_ENTRIES):
            oldest = self._blocks.popleft()
            self._entries -= oldest.entries
            self._size -= oldest.size
            self._large -= oldest.large
            self.floor = oldest.last + 1

    @property
    def _limit(self) -> int:
        return STREAM_BYTES + min(self._large, LARGE_BYTES)

    def _add(self, last: int, size: int) -> None:
        newest = self._blocks[-1] if self._blocks else None
        if newest and newest.size + size <= STREAM_BYTES // _BLOCKS and newest.entries < STREAM_ENTRIES // _BLOCKS:
            newest.last, newest.entries, newest.size = last, newest.entries + 1, newest.size + size
        else:
            self._blocks.append(_Block(last, 1, size, size if size > ENTRY_BYTES else 0))
