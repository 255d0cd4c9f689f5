"""The app code of one session that runs in threads of the worker."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

from aperture.worker.app_threads import AppCode
from aperture.worker.patch.hold import Hold

__all__ = ["Stays"]

T = TypeVar("T")


class Stays:
    """Starts one session's app code, and knows what of it still runs. All calls come from the event loop.

    Args:
        code: runs the app's code.
    """

    __slots__ = ("_code", "_running", "threaded")

    def __init__(self, code: AppCode) -> None:
        self.threaded = code.threaded
        """Whether app code runs beside the event loop. Without that there are no stays."""
        self._code = code
        self._running: set[asyncio.Future[Any]] = set()

    async def run(self, hold: Hold | None, func: Callable[[], T]) -> T:
        """Run a function in a thread, within a hold or without one. A caller that is cancelled does not stop it."""
        work = self._code.start(func)
        self._running.add(work)
        work.add_done_callback(self._running.discard)
        return await (asyncio.shield(work) if hold is None else hold.lasts(work))

    @property
    def busy(self) -> bool:
        """Whether something runs."""
        return bool(self._running)

    async def ended(self) -> None:
        """Return when nothing runs any more."""
        while self._running:
            await asyncio.wait(self._running)
