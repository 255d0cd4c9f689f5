"""A session's own clock: its next-tick, timeout and periodic callbacks."""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    from aperture.metrics import AppTally

__all__ = ["Schedule", "ScheduledCallback"]

T = TypeVar("T")


class ScheduledCallback(Protocol):
    """What Bokeh makes of `Document.add_…_callback`: periodic ones have a `period`, timeouts a `timeout`, in ms."""

    @property
    def id(self) -> str: ...

    @property
    def callback(self) -> Callable[[], Any]: ...


class Schedule:
    """Runs callbacks on the event loop it was made on, until they are removed.

    `add` and `remove` may be called from any thread, as `add_next_tick_callback` may.

    Args:
        run: runs one callback to its end; must not raise.
        tally: observes how long each takes.
    """

    def __init__(self, run: Callable[[Callable[[], Any]], Awaitable[None]], tally: AppTally) -> None:
        self._run: Callable[[Callable[[], Any]], Awaitable[None]] | None = run
        self._tally = tally
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._guard = threading.Lock()
        self._pending: set[str] = set()
        self._waits: dict[str, asyncio.TimerHandle] = {}
        self._running: set[asyncio.Task[None]] = set()

    def add(self, callback: ScheduledCallback) -> None:
        """Run a callback when its time has come; a periodic one again and again, never twice at a time.

        Does nothing once this is closed.
        """
        with self._guard:
            if callback.id in self._pending:
                raise ValueError("this callback has been added already")
            if self._run is None:
                return
            self._pending.add(callback.id)
        self._call(self._begin, callback)

    def remove(self, callback: ScheduledCallback) -> None:
        """Stop calling the callback, also one that waits for the lock; a running one finishes. Idempotent."""
        with self._guard:
            if callback.id not in self._pending:
                return
            self._pending.remove(callback.id)
        self._call(self._drop_wait, callback.id)

    def close(self) -> None:
        """Remove all callbacks, for good, from the loop's own thread.

        Nothing is kept that refers to them or to their owner: the owner holds this, and is to be freed without the
        garbage collector.
        """
        with self._guard:
            self._pending.clear()
            self._run = None
        for wait in self._waits.values():
            wait.cancel()
        self._waits.clear()

    async def rest(self, timeout: float) -> None:
        """Return when none of the callbacks runs any more, or is about to; at the latest after so many seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await asyncio.sleep(0)  # those that were just added begin at the loop's next turn
                while self._running:
                    await asyncio.wait(self._running)
                    await asyncio.sleep(0)

    def _call(self, act: Callable[[T], None], argument: T) -> None:
        """Call soon. Most who add callbacks are callbacks; to wake a loop that is awake costs a write and a read."""
        if threading.get_ident() == self._thread:
            self._loop.call_soon(act, argument)
        else:
            self._loop.call_soon_threadsafe(act, argument)

    def _begin(self, callback: ScheduledCallback) -> None:
        period = _period_of(callback)
        delay = getattr(callback, "timeout", 0) / 1000 if period is None else period
        if delay > 0:
            self._wait(callback, self._loop.time() + delay)
        else:
            self._fire(callback)

    def _wait(self, callback: ScheduledCallback, until: float) -> None:
        if callback.id in self._pending:
            self._waits[callback.id] = self._loop.call_at(until, self._fire, callback)

    def _drop_wait(self, callback_id: str) -> None:
        wait = self._waits.pop(callback_id, None)
        if wait is not None:
            wait.cancel()

    def _fire(self, callback: ScheduledCallback) -> None:
        self._waits.pop(callback.id, None)
        period = _period_of(callback)
        with self._guard:
            run = self._run if callback.id in self._pending else None
        if run is None:
            return
        work = run(_Timed(callback.callback, self._tally, partial(self._is_due, callback.id, once=period is None)))
        self._start(work if period is None else self._finish_period(callback, work, period))

    def _is_due(self, callback_id: str, *, once: bool) -> bool:
        """Whether a callback that now has the lock is still to run; what held the lock may have removed it."""
        with self._guard:
            due = callback_id in self._pending
            if once:
                self._pending.discard(callback_id)
            return due

    async def _finish_period(self, callback: ScheduledCallback, run: Awaitable[None], period: float) -> None:
        started = self._loop.time()
        await run
        # The callback's own time counts against the period, as in Bokeh. Counted from when it began, and not from now,
        # those of one period stay in their order.
        self._wait(callback, max(self._loop.time(), started + period))

    def _start(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)


class _Timed:
    """A callback that takes its own time, without the wait for the document's lock, and runs only if it is due."""

    __slots__ = ("__wrapped__", "_func", "_is_due", "_tally", "nolock")

    def __init__(self, func: Callable[[], Any], tally: AppTally, is_due: Callable[[], bool]) -> None:
        self._func = func
        self._tally = tally
        self._is_due = is_due
        self.nolock: bool = getattr(func, "nolock", False)
        """As Bokeh marks functions that run without the lock."""
        self.__wrapped__ = func
        """As functools has it: who asks whether this is async means the callback."""

    def __call__(self) -> Any:
        if not self._is_due():
            return None
        started = time.perf_counter()
        result = None
        try:
            result = self._func()
        finally:
            awaited = result is not None and inspect.isawaitable(result)
            if not awaited:
                self._tally.callback.observe(time.perf_counter() - started)
        return self._finish(result, started) if awaited else result

    async def _finish(self, result: Awaitable[Any], started: float) -> Any:
        try:
            return await result
        finally:
            self._tally.callback.observe(time.perf_counter() - started)


def _period_of(callback: ScheduledCallback) -> float | None:
    period = getattr(callback, "period", None)
    return None if period is None else period / 1000
