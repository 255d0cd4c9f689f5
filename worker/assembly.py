"""One worker and its part in the cluster, put together: for a forked worker, and for a server in somebody's program."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from functools import partial

from bokeh.application import Application
from bokeh.document import Document

from aperture.bus.redis import RedisBus
from aperture.bus.redis_options import BusOptions
from aperture.config.settings import Durability, Settings
from aperture.metrics import RelayTally, Tallies
from aperture.protocol.tokens import Tokens
from aperture.registry.lease import LeaseKeeper
from aperture.registry.registry import Registry, WorkerName
from aperture.registry.snapshots import Keeping
from aperture.worker.admin_commands import Operations
from aperture.worker.collector import GarbageCollector
from aperture.worker.crowding import Crowding
from aperture.worker.dashboard.mount import Dashboard, with_dashboard
from aperture.worker.gateway_link import GatewayLink
from aperture.worker.http.render import render
from aperture.worker.http.resources import PageResources
from aperture.worker.measuring import WorkerMeasures
from aperture.worker.recovery.rebuild import Survival
from aperture.worker.relay.claims import Claims, NoGateway
from aperture.worker.relay.cluster import Cluster
from aperture.worker.relay.edge_side import EdgeSide
from aperture.worker.relay.owner_side import OwnerSide
from aperture.worker.relay.relay_bus import RelayBus
from aperture.worker.service import HAND_OVER_SHARE, WorkerService, auth_of, make_hosts
from aperture.worker.session.durability import Keeper, NoKeeper
from aperture.worker.session.placement import LocalPlacement
from aperture.worker.session.store import SessionStore

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
        applications = with_dashboard(applications, settings, self._fill_dashboard)
        tallies = Tallies(applications) if settings.metrics else None
        ground = None if settings.redis_url is None else _Ground(index, settings, link, tallies)
        self.service, self.cluster = _serving(settings, applications, tallies, ground, link, collector)
        bus = None if self.cluster is None else (self.cluster.bus, self.cluster.me)
        self.operations = Operations(
            self.service,
            index=index,
            workers=settings.num_procs,
            move_to=(lambda session_id, to: None) if link is None else link.move,
            bus=bus,
        )
        self._metrics_dir = settings.metrics_dir
        self.measures: WorkerMeasures | None = None
        """None with `--disable-metrics`."""
        if tallies is not None:
            keeping = None if ground is None else ground.keeping
            self.measures = WorkerMeasures(
                tallies, self.service, self.cluster, keeping, index=index, generation=generation, alone=link is None
            )
        self._dashboard: Dashboard | None = None
        """A part in other nodes' dashboards, with `--admin` or without; None where nothing is measured."""
        if self.measures is not None:
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


class _Ground:
    """What the sessions of a worker in a cluster stand on: the bus, the claims, and where sessions are kept."""

    def __init__(self, index: int, settings: Settings, link: GatewayLink | None, tallies: Tallies | None) -> None:
        options = BusOptions.of(settings)
        me = WorkerName(settings.node, index, secrets.token_hex(8))
        self.bus = RedisBus(options)
        registry = Registry(self.bus, me, lease=settings.lease)
        self.lease = LeaseKeeper(lambda: RedisBus(options), registry, me, lease=settings.lease)
        self.keeping: Keeping | None = None
        self.survival: Survival | None = None
        if settings.durability is not Durability.NONE:
            self.keeping = Keeping(
                self.bus, me, lifetime=settings.kept_lifetime, max_snapshot=settings.max_snapshot_bytes
            )
            acknowledge = settings.durability is Durability.ACK
            self.survival = Survival(self.keeping, acknowledge=acknowledge, tallies=tallies)
        self.keeper: Keeper = self.survival or NoKeeper()
        self.claims = Claims(registry, link or NoGateway(), self.keeper)

    def cluster(
        self, store: SessionStore, resources: PageResources, settings: Settings, tallies: Tallies | None
    ) -> Cluster:
        """This worker's part in the cluster, once there is a store."""
        limit = settings.websocket_max_message_size
        relay = RelayBus(self.bus, self.claims.registry, RelayTally() if tallies is None else tallies.relay)
        owner = OwnerSide(relay, self.claims, store, partial(render, resources), max_message_size=limit)
        edges = EdgeSide(relay, self.claims, store, tallies, max_message_size=limit)
        if self.survival is not None:
            self.survival.on_fenced(owner.lose)
        return Cluster(relay, self.claims, owner, edges, self.lease)


def _serving(
    settings: Settings,
    applications: Mapping[str, Application],
    tallies: Tallies | None,
    ground: _Ground | None,
    link: GatewayLink | None,
    collector: GarbageCollector | None,
) -> tuple[WorkerService, Cluster | None]:
    """From the ground up: apps, store, this worker's part in the cluster if there is one, and the service."""
    auth = auth_of(settings)
    tokens = Tokens(settings.secret_key, settings.session_ids.signed, settings.session_token_expiration)
    hosts = make_hosts(settings, applications, auth, tokens, tallies)
    resources = PageResources(settings.prefix, settings.absolute_url)
    collector = collector or GarbageCollector()
    placement = link or LocalPlacement() if ground is None else ground.claims
    store = SessionStore(
        hosts,
        placement,
        collector,
        unused_lifetime=settings.unused_session_lifetime,
        keeper=NoKeeper() if ground is None else ground.keeper,
    )
    cluster = None if ground is None else ground.cluster(store, resources, settings, tallies)
    crowded = None if cluster is None or link is None else Crowding(settings.spread_viewers, link.say_crowded)
    service = WorkerService(
        settings,
        hosts,
        store,
        auth=auth,
        tokens=tokens,
        resources=resources,
        collector=collector,
        placement=placement,
        elsewhere=None if cluster is None else cluster.edges,
        survival=None if ground is None else ground.survival,
        crowding=crowded,
        share_extensions=None if link is None else link.share_extensions,
    )
    return service, cluster
