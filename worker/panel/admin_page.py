"""Panel's admin page, kept up with the other workers while someone looks at it here."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from typing import Any

__all__ = ["AdminPage", "admin_module"]

_INTERVAL = 2.0
"""Seconds between two looks at the other workers."""


def admin_module() -> Any:
    """Panel's module of the page; None where the page is not served. Its import changes Panel's logging."""
    return sys.modules.get("panel.io.admin")


class AdminPage:
    """Has things asked for again and again, while an admin page is open in this worker.

    Args:
        refreshed: each is awaited in turn; none raises.
    """

    def __init__(self, *refreshed: Callable[[], Awaitable[None]]) -> None:
        self._refreshed = refreshed
        self._watching: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin, if there is such a page. On the running loop."""
        if (admin := admin_module()) is not None:
            self._watching = asyncio.get_running_loop().create_task(self._watch(admin))

    def stop(self) -> None:
        """Ask no more. Idempotent."""
        if self._watching is not None:
            self._watching.cancel()

    async def _watch(self, admin: Any) -> None:
        while True:
            await asyncio.sleep(_INTERVAL)
            # Of each admin page that is open in this worker, its document.
            if admin.log_sessions:
                for refresh in self._refreshed:
                    await refresh()
