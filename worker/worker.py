"""One worker, put together, started and stopped: the same in a forked worker and inside another program.

The order of the constructor is the order of dependence: the apps, the claims that their sessions are made under, the
sessions, the relay that serves their viewers elsewhere, the handlers of requests, and what operators and Prometheus
ask.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from bokeh.application import Application
from bokeh.document import Document
from tornado.web import Application as WebApplication

from aperture.bus.bus import Bus
from aperture.bus.redis import RedisBus
from aperture.bus.redis_options import BusOptions
from aperture.config.settings import Durability, Settings
from aperture.document import current, ids
from aperture.metrics import Tallies
from aperture.paths import path_of
from aperture.protocol.tokens import Tokens
from aperture.registry.lease import LeaseKeeper
from aperture.registry.registry import Registry, WorkerName
from aperture.registry.snapshots import Keeping
from aperture.wire.envelopes import Hostile
from aperture.worker.admin_commands import Operations
from aperture.worker.collector import GarbageCollector
from aperture.worker.crowding import Crowding
from aperture.worker.dashboard.mount import Dashboard, with_dashboard
from aperture.worker.document import lean
from aperture.worker.document.loading import check_imports
from aperture.worker.gateway_link import GatewayLink
from aperture.worker.handler_context import Services
from aperture.worker.handover import HANDOVER_SHARE, Handover
from aperture.worker.http.allowed_origins import AllowedOrigins
from aperture.worker.http.application import make_application, session_paths
from aperture.worker.http.auth import AuthHooks, load_auth_module
from aperture.worker.http.render import render
from aperture.worker.http.resources import Extensions, PageResources
from aperture.worker.measuring import WorkerMeasures
from aperture.worker.patch.inbound import receive
from aperture.worker.patch.pulls import Pulls
from aperture.worker.pulse import LoopLag, every, resident_bytes
from aperture.worker.recovery.rebuild import Survival
from aperture.worker.relay.claims import Claims
from aperture.worker.relay.cluster import Cluster
from aperture.worker.relay.edge_side import EdgeSide
from aperture.worker.relay.owner_side import OwnerSide
from aperture.worker.relay.post import Post
from aperture.worker.session.durability import Keeper, NoKeeper
from aperture.worker.session.host import AppHost
from aperture.worker.session.placement import NO_GATEWAY, Gateway, LocalPlacement, Placement
from aperture.worker.session.store import SessionStore
from aperture.worker.session_access import Door
from aperture.worker.ws.sockets import OpenSockets

__all__ = ["Worker"]

log = logging.getLogger(__name__)

_COLLECTOR_INTERVAL = 1.0
_CROWDING_INTERVAL = 1.0
_TOUCH_INTERVAL = 30.0

_CLOSE_SHARE = 0.4
"""Of the time for stopping, what may be spent on waiting for peers to answer close frames; the rest is for hooks."""


class Worker:
    """The apps, sessions, routes and timers of one worker, and its part in the cluster.

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
        _install(settings)
        applications = with_dashboard(applications, settings, self._fill_dashboard)
        auth, tokens = _auth_of(settings), _tokens_of(settings)
        tallies = Tallies(applications)
        self.settings = settings
        self.collector = collector or GarbageCollector()
        self.hosts = _hosts(settings, applications, auth, tokens, tallies)
        on_bus = None if settings.redis_url is None else _on_bus(settings, index, link or NO_GATEWAY, tallies)
        self._keeper: Keeper = NoKeeper() if on_bus is None else on_bus.keeper
        placement: Placement = on_bus.claims if on_bus else link or LocalPlacement()
        self.store = SessionStore(
            self.hosts,
            placement,
            self.collector,
            unused_lifetime=settings.unused_session_lifetime,
            keeper=self._keeper,
        )
        self.handover = Handover(self.store, self._keeper)
        resources = PageResources(settings.prefix, settings.absolute_url)
        self.cluster = None if on_bus is None else _join(on_bus, settings, self.store, resources, link, tallies)
        self._crowding = _crowding(settings, self.cluster, link)
        door = Door(
            self.store,
            placement,
            resources,
            None if self.cluster is None else self.cluster.edges,
            arrived=self._crowding.look,
            max_message_size=settings.websocket_max_message_size,
        )
        self.services = _services(settings, tokens, self.store, door, self.collector, resources, link)
        self.application: WebApplication = make_application(self.hosts, self.services, auth)
        self._session_paths = session_paths(tuple(self.hosts), settings.prefix)
        self.lag = LoopLag()
        self._timers: list[asyncio.Task[None]] = []
        self._loaded = False
        self.operations = self._operations(index, link)
        self.measures: WorkerMeasures | None = None
        """None with `--disable-metrics`."""
        self._dashboard: Dashboard | None = None
        """A part in other nodes' dashboards, with `--admin` or without; None where nothing is measured."""
        if settings.metrics:
            self.measures = WorkerMeasures(
                tallies,
                self.hosts,
                self.services.sockets,
                self.lag,
                self.application,
                self.cluster,
                None if on_bus is None else on_bus.stored,
                index=index,
                generation=generation,
                alone=link is None,
            )
            self._dashboard = Dashboard(settings, index, self.measures.read, self._bus())

    def creates(self, path: str) -> bool:
        """Whether a request for this path that names no session makes one."""
        return path_of(path) in self._session_paths

    @property
    def connections(self) -> int:
        """Websockets that are open here, of sessions here and elsewhere."""
        return len(self.services.sockets)

    @property
    def bus_up(self) -> bool:
        """Whether Redis answers, or is not needed."""
        return self.cluster is None or self.cluster.up

    @property
    def bus_full(self) -> bool:
        """Whether Redis has no memory for new sessions."""
        return self.cluster is not None and self.cluster.full

    async def start(self, *, wait: bool) -> None:
        """Run the apps' load hooks, start the timers, and enter the cluster.

        Args:
            wait: whether to go on, unready, while Redis cannot be reached.

        Raises:
            AppLoadError: an app's package cannot be loaded, or imports what is missing.
            BusUnavailable: Redis cannot be reached, and `wait` is false.
        """
        self._load()
        self._start_timers()
        if self.cluster is not None:
            await self.cluster.start(wait=wait)
        self.operations.start()
        if self.measures is not None:
            self.measures.start(self.settings.metrics_dir)
        if self._dashboard is not None:
            self._dashboard.start()

    async def stop(self, grace: float) -> None:
        """Hand the sessions over, close every websocket with 1012, run the hooks, and leave the cluster.

        Args:
            grace: seconds that all of it may take.
        """
        self.operations.stop()
        if self._dashboard is not None:
            self._dashboard.stop()
        await self.handover.hand_over_all(grace)
        if self.cluster is not None:
            await (
                self.cluster.withdraw()
            )  # before browsers are sent away: they may come back at once, to another worker
        await self._close(grace * (1 - HANDOVER_SHARE))
        if self.cluster is not None:
            await self.cluster.stop()
        if self.measures is not None:
            self.measures.stop()

    def unload(self) -> None:
        """Run the unload hooks, if the load hooks have run. Idempotent."""
        if self._loaded:
            self._loaded = False
            for host in self.hosts.values():
                host.unload()

    def _load(self) -> None:
        for host in self.hosts.values():
            host.load()
        self._loaded = True
        check_imports({url: host.application for url, host in self.hosts.items()})
        self.services.resources.bundle()  # so that the first visitor does not wait for it

    def _start_timers(self) -> None:
        settings = self.settings
        self.collector.start()
        self._timers = [
            self.lag.start(),
            every(settings.check_unused_sessions, self.store.discard_unused),
            every(_COLLECTOR_INTERVAL, self._collect_if_due),
            every(_CROWDING_INTERVAL, self._look_at_crowds),
            every(settings.stats_log_frequency, self._log_stats),
        ]
        if self._keeper.keeps:
            self._timers.append(every(_TOUCH_INTERVAL, self._keeper.touch))
        if settings.mem_log_frequency > 0:
            self._timers.append(every(settings.mem_log_frequency, self._log_memory))

    async def _close(self, timeout: float) -> None:
        for timer in self._timers:
            timer.cancel()
        self._timers = []
        await self.services.sockets.close_all(timeout * _CLOSE_SHARE)
        with suppress(TimeoutError):
            await asyncio.wait_for(self.store.discard_all(), timeout * (1 - _CLOSE_SHARE))
        self.unload()

    def _operations(self, index: int, link: GatewayLink | None) -> Operations:
        return Operations(
            self.store,
            self.handover,
            figures=lambda: (len(self.store), self.connections, self.lag.seconds, resident_bytes()),
            node=self.settings.node,
            index=index,
            workers=self.settings.num_procs,
            move_to=(lambda session_id, to: None) if link is None else link.move,
            bus=self._bus(),
        )

    def _bus(self) -> tuple[Bus, str] | None:
        """The way to other workers and this worker's name there, if there are any."""
        return None if self.cluster is None else (self.cluster.bus, self.cluster.me)

    def _fill_dashboard(self, document: Document) -> None:
        if self._dashboard is None:
            raise AssertionError("the dashboard is only served where something is measured")
        self._dashboard.fill(document)

    # Timers

    async def _collect_if_due(self) -> None:
        sessions = len(self.store)
        if self.collector.is_due(sessions, self.store.connections):
            self.collector.collect(sessions)

    async def _look_at_crowds(self) -> None:
        self._crowding.look_again(self.store)

    async def _log_stats(self) -> None:
        log.debug(
            "[pid %d] %d sessions, %d connections, event loop lag %.1f ms",
            os.getpid(),
            len(self.store),
            self.store.connections,
            self.lag.seconds * 1000,
        )

    async def _log_memory(self) -> None:
        log.info("[pid %d] memory usage: %.2f MB (rss)", os.getpid(), resident_bytes() / 1e6)


@dataclass(frozen=True, slots=True)
class _OnBus:
    """What a worker of a cluster has on the bus before there is a session."""

    bus: RedisBus
    registry: Registry
    lease: LeaseKeeper
    post: Post
    claims: Claims
    keeper: Keeper
    stored: Keeping | None
    """Where sessions are stored; None with `--durability none`."""
    hostile: Hostile


def _on_bus(settings: Settings, index: int, gateway: Gateway, tallies: Tallies) -> _OnBus:
    options = BusOptions.of(settings)
    bus = RedisBus(options)
    me = WorkerName(settings.node, index, secrets.token_hex(8))
    registry = Registry(bus, me, lease=settings.lease)
    stored: Keeping | None = None
    keeper: Keeper = NoKeeper()
    if settings.durability is not Durability.NONE:
        stored = Keeping(bus, me, lifetime=settings.kept_lifetime, max_snapshot=settings.max_snapshot_bytes)
        keeper = Survival(stored, acknowledge=settings.durability is Durability.ACK, tallies=tallies)
    hostile = Hostile()
    return _OnBus(
        bus,
        registry,
        LeaseKeeper(lambda: RedisBus(options), registry, me, lease=settings.lease),
        Post(bus, registry, tallies.relay),
        Claims(registry, gateway, keeper),
        keeper,
        stored,
        hostile,
    )


def _join(
    on_bus: _OnBus,
    settings: Settings,
    store: SessionStore,
    resources: PageResources,
    link: GatewayLink | None,
    tallies: Tallies,
) -> Cluster:
    owners = OwnerSide(
        on_bus.post,
        store,
        lambda session, kind, arguments: render(resources, session, kind, arguments),
        receive=receive,
        max_message_size=settings.websocket_max_message_size,
        tally=tallies.relay,
    )
    edges = EdgeSide(
        on_bus.post,
        on_bus.registry,
        link or NO_GATEWAY,
        store,
        max_message_size=settings.websocket_max_message_size,
        tallies=tallies.apps,
        relay_tally=tallies.relay,
        hostile=on_bus.hostile,
    )
    return Cluster(
        on_bus.bus,
        on_bus.registry,
        on_bus.post,
        store,
        owners,
        edges,
        lease=on_bus.lease,
        tally=tallies.relay,
        hostile=on_bus.hostile,
    )


def _install(settings: Settings) -> None:
    """Monkeypatch what Bokeh does once for a whole process. Idempotent."""
    ids.install()
    current.install()
    if settings.lean_models:
        lean.install()


def _hosts(
    settings: Settings, applications: Mapping[str, Application], auth: AuthHooks, tokens: Tokens, tallies: Tallies
) -> dict[str, AppHost]:
    pulls = Pulls()
    logout_url = None if auth.logout_url is None else f"{settings.prefix}/{auth.logout_url.lstrip('/')}"
    return {
        url: AppHost(url, app, logout_url=logout_url, issue_token=tokens.issue, pulls=pulls, tally=tallies.apps[url])
        for url, app in applications.items()
    }


def _services(
    settings: Settings,
    tokens: Tokens,
    store: SessionStore,
    door: Door,
    collector: GarbageCollector,
    resources: PageResources,
    link: GatewayLink | None,
) -> Services:
    return Services(
        settings=settings,
        tokens=tokens,
        store=store,
        door=door,
        collector=collector,
        resources=resources,
        extensions=Extensions(None if link is None else link.share_extensions),
        origins=AllowedOrigins(_origins_of(settings)),
        sockets=OpenSockets(),
    )


def _crowding(settings: Settings, cluster: Cluster | None, link: GatewayLink | None) -> Crowding:
    """Only where other workers could take viewers of a session here."""
    if cluster is None or link is None:
        return Crowding(0, lambda session_id, crowded: None)
    return Crowding(settings.spread_viewers, link.say_crowded)


def _origins_of(settings: Settings) -> tuple[str, ...]:
    if settings.allow_websocket_origin is not None:
        return settings.allow_websocket_origin
    return (f"localhost:{settings.port}",)


def _tokens_of(settings: Settings) -> Tokens:
    return Tokens(settings.secret_key, settings.session_ids.signed, settings.session_token_expiration)


def _auth_of(settings: Settings) -> AuthHooks:
    if settings.auth_provider is not None:
        return AuthHooks.of(settings.auth_provider)
    if settings.auth_module is not None:
        return load_auth_module(settings.auth_module)
    return AuthHooks()
