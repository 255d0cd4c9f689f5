"""The document's lock: one callback, patch or pull at a time per session."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

from aperture.errors import WouldDeadlock
from aperture.worker.app_threads import STAY, Stay

__all__ = ["DocumentLock"]

LOOK_INTERVAL = 0.5
"""Seconds between two looks whether a thread waits for what waits for it."""

_waits: dict[asyncio.Task[Any], DocumentLock] = {}
"""What tasks wait for while they have another lock."""


class DocumentLock:
    """A fair lock for one event loop that can also be taken without awaiting.

    Who has one lock and waits for another may be waited for itself. That circle is found, also over several locks, and
    the last who would join it is refused. A thread that has a lock waits by blocking, for a task that it has given to
    the loop; whether it does shows only in what the thread executes.
    """

    __slots__ = ("_held", "_owner", "_waiting")

    def __init__(self) -> None:
        self._held = False
        self._owner: asyncio.Task[Any] | None = None
        """Who has awaited it and has it now."""
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def held(self) -> bool:
        return self._held

    def try_acquire(self) -> bool:
        """Take the lock if it is free. Returns whether it was taken."""
        # Nearly every patch finds it free: it is then acted on without a coroutine, in the turn of the loop in which
        # it came.
        if self._held:
            return False
        self._held = True
        return True

    async def acquire(self) -> None:
        """Take the lock, after all earlier callers.

        Raises:
            WouldDeadlock: who has it waits for the caller.
        """
        task = asyncio.current_task()
        assert task is not None, "awaited by a task"
        if not self.try_acquire():
            stay = STAY.get()
            if stay is None or stay.over or stay.owner is None:
                await self._wait_for(task)
            else:
                await self._wait_beside(stay, stay.owner)
        self._owner = task

    def release(self) -> None:
        """Pass the lock to the longest waiter, or free it."""
        if not self._held:
            raise AssertionError("released a lock that is not held")
        self._owner = None
        while self._waiting:
            turn = self._waiting.popleft()
            # Passed on and not freed: a caller that comes in the same turn of the loop must not overtake the waiter.
            # One that was cancelled has left its future behind.
            if not turn.done():
                turn.set_result(None)
                return
        self._held = False

    async def _wait_for(self, task: asyncio.Task[Any]) -> None:
        self._refuse_circle(task)
        _waits[task] = self
        try:
            await self._turn()
        finally:
            del _waits[task]

    async def _wait_beside(self, stay: Stay[Any], owner: asyncio.Task[Any]) -> None:
        """Wait in a task that a thread has given to the loop, and that this thread may or may not wait for."""
        turn = asyncio.ensure_future(self._turn())
        try:
            while not (await asyncio.wait({turn}, timeout=LOOK_INTERVAL))[0]:
                if stay.awaits_result:
                    self._refuse_circle(owner)
                    _waits[owner] = self
            await turn
        except BaseException:
            # As in `_turn`, which has ended by itself if it has the lock.
            if turn.done() and not turn.cancelled():
                self.release()
            turn.cancel()
            raise
        finally:
            if _waits.get(owner) is self:
                del _waits[owner]

    async def _turn(self) -> None:
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            # Cancelled in the turn of the loop in which the lock was passed to it: it must pass it on, or the document
            # stays locked for ever.
            if turn.done() and not turn.cancelled():
                self.release()
            raise

    def _refuse_circle(self, task: asyncio.Task[Any]) -> None:
        lock: DocumentLock | None = self
        # From each lock to the task that has it, and to the lock that this task waits for. It ends: a circle is refused
        # when the last one would close it, so there is none yet.
        while lock is not None and lock._owner is not None:
            if lock._owner is task:
                raise WouldDeadlock(
                    "the document is locked by code that waits for this: it would wait for ever; "
                    "leave what is to be done there with add_next_tick_callback"
                )
            lock = _waits.get(lock._owner)
