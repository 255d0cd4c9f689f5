"""What a worker does again and again while it serves: discard, collect, look after its sessions, log."""

from __future__ import annotations

import asyncio
import logging
import os

from aperture.config.settings import Settings
from aperture.worker.collector import GarbageCollector
from aperture.worker.crowding import Crowding
from aperture.worker.periodic import LoopLag, every, resident_bytes
from aperture.worker.session.durability import Recovery
from aperture.worker.session.store import SessionStore
from aperture.worker.session.warm import WarmSessions

__all__ = ["Housekeeping"]

log = logging.getLogger(__name__)

_COLLECTOR_INTERVAL = 1.0
_CROWDING_INTERVAL = 1.0
_TOUCH_INTERVAL = 30.0
_WARM_INTERVAL = 0.25


class Housekeeping:
    """Runs on the worker's event loop.

    Args:
        settings: of the node.
        store: the worker's sessions.
        recovery: keeps what is stored of them from expiring.
        warm: makes sessions ahead.
        collector: of the process.
        crowding: watches how many viewers each session has here.
        lag: of the event loop.
    """

    def __init__(
        self,
        settings: Settings,
        store: SessionStore,
        recovery: Recovery,
        warm: WarmSessions,
        collector: GarbageCollector,
        crowding: Crowding,
        lag: LoopLag,
    ) -> None:
        self._settings = settings
        self._store = store
        self._recovery = recovery
        self._warm = warm
        self._collector = collector
        self._crowding = crowding
        self._lag = lag
        self._running: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin; each for the first time after its interval."""
        settings = self._settings
        self._running = [
            self._lag.start(),
            every(settings.check_unused_sessions, self._store.discard_unused),
            every(_COLLECTOR_INTERVAL, self._collect_if_due),
            every(_CROWDING_INTERVAL, self._look_at_crowds),
            every(settings.stats_log_frequency, self._log_stats),
        ]
        if settings.warm_sessions > 0:
            self._running.append(every(_WARM_INTERVAL, self._warm.tend))
        if self._recovery.enabled:
            self._running.append(every(_TOUCH_INTERVAL, self._recovery.touch))
        if settings.mem_log_frequency > 0:
            self._running.append(every(settings.mem_log_frequency, self._log_memory))

    def stop(self) -> None:
        """End. Idempotent."""
        for timer in self._running:
            timer.cancel()
        self._running = []

    async def _collect_if_due(self) -> None:
        sessions = len(self._store)
        if self._collector.is_due(sessions, self._store.connections):
            self._collector.collect(sessions)

    async def _look_at_crowds(self) -> None:
        self._crowding.look_again(self._store)

    async def _log_stats(self) -> None:
        log.debug(
            "[pid %d] %d sessions, %d connections, event loop lag %.1f ms",
            os.getpid(),
            len(self._store),
            self._store.connections,
            self._lag.seconds * 1000,
        )

    async def _log_memory(self) -> None:
        log.info("[pid %d] memory usage: %.2f MB (rss)", os.getpid(), resident_bytes() / 1e6)
