"""A worker's metrics: what is counted as it happens, and what is looked up when it is read.

Runs in each worker. Once a second the numbers go to the node's files (`aperture.metrics.storage`), from which the
gateway answers for all processes; a worker that is killed loses the last second of its counts. A server inside another
program has no files: there the numbers are read when they are asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from bokeh import __version__ as bokeh_version
from tornado.web import Application, RequestHandler

from aperture.metrics import MetricsWriter, Reading, SourceCollector, Tallies, families, worker_name
from aperture.metrics.process import GcPauses, build_info, read_process
from aperture.registry.snapshots import SnapshotStore
from aperture.worker.periodic import LoopLag
from aperture.worker.relay.cluster import Alone, Cluster
from aperture.worker.session.host import AppHost
from aperture.worker.ws.sockets import OpenSockets

__all__ = ["WorkerMeasures"]


class WorkerMeasures:
    """The metrics of one worker.

    Args:
        tallies: that its parts add to.
        hosts: its apps by route.
        sockets: its websockets.
        lag: of its event loop.
        application: answers its requests.
        cluster: its part in the cluster.
        stored: where its sessions are stored, if they are.
        index: its place in the node.
        generation: counts those who were in that place before.
        path: of the node's directory; None where no other process reads.
        alone: whether there is no gateway, which would otherwise tell what concerns the node.
    """

    def __init__(
        self,
        tallies: Tallies,
        hosts: Mapping[str, AppHost],
        sockets: OpenSockets,
        lag: LoopLag,
        application: Application,
        cluster: Cluster | Alone,
        stored: SnapshotStore | None,
        *,
        index: int,
        generation: int,
        path: str | None,
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
        self._writer = MetricsWriter(path, worker_name(index), self.read)
        _count_requests(application, tallies)

    @property
    def collector(self) -> SourceCollector:
        """For `aperture.metrics.render`, or for the program's own registry."""
        return SourceCollector(self.read)

    def start(self) -> None:
        """Begin to measure, and to write."""
        self._pauses.start()
        self._writer.start()

    def stop(self) -> None:
        """Write the last numbers. Idempotent."""
        self._pauses.stop()
        self._writer.stop()

    def read(self) -> Iterator[Reading]:
        """All numbers of this worker."""
        yield from self._tallies.read()
        yield from self._read_sessions()
        yield from self._read_outboxes()
        yield Reading(families.LOOP_LAG, (str(self._index),), self._lag.longest_lately)
        yield Reading(families.GENERATION, (str(self._index),), self._generation + 1)
        yield from self._pauses.read()
        yield from read_process(worker_name(self._index))
        yield from self._cluster.read()
        if self._stored is not None:
            yield Reading(families.DAMAGED_STATE, (), self._stored.broken_loads)
        if self._alone:
            yield from build_info(bokeh_version)

    def _read_sessions(self) -> Iterator[Reading]:
        edges = self._cluster.edges.connections()
        for url, host in self._hosts.items():
            yield Reading(families.SESSIONS, (url,), len(host.sessions_by_id))
            yield Reading(
                families.CONNECTIONS, (url, "owner"), sum(len(session.fanout.viewers) for session in host.sessions)
            )
            yield Reading(families.CONNECTIONS, (url, "edge"), edges[url])

    def _read_outboxes(self) -> Iterator[Reading]:
        found = (getattr(socket, "outbox", None) for socket in self._sockets)
        outboxes = [outbox for outbox in found if outbox is not None]
        yield Reading(families.OUTBOX_BYTES, (), sum(outbox.waiting for outbox in outboxes))
        yield Reading(families.VIEWERS_BEHIND, (), sum(outbox.behind for outbox in outboxes))


def _count_requests(application: Application, tallies: Tallies) -> None:
    """Count what the application answers, before it is logged."""
    log_request = application.settings["log_function"]

    def count(handler: RequestHandler) -> None:
        host = getattr(handler, "host", None)
        app = host.url if isinstance(host, AppHost) else None
        tallies.answered(app, handler.get_status(), handler.request.request_time())
        log_request(handler)

    application.settings["log_function"] = count
