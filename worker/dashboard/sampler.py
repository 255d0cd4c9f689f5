"""Samples the figures every two seconds while a dashboard is open in this worker, once for all of them."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Protocol

from aperture.worker.dashboard.exchange import Heard, Reads
from aperture.worker.dashboard.history import History

__all__ = ["INTERVAL", "Sampler"]

log = logging.getLogger(__name__)

INTERVAL = 2.0
"""Seconds between two samples; every process writes its counters once a second."""

FIRST_INTERVAL = 1.2
"""Seconds between the first two samples, so that the first rates appear soon."""


class Asks(Protocol):
    """An `aperture.worker.dashboard.exchange.FigureExchange`, or what stands in its place."""

    async def ask(self) -> Heard: ...


class Sampler:
    """The data of all open dashboards of one worker.

    Args:
        own: the dashboard's route.
        reader: of this node's figures.
        others: fetches the figures of other nodes.
        clock: seconds since the epoch.
    """

    def __init__(self, own: str, reader: Reads, others: Asks, clock: Callable[[], float] = time.time) -> None:
        self.history = History(own)
        self.looks = 0
        """The number of samples so far; pages compare it to see whether there is a new one."""
        self._reader = reader
        self._others = others
        self._clock = clock
        self._viewers = 0
        self._task: asyncio.Task[None] | None = None

    @property
    def running(self) -> bool:
        return self._task is not None

    def enter(self) -> None:
        """A dashboard was opened: start sampling with the first. Runs on the event loop."""
        self._viewers += 1
        if self._task is None:
            self._task = asyncio.ensure_future(self._run())

    def leave(self) -> None:
        """A dashboard was closed: stop sampling with the last."""
        self._viewers -= 1
        if self._viewers == 0 and self._task is not None:
            self._task.cancel()
            self._task = None

    async def look(self) -> None:
        """Take one sample."""
        # In this order: a silent node takes a second, and what is read here is then as new as the clock says.
        elsewhere = await self._others.ask()
        here = await self._reader.read()
        self.history.look((here, *elsewhere.nodes), self._clock(), missing=elsewhere.missing)
        self.looks += 1

    async def _run(self) -> None:
        self.history.interrupt(self._clock())
        pause = FIRST_INTERVAL
        while True:
            started = time.monotonic()
            try:
                await self.look()
            except Exception:
                log.exception("dashboard sample failed: the next one follows in %g s", INTERVAL)
            await asyncio.sleep(max(pause / 2, pause - (time.monotonic() - started)))
            pause = INTERVAL
