"""One worker and its part in the cluster, put together: for a forked worker, and for a server in somebody's program."""

from __future__ import annotations

import secrets
from collections.abc import Mapping

from bokeh.application import Application
from bokeh.document import Document

from aperture.bus.redis import RedisBus
from aperture.bus.redis_options import BusOptions
from aperture.config.settings import Durability, Settings
from aperture.metrics import Tallies
from aperture.registry.lease import LeaseKeeper
from aperture.registry.registry import Registry, WorkerName
from aperture.registry.snapshots import Keeping
from aperture.worker.admin_commands import Operations
from aperture.worker.collector import GarbageCollector
from aperture.worker.crowding import Crowding
from aperture.worker.dashboard.mount import Dashboard, with_dashboard
from aperture.worker.gateway_link import GatewayLink
from aperture.worker.measuring import WorkerMeasures
from aperture.worker.neighbourhood import WorkerNeighbourhood
from aperture.worker.recovery.rebuild import Survival
from aperture.worker.relay.cluster import Cluster
from aperture.worker.service import HAND_OVER_SHARE, WorkerService
from aperture.worker.session.placement import LocalPlacement

__all__ = ["Assembly"]


class Assembly:
    """The parts of one worker, and the order in which they start and stop.

    Making one needs no event loop; everything else runs on the one that is running in `start`.

    Args:
        settings: of the node; with a `redis_url` the worker takes part in a cluster.
        applications: Bokeh applications by route.
        index: the worker's place in the node.
        generation: counts those who were in that place before.
        link: to the gateway; None where there is none.
        collector: decides when garbage is collected, in a process that is not the worker's own.

    Raises:
        ConfigurationError: the auth module, an origin or the icon is not as it should be.
    """

    def __init__(
        self,
        settings: Settings,
        applications: Mapping[str, Application],
        *,
        index: int = 0,
        generation: int = 0,
        link: GatewayLink | None = None,
        collector: GarbageCollector | None = None,
    ) -> None:
        neighbourhood = WorkerNeighbourhood(link)
        applications = with_dashboard(applications, settings, self._fill_dashboard)
        tallies = Tallies(applications) if settings.metrics else None
        self.cluster: Cluster | None
        self.cluster, survival, keeping = _cluster(index, settings, neighbourhood, tallies)
        crowded = None if self.cluster is None or link is None else Crowding(settings.spread_viewers, link.say_crowded)
        self.service = WorkerService(
            settings,
            applications,
            placement=self.cluster or link or LocalPlacement(),
            elsewhere=self.cluster,
            survival=survival,
            crowding=crowded,
            share_extensions=None if link is None else link.share_extensions,
            collector=collector,
            tallies=tallies,
        )
        neighbourhood.service = self.service
        self.operations = Operations(
            self.service,
            index=index,
            workers=settings.num_procs,
            move_to=(lambda session_id, to: None) if link is None else link.move,
            bus=None if self.cluster is None else (self.cluster.bus, self.cluster.me),
        )
        self._metrics_dir = settings.metrics_dir
        self.measures: WorkerMeasures | None = None
        """None with `--disable-metrics`."""
        if tallies is not None:
            self.measures = WorkerMeasures(
                tallies, self.service, self.cluster, keeping, index=index, generation=generation, alone=link is None
            )
        self._dashboard: Dashboard | None = None
        """A part in other nodes' dashboards, with `--admin` or without; None where nothing is measured."""
        if self.measures is not None:
            bus = None if self.cluster is None else (self.cluster.bus, self.cluster.me)
            self._dashboard = Dashboard(settings, index, self.measures.read, bus)

    async def start(self, *, wait: bool) -> None:
        """Run the load hooks, start the timers, and enter the cluster.

        Args:
            wait: whether to go on, unready, while Redis cannot be reached.

        Raises:
            AppLoadError: an app's package cannot be loaded, or imports what is missing.
            BusUnavailable: Redis cannot be reached, and `wait` is false.
        """
        self.service.start()
        if self.cluster is not None:
            await self.cluster.start(wait=wait)
        self.operations.start()
        if self.measures is not None:
            self.measures.start(self._metrics_dir)
        if self._dashboard is not None:
            self._dashboard.start()

    async def stop(self, grace: float) -> None:
        """Hand the sessions over, close their websockets, and leave the cluster.

        Args:
            grace: seconds that all of it may take.
        """
        self.operations.stop()
        if self._dashboard is not None:
            self._dashboard.stop()
        await self.service.hand_over(grace)
        if self.cluster is not None:
            await self.cluster.withdraw()  # before the browsers are told to come back: they may, at once, elsewhere
        await self.service.stop(grace * (1 - HAND_OVER_SHARE))
        if self.cluster is not None:
            await self.cluster.stop()
        if self.measures is not None:
            self.measures.stop()

    def _fill_dashboard(self, document: Document) -> None:
        if self._dashboard is None:
            raise AssertionError("the dashboard is only served where something is measured")
        self._dashboard.fill(document)


def _cluster(
    index: int, settings: Settings, neighbourhood: WorkerNeighbourhood, tallies: Tallies | None
) -> tuple[Cluster, Survival | None, Keeping | None] | tuple[None, None, None]:
    """This worker's part in the cluster, and what its sessions are kept by; nothing for a node that has no bus."""
    if settings.redis_url is None:
        return None, None, None
    options = BusOptions.of(settings)
    bus = RedisBus(options)
    me = WorkerName(settings.node, index, secrets.token_hex(8))
    registry = Registry(bus, me, lease=settings.lease)
    keeper = LeaseKeeper(lambda: RedisBus(options), registry, me, lease=settings.lease)
    survival = keeping = None
    if settings.durability is not Durability.NONE:
        keeping = Keeping(bus, me, lifetime=settings.kept_lifetime, max_snapshot=settings.max_snapshot_bytes)
        survival = Survival(keeping, acknowledge=settings.durability is Durability.ACK, tallies=tallies)
    cluster = Cluster(bus, registry, neighbourhood, keeper, survival, tallies)
    if survival is not None:
        survival.fenced = cluster.lose
    return cluster, survival, keeping
