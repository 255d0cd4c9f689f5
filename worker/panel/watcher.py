"""`--autoreload`: Panel's own look-out for changed files, which has the pages of this worker load again."""

from __future__ import annotations

import asyncio
import contextlib

from panel.io.reload import setup_autoreload_watcher
from panel.io.state import state

__all__ = ["Watcher"]


class Watcher:
    """Watches the files of the apps from now on. On the running loop."""

    def __init__(self) -> None:
        self._end = asyncio.Event()
        self._task = asyncio.get_running_loop().create_task(setup_autoreload_watcher(self._end))

    async def stop(self) -> None:
        """Watch no more."""
        for event in (*state._watch_events, self._end):
            event.set()
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
