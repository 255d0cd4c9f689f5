"""Reads this node's figures, at most a few times a second, and never on the event loop."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable

from aperture.metrics import Reading, worker_name
from aperture.wire.node_figures import NodeFigures, ProcessFigures
from aperture.worker.dashboard.figures import values_of
from aperture.worker.dashboard.files import read_node

__all__ = ["FigureReader"]

log = logging.getLogger(__name__)

MAX_AGE = 0.5
"""Seconds for which figures are cached, because every worker of every other node may ask."""


class FigureReader:
    """Reads what the node's processes have counted.

    Args:
        node: the node's name.
        path: of the directory that its processes share; None for a single process, which shares nothing.
        own: that process's readings.
        index: of this worker.
    """

    def __init__(self, node: str, path: str | None, own: Callable[[], Iterable[Reading]], index: int) -> None:
        self._node = node
        self._path = path
        self._own = own
        self._name = worker_name(index)
        self._latest = NodeFigures(node, ())
        self._read_at = float("-inf")
        self._reading: asyncio.Future[NodeFigures] | None = None

    async def read(self) -> NodeFigures:
        """The figures, half a second old at most; without processes if they cannot be read."""
        if time.monotonic() - self._read_at < MAX_AGE:
            return self._latest
        if self._reading is None:
            self._reading = asyncio.ensure_future(self._read())
            self._reading.add_done_callback(self._on_read)
        return await asyncio.shield(self._reading)

    async def _read(self) -> NodeFigures:
        if self._path is None:
            process = ProcessFigures(self._name, time.time(), values_of(self._own()))
            return NodeFigures(self._node, (process,))
        try:
            return await asyncio.to_thread(read_node, self._node, self._path)
        except OSError as problem:
            log.debug("dashboard figures cannot be read: %s, the node is shown without processes", problem)
            return NodeFigures(self._node, ())

    def _on_read(self, reading: asyncio.Future[NodeFigures]) -> None:
        self._reading = None
        if not reading.cancelled() and reading.exception() is None:
            self._latest, self._read_at = reading.result(), time.monotonic()
