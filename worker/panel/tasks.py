"""`aperture.panel.once`: a scheduled task that only one worker of all runs.

`pn.state.schedule_task` schedules in each process, and so do setup scripts: a task that fills a cache must run in every
worker, as each has its own. One that sends mail or writes to a database must not.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import wraps

from aperture.errors import BusDown
from aperture.worker.session.framework import Asks

__all__ = ["TASKS", "Tasks"]

log = logging.getLogger(__name__)

Task = Callable[[], object]

ATTEMPTS = 10
PAUSE = 1.0
"""Seconds between two attempts to ask Redis, which a worker that has just started does not reach yet."""


class Tasks:
    """The tasks of this process that other workers may run as well."""

    def __init__(self) -> None:
        self._peers: Asks | None = None

    def start(self, peers: Asks) -> None:
        """Ask the other workers from now on. Without that there are none."""
        self._peers = peers

    def once(self, name: str, task: Task, within: timedelta) -> Callable[[], Awaitable[None]]:
        """As `aperture.panel.once`."""

        @wraps(task)
        async def claimed() -> None:
            if await self._is_mine(name, within.total_seconds()):
                done = task()
                if inspect.isawaitable(done):
                    await done

        return claimed

    async def _is_mine(self, name: str, seconds: float) -> bool:
        if self._peers is None:
            return True
        for _ in range(ATTEMPTS):
            try:
                return await self._peers.claim(f"panel.task:{name}", seconds)
            except BusDown:
                await asyncio.sleep(PAUSE)
        log.warning("task %s is left out: without Redis nobody knows who runs it", name)
        return False


TASKS = Tasks()
"""Of this process."""
