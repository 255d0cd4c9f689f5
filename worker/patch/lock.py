"""The document's lock: one callback, patch or pull at a time per session."""

from __future__ import annotations

import asyncio
from collections import deque

__all__ = ["DocumentLock"]


class DocumentLock:
    """A fair lock for one event loop that can also be taken without awaiting.

    Nearly every patch finds the lock free, and taking it then costs no task, future or turn of the loop. Waiters
    are served in order: `release` passes the lock to the first of them, so that a later caller cannot overtake it.
    """

    __slots__ = ("_held", "_waiting")

    def __init__(self) -> None:
        self._held = False
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def held(self) -> bool:
        return self._held

    def try_acquire(self) -> bool:
        """Take the lock if it is free. Returns whether it was taken."""
        if self._held:
            return False
        self._held = True
        return True

    async def acquire(self) -> None:
        """Take the lock, after all earlier callers."""
        if self.try_acquire():
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.release()
            raise

    def release(self) -> None:
        """Pass the lock to the longest waiter, or free it."""
        if not self._held:
            raise AssertionError("released a lock that is not held")
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._held = False
