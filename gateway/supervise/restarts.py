"""Counts restarts of the node's processes, and removes the metrics files that a dead one leaves.

Runs in the supervisor, which has no loop for periodic writes: each change is written as it happens. If a write fails,
the supervisor logs a line and continues.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

from aperture.metrics import MetricsDirectory, MetricsWriter, Reading, families, forget_gauges, worker_name

__all__ = ["RestartCounts"]

log = logging.getLogger(__name__)

PROCESS = "supervisor"


class RestartCounts:
    """Counts ends and restarts of processes.

    Args:
        directory: of the node's metrics, removed at the end; None counts nothing.
    """

    def __init__(self, directory: MetricsDirectory | None) -> None:
        self._directory = directory
        self._worker_restarts = 0
        self._worker_failures = 0
        self._gateway_restarts = 0
        self._writer = MetricsWriter(None if directory is None else directory.path, PROCESS, self._read, of_node=False)
        self._writer.write()

    def note_worker(self, index: int, *, failed: bool) -> None:
        """A worker has ended: remove its gauges, as its sessions and connections have ended with it."""
        self._worker_failures += failed
        if self._directory is not None:
            try:
                forget_gauges(self._directory.path, worker_name(index))
            except OSError as problem:
                log.warning("the metrics of worker %d stay after its end: %s", index, problem)
        self._writer.write()

    def note_worker_restart(self) -> None:
        """A worker has been started again."""
        self._worker_restarts += 1
        self._writer.write()

    def note_gateway_restart(self) -> None:
        """A gateway has been started again."""
        self._gateway_restarts += 1
        self._writer.write()

    def close(self) -> None:
        """Remove the node's metrics. Idempotent."""
        self._writer.stop()
        if self._directory is not None:
            self._directory.remove()
            self._directory = None

    def _read(self) -> Iterator[Reading]:
        yield Reading(families.WORKER_RESTARTS, (), self._worker_restarts)
        yield Reading(families.WORKER_FAILURES, (), self._worker_failures)
        yield Reading(families.GATEWAY_RESTARTS, (), self._gateway_restarts)
