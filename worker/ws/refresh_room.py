"""Bounds what waits in a worker's memory for all of its slow viewers together.

A viewer that is behind is sent the present values of what it was refused, as large as the document at most. A thousand
viewers of one dashboard on slow lines would have that written out a thousand times. So only so many bytes of it may
wait at one time: further viewers learn that their sockets have drained when others have read theirs. Until then they
show what they have, and none is closed for that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

__all__ = ["MOST_BYTES", "RefreshRoom"]

MOST_BYTES = 128 * 1024 * 1024
"""For eighty pictures of 1.5 MB. What the last ones need beyond what was expected of them comes on top."""

_LEAST = 512 * 1024
"""Bytes that each one counts at least: so there are a few hundred at most."""


class Drained(Protocol):
    """An outbox that is behind, and has nothing waiting when it comes."""

    behind: bool

    @property
    def expected(self) -> int:
        """Bytes that wait for its socket, or are likely to once it is refreshed."""
        ...


class RefreshRoom:
    """What the outboxes of a worker share. All calls come from its event loop.

    Args:
        most: bytes.
    """

    def __init__(self, most: int = MOST_BYTES) -> None:
        self._most = most
        self._inside: set[Drained] = set()
        self._queue: dict[Drained, Callable[[], None]] = {}
        """In the order of their coming."""

    def enter(self, outbox: Drained, act: Callable[[], None]) -> None:
        """Call this, soon, once there is room, in place of what was to be called before."""
        self._queue[outbox] = act
        self._admit()

    def leave(self, outbox: Drained) -> None:
        """It has sent what it had room for, or is closed. Idempotent."""
        self._queue.pop(outbox, None)
        if outbox in self._inside:
            self._inside.remove(outbox)
            self._admit()

    def _admit(self) -> None:
        while self._queue and sum(max(_LEAST, inside.expected) for inside in self._inside) < self._most:
            outbox = next(iter(self._queue))
            self._inside.add(outbox)
            asyncio.get_running_loop().call_soon(self._tell, outbox, self._queue.pop(outbox))

    def _tell(self, outbox: Drained, act: Callable[[], None]) -> None:
        act()
        if not outbox.behind:  # it was sent the whole document meanwhile, and wants nothing of this
            self.leave(outbox)
