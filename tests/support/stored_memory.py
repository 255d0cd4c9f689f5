"""Where sessions are kept, without a Redis: what `aperture.registry.snapshots.SnapshotStore` promises, in a dictionary.

It can be away, refuse, lose what it has, and take its time, so that a test decides what happens between two steps.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from aperture.errors import StoredStateBroken, TooLarge
from aperture.registry.snapshots import StoredState

__all__ = ["MemoryStore", "settled"]

_TURNS = 50
"""Turns of the event loop after which nothing goes on that does not wait for something."""


@dataclass(slots=True)
class _Stored:
    epoch: int
    origin: bytes
    snapshot: bytes
    sequence: int
    entries: list[bytes] = field(default_factory=list)


class MemoryStore:
    """Keeps sessions in memory.

    Args:
        max_snapshot: bytes; a larger one is refused.
    """

    def __init__(self, max_snapshot: int = 1_000_000) -> None:
        self.stored: dict[str, _Stored] = {}
        self.calls: list[str] = []
        self.problem: Exception | None = None
        """Raised by every call, if there is one."""
        self.gate = asyncio.Event()
        """Calls that write wait for it before they take effect."""
        self.max_snapshot = max_snapshot
        self.gate.set()

    async def begin(self, session_key: str, epoch: int, origin: bytes, snapshot: bytes, *, sequence: int = 0) -> None:
        await self._called("begin")
        self._check(session_key, snapshot)
        self.stored[session_key] = _Stored(epoch, origin, snapshot, sequence)

    async def add(self, session_key: str, epoch: int, first: int, last: int, entries: Sequence[bytes]) -> int:
        await self._called("add")
        if len(entries) != last + 1 - first:
            raise ValueError("as many entries as numbers")
        kept = self._of(session_key, epoch)
        reached = kept.sequence + len(kept.entries)
        if first > reached + 1:
            raise StoredStateBroken("a hole")
        kept.entries += entries[reached + 1 - first :]
        return sum(map(len, kept.entries))

    async def snapshot(self, session_key: str, epoch: int, sequence: int, snapshot: bytes) -> None:
        await self._called("snapshot")
        self._check(session_key, snapshot)
        kept = self._of(session_key, epoch)
        kept.entries = kept.entries[max(0, sequence - kept.sequence) :]
        kept.snapshot, kept.sequence = snapshot, sequence

    async def load(self, session_key: str) -> StoredState | None:
        await self._called("load")
        kept = self.stored.get(session_key)
        if kept is None:
            return None
        return StoredState(kept.origin, kept.epoch, kept.snapshot, kept.sequence, tuple(kept.entries))

    async def exists(self, session_key: str) -> bool:
        await self._called("exists")
        return session_key in self.stored

    async def forget(self, session_key: str, epoch: int) -> None:
        await self._called("forget")
        self.stored.pop(session_key, None)

    async def touch(self, session_keys: Iterable[str]) -> set[str]:
        await self._called("touch")
        return {session_key for session_key in session_keys if session_key not in self.stored}

    async def _called(self, name: str) -> None:
        self.calls.append(name)
        await self.gate.wait()
        if self.problem is not None:
            raise self.problem

    def _of(self, session_key: str, epoch: int) -> _Stored:
        kept = self.stored.get(session_key)
        if kept is None or kept.epoch != epoch:
            raise StoredStateBroken("nothing is kept")
        return kept

    def _check(self, session_key: str, snapshot: bytes) -> None:
        if len(snapshot) > self.max_snapshot:
            self.stored.pop(session_key, None)
            raise TooLarge("too large")


async def settled(condition: Callable[[], object] = lambda: False) -> None:
    """Let the loop run until the condition holds, or nothing goes on any more."""
    for _ in range(_TURNS):
        if condition():
            return
        await asyncio.sleep(0)
