"""A worker's metrics: what is counted as it happens, and what is looked up when somebody asks.

Runs in each worker. Once a second the numbers go to the node's files (`aperture.metrics.storage`), from which the
gateway answers for all processes; a worker that is killed loses the last second of its counts. A server inside another
program has no files: there the numbers are read when they are asked for.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Mapping

from bokeh import __version__ as bokeh_version
from tornado.web import Application, RequestHandler

from aperture.metrics import ProcessFiles, Reading, SourceCollector, Tallies, families, worker_name
from aperture.metrics.process import GcPauses, build_info, read_process
from aperture.registry.snapshots import Keeping
from aperture.worker.pulse import LoopLag, every
from aperture.worker.relay.cluster import Cluster
from aperture.worker.session.host import AppHost
from aperture.worker.ws.sockets import OpenSockets

__all__ = ["WorkerMeasures"]

log = logging.getLogger(__name__)

WRITE_INTERVAL = 1.0
"""Seconds; what a worker loses of its counts when it is killed."""


class WorkerMeasures:
    """The metrics of one worker.

    Args:
        tallies: that its parts add to.
        hosts: its apps by route.
        sockets: its websockets.
        lag: of its event loop.
        application: answers its requests.
        cluster: its part in the cluster, if there is one.
        stored: where its sessions are stored, if they are.
        index: its place in the node.
        generation: counts those who were in that place before.
        alone: whether there is no gateway, which would otherwise tell what concerns the node.
    """

    def __init__(
        self,
        tallies: Tallies,
        hosts: Mapping[str, AppHost],
        sockets: OpenSockets,
        lag: LoopLag,
        application: Application,
        cluster: Cluster | None,
        stored: Keeping | None,
        *,
        index: int,
        generation: int,
        alone: bool,
    ) -> None:
        self._tallies = tallies
        self._hosts = hosts
        self._sockets = sockets
        self._lag = lag
        self._cluster = cluster
        self._stored = stored
        self._index = index
        self._generation = generation
        self._alone = alone
        self._pauses = GcPauses()
        self._files: ProcessFiles | None = None
        self._timer: asyncio.Task[None] | None = None
        self._failing = False
        _count_requests(application, tallies)

    @property
    def collector(self) -> SourceCollector:
        """For `aperture.metrics.render`, or for a registry of somebody's own."""
        return SourceCollector(self.read)

    def start(self, path: str | None) -> None:
        """Begin to measure, and to write.

        Args:
            path: of the node's directory; None where nobody else reads.
        """
        self._pauses.start()
        if path is None:
            return
        try:
            self._files = ProcessFiles(path, worker_name(self._index))
        except OSError as problem:
            log.warning("this worker's metrics are not written: %s", problem)
            return
        self._write()
        self._timer = every(WRITE_INTERVAL, self._write_soon)

    def stop(self) -> None:
        """Write the last numbers. Harmless twice."""
        self._pauses.stop()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._files is not None:
            self._write()
            self._files.close()
            self._files = None

    def read(self) -> Iterator[Reading]:
        """All numbers of this worker."""
        yield from self._tallies.read()
        yield from self._read_sessions()
        yield Reading(families.OUTBOX_BYTES, (), self._waiting_bytes())
        yield Reading(families.LOOP_LAG, (str(self._index),), self._lag.longest_lately)
        yield Reading(families.GENERATION, (str(self._index),), self._generation + 1)
        yield from self._pauses.read()
        yield from read_process(worker_name(self._index))
        if self._cluster is not None:
            yield Reading(families.BUS_UP, (), self._cluster.up)
            yield Reading(families.HOSTILE, (), self._cluster.hostile.counts.total())
        if self._stored is not None:
            yield Reading(families.BROKEN_KEPT, (), self._stored.broken_loads)
        if self._alone:
            yield from build_info(bokeh_version)

    def _read_sessions(self) -> Iterator[Reading]:
        edges = {} if self._cluster is None else self._cluster.edges.connections()
        for url, host in self._hosts.items():
            yield Reading(families.SESSIONS, (url,), len(host.sessions_by_id))
            yield Reading(
                families.CONNECTIONS, (url, "owner"), sum(len(session.fanout.viewers) for session in host.sessions)
            )
            yield Reading(families.CONNECTIONS, (url, "edge"), edges.get(url, 0))

    def _waiting_bytes(self) -> int:
        outboxes = (getattr(socket, "outbox", None) for socket in self._sockets)
        return sum(outbox.waiting for outbox in outboxes if outbox is not None)

    async def _write_soon(self) -> None:
        self._write()

    def _write(self) -> None:
        if self._files is None:
            return
        try:
            self._files.write(self.read())
        except OSError as problem:
            if not self._failing:
                log.warning("this worker's metrics cannot be written: %s", problem)
            self._failing = True
        else:
            self._failing = False


def _count_requests(application: Application, tallies: Tallies) -> None:
    """Count what the application answers, before it is logged."""
    log_request = application.settings["log_function"]

    def count(handler: RequestHandler) -> None:
        host = getattr(handler, "host", None)
        app = host.url if isinstance(host, AppHost) else None
        tallies.answered(app, handler.get_status(), handler.request.request_time())
        log_request(handler)

    application.settings["log_function"] = count
