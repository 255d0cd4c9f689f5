"""`/metrics`: the metrics of all processes of the node as Prometheus text, and the gateway's own metrics.

Runs in the gateway, which reads the metrics files that the processes write: no worker is asked, so a busy or dead one
delays nothing. Reading and formatting happen in a thread; the event loop goes on routing connections.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Mapping
from importlib import metadata
from typing import Protocol

from prometheus_client.metrics_core import Metric
from tornado.web import RequestHandler

from aperture.gateway.front.dispatch import Dispatcher
from aperture.gateway.front.listener import Reception
from aperture.metrics import MetricsCollector, MetricsWriter, NodeCollector, Reading, families, render
from aperture.metrics.process import OtherProcess, build_info, read_process

__all__ = ["GATEWAY", "SUPERVISOR", "Exposition", "GatewayMeasures", "MetricsHandler", "WithStuckWorkers"]

log = logging.getLogger(__name__)

GATEWAY = "gateway"
SUPERVISOR = "supervisor"
"""Process names, as label values and in file names."""


class Exposition(Protocol):
    """Answers `/metrics`: a gateway for its node, or a server of one process for itself."""

    async def answer(self, accept: str) -> tuple[bytes, str] | None:
        """The exposition and its content type; None if metrics are off.

        Args:
            accept: the header of the request.

        Raises:
            OSError, ValueError: the node's files cannot be read.
        """
        ...


class GatewayMeasures:
    """The gateway's metrics, and the answer for the whole node.

    Args:
        path: of the node's metrics directory; None if metrics are off.
        dispatcher: the gateway's.
        reception: the gateway's.
        supervisor_pid: its process figures are read from here, because the supervisor must never wait for I/O.
    """

    def __init__(self, path: str | None, dispatcher: Dispatcher, reception: Reception, supervisor_pid: int) -> None:
        self._path = path
        self._dispatcher = dispatcher
        self._reception = reception
        self._supervisor = OtherProcess(SUPERVISOR, supervisor_pid)
        self._writer = MetricsWriter(path, GATEWAY, self.read)
        self._scraping = asyncio.Lock()
        self._bokeh = metadata.version("bokeh")

    def start(self) -> None:
        """Begin to write. No-op where metrics are off."""
        self._writer.start()

    def stop(self) -> None:
        """Write the last numbers. Idempotent."""
        self._writer.stop()

    async def answer(self, accept: str) -> tuple[bytes, str] | None:
        """See `Exposition`."""
        if self._path is None:
            return None
        self._writer.write()
        async with self._scraping:  # one at a time: many threads at once would slow each other and the event loop
            return await asyncio.to_thread(_rendered, self._path, accept, self._dispatcher.node_workers.overdue())

    def read(self) -> Iterator[Reading]:
        """The gateway's current numbers."""
        node_workers = self._dispatcher.node_workers
        yield Reading(families.WORKERS_UP, (), len(node_workers.table.up))
        yield Reading(families.WORKERS_WANTED, (), len(node_workers.workers))
        yield Reading(families.GATEWAY_CONNECTIONS, ("handed_over",), self._dispatcher.handed_over)
        refused = self._dispatcher.refused + self._reception.refused
        yield Reading(families.GATEWAY_CONNECTIONS, ("refused",), refused)
        yield Reading(families.GATEWAY_WAITING, ("head",), len(self._reception))
        yield Reading(families.GATEWAY_WAITING, ("worker",), self._dispatcher.parked)
        yield from read_process(GATEWAY)
        yield from self._supervisor.read()
        yield from build_info(self._bokeh)


def _rendered(path: str, accept: str, overdue: Mapping[int, float]) -> tuple[bytes, str]:
    return render(WithStuckWorkers(NodeCollector(path), overdue), accept)


class WithStuckWorkers:
    """The node's metrics, with the event-loop lag of stuck workers, which cannot write their own.

    A gauge written by the gateway would not do: a dead worker's last lag would stay in the gateway's file.

    Args:
        node: the metrics as the processes have written them.
        overdue: seconds by which the load report of each worker is late.
    """

    def __init__(self, node: MetricsCollector, overdue: Mapping[int, float]) -> None:
        self._node = node
        self._overdue = {str(worker): seconds for worker, seconds in overdue.items()}

    def collect(self) -> Iterator[Metric]:
        """As `node` does, with the lag of stuck workers replaced."""
        for metric in self._node.collect():
            if metric.name == families.LOOP_LAG.name:
                metric.samples = [
                    sample._replace(value=max(sample.value, self._overdue.get(sample.labels["worker"], 0.0)))
                    for sample in metric.samples
                ]
            yield metric


class MetricsHandler(RequestHandler):
    """`/metrics`: OpenMetrics if the request accepts it, else Prometheus's text format.

    Args:
        exposition: the gateway's.
    """

    def initialize(self, exposition: Exposition | None) -> None:
        self._exposition = exposition

    def compute_etag(self) -> None:
        return None  # answers describe the present moment; a cached one would be wrong

    async def head(self) -> None:
        await self.get()

    async def get(self) -> None:
        self.set_header("Cache-Control", "no-store")
        self.set_header("X-Content-Type-Options", "nosniff")
        try:
            accept = self.request.headers.get("Accept", "")
            answer = None if self._exposition is None else await self._exposition.answer(accept)
        except (OSError, ValueError, RuntimeError) as problem:
            log.warning("the node's metrics cannot be read: %s", problem)
            self._say(500, "the files with the node's metrics cannot be read; the log says why")
            return
        if answer is None:
            self._say(404, "metrics are off: --disable-metrics was given, or there is nowhere to keep them")
            return
        body, content_type = answer
        self.set_header("Content-Type", content_type)
        self.write(body)

    def _say(self, status: int, text: str) -> None:
        self.set_status(status)
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        self.write(text)
