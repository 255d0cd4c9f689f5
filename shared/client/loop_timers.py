"""A document's timed callbacks on a running event loop, each in a task of its own."""

from __future__ import annotations

import asyncio
import inspect
import logging

from aperture.client.timers import Agenda, Entry

__all__ = ["LoopTimers"]

log = logging.getLogger(__name__)


class LoopTimers:
    """Runs the callbacks of one agenda when they are due. Made on the loop that they run on.

    Args:
        name: of the session, for logs.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._loop = asyncio.get_running_loop()
        self.agenda = Agenda(self._loop.time, self._changed)
        self._timer: asyncio.TimerHandle | None = None
        # Held on to: the event loop holds tasks weakly.
        self._running: set[asyncio.Task[None]] = set()

    def close(self) -> None:
        """Run no further callback, and cancel those that run, but for the caller. Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
        for task in tuple(self._running):
            if task is not asyncio.current_task():
                task.cancel()

    def _changed(self) -> None:
        # `add_next_tick_callback` may be called in any thread.
        self._loop.call_soon_threadsafe(self._set_timer)

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        due = self.agenda.next_due()
        self._timer = None if due is None else self._loop.call_at(due, self._run_due)

    def _run_due(self) -> None:
        for entry in self.agenda.take_due():
            task = self._loop.create_task(self._run(entry))
            self._running.add(task)
            task.add_done_callback(self._running.discard)
        self._set_timer()

    async def _run(self, entry: Entry) -> None:
        started = self._loop.time()
        try:
            result = entry.callback()
            if inspect.isawaitable(result):
                await result
        except Exception:
            log.exception("timed callback failed: session %s..., it stays scheduled", self._name)
        self.agenda.finished(entry, started)
