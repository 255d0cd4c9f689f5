"""One worker, put together, started and stopped: the same in a forked worker and inside another program.

The order of the constructor is the order of dependence: the apps, the claims that their sessions are made under, the
sessions, the relay that serves their viewers elsewhere, the handlers of requests, and what operators and Prometheus
ask.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from bokeh.application import Application
from bokeh.document import Document
from tornado.web import Application as WebApplication

from aperture.apps import is_panels
from aperture.bus.redis import RedisBus
from aperture.bus.redis_options import BusOptions
from aperture.config.settings import DASHBOARD_ROUTE, Durability, Settings
from aperture.document import current, ids
from aperture.metrics import Tallies
from aperture.paths import path_of
from aperture.protocol.tokens import Tokens
from aperture.registry.lease import LeaseThread
from aperture.registry.members import WorkerName
from aperture.registry.registry import Registry
from aperture.registry.snapshots import SnapshotStore
from aperture.wire.accounts import Load
from aperture.wire.envelopes import Hostile
from aperture.wire.session_key import session_key_parts
from aperture.worker.admin_commands import CommandChannel, NoCommandChannel, Operations
from aperture.worker.app_threads import ON_LOOP, AppCode, AppThreads
from aperture.worker.collector import GarbageCollector
from aperture.worker.crowding import Crowding
from aperture.worker.dashboard.exchange import FigureExchange, NoExchange
from aperture.worker.dashboard.mount import Dashboard, with_dashboard
from aperture.worker.dashboard.reader import FigureReader
from aperture.worker.document import lean, locking
from aperture.worker.document.loading import check_imports
from aperture.worker.gateway_link import GatewayLink
from aperture.worker.handler_context import Services
from aperture.worker.handover import HANDOVER_SHARE, Handover
from aperture.worker.housekeeping import Housekeeping
from aperture.worker.http.allowed_origins import AllowedOrigins
from aperture.worker.http.application import make_application, session_paths
from aperture.worker.http.assets import Departures
from aperture.worker.http.auth import AuthHooks, load_auth_module
from aperture.worker.http.render import ADDRESS, EARLY, LOADED, render, render_early
from aperture.worker.http.resources import Extensions, PageResources
from aperture.worker.measuring import WorkerMeasures
from aperture.worker.patch.inbound import receive
from aperture.worker.patch.pulls import Pulls
from aperture.worker.peers import NoPeers, Peers
from aperture.worker.periodic import LoopLag, resident_bytes
from aperture.worker.recovery.rebuild import RedisRecovery
from aperture.worker.relay.claims import Claims
from aperture.worker.relay.cluster import Alone, Cluster
from aperture.worker.relay.edge_side import EdgeSide
from aperture.worker.relay.owner_side import EarlyRenderer, OwnerSide
from aperture.worker.relay.post import Post
from aperture.worker.session.durability import NoRecovery, Recovery
from aperture.worker.session.early import Framing, Making
from aperture.worker.session.framework import BOKEH, Framework
from aperture.worker.session.host import AppHost
from aperture.worker.session.placement import NO_GATEWAY, Gateway, LocalPlacement, Placement
from aperture.worker.session.store import SessionStore
from aperture.worker.session.warm import WarmSessions
from aperture.worker.session_access import SessionAccess
from aperture.worker.watchdog import Watchdog
from aperture.worker.ws.sockets import OpenSockets

__all__ = ["Worker"]

log = logging.getLogger(__name__)

_WARM_PAUSE = 0.5
"""Seconds without a message or a request after which app code may run for a visitor who has not come yet."""

_WARM_SHARE = 0.1
"""Of the time for stopping, what may be spent on the hooks of sessions that were made ahead and not taken."""

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
        tallies = Tallies(applications, threaded=settings.num_threads > 0)
        self.settings = settings
        self.collector = collector or GarbageCollector()
        self.threads = AppThreads(settings.num_threads, tallies.threads) if settings.num_threads > 0 else None
        """For app code; None where it runs on the event loop."""
        self.hosts = _hosts(settings, applications, auth, tokens, tallies, self.threads)
        on_bus = None if settings.redis_url is None else _on_bus(settings, index, link or NO_GATEWAY, tallies)
        self._recovery: Recovery = NoRecovery() if on_bus is None else on_bus.recovery
        placement: Placement = on_bus.claims if on_bus else LocalPlacement(link or NO_GATEWAY)
        resources = PageResources(settings.prefix, settings.absolute_url)
        self.warm = _warm(settings, self.hosts, tokens, self.collector, resources)
        """Sessions that are made ahead."""
        self.store = _store(settings, self.hosts, placement, self.collector, self._recovery, self.warm)
        self.handover = Handover(self.store, self._recovery)
        departures = Departures()
        early = _early_renderer(resources, tokens, departures)
        self.cluster = (
            Alone() if on_bus is None else _join(on_bus, settings, self.store, resources, link, tallies, early)
        )
        self.peers: Peers | NoPeers = NoPeers() if self.cluster.address is None else Peers(*self.cluster.address)
        crowding = _crowding(settings, self.cluster, link)
        access = _session_access(settings, self.store, placement, resources, self.cluster, departures, crowding)
        self.services = _services(
            settings, tokens, self.store, access, self.collector, resources, link, self.warm, departures
        )
        self.application: WebApplication = make_application(self.hosts, self.services, auth)
        self._session_paths = session_paths(tuple(self.hosts), settings.prefix)
        self._watchdog = Watchdog(self.hosts, self.threads, slow=settings.slow_callback_warning)
        self.lag = LoopLag()
        self._housekeeping = Housekeeping(
            settings, self.store, self._recovery, self.warm, self.collector, crowding, self.lag
        )
        self._loaded = False
        self.operations = self._operations(index, link)
        stored = None if on_bus is None else on_bus.stored
        self.measures = self._measured(tallies, stored, index=index, generation=generation, alone=link is None)
        """None with `--disable-metrics`."""
        self._dashboard = _dashboard(settings, index, self.measures, self.cluster)
        """A part in other nodes' dashboards, with `--admin` or without; None where nothing is measured."""

    def creates(self, path: str) -> bool:
        """Whether a request for this path that names no session makes one."""
        return path_of(path) in self._session_paths

    @property
    def _frameworks(self) -> set[Framework]:
        return {host.framework for host in self.hosts.values()}

    @property
    def connections(self) -> int:
        """Websockets that are open here, of sessions here and elsewhere."""
        return len(self.services.sockets)

    def load(self, lag_seconds: float) -> Load:
        """How busy this worker is, if its event loop lags so much."""
        return Load(len(self.store), self.connections, lag_seconds, resident_bytes())

    @property
    def bus_up(self) -> bool:
        """Whether Redis answers, or is not needed."""
        return self.cluster.up

    @property
    def bus_full(self) -> bool:
        """Whether Redis has no memory for new sessions."""
        return self.cluster.full

    @property
    def heartbeat_fails(self) -> bool:
        """Whether the last heartbeat failed although Redis answers."""
        return self.cluster.heartbeat_fails

    async def start(self, *, wait: bool) -> None:
        """Run the apps' load hooks, start the timers, and enter the cluster.

        Args:
            wait: whether to go on, unready, while Redis cannot be reached.

        Raises:
            AppLoadError: an app's package cannot be loaded, or imports what is missing.
            BusUnavailable: Redis cannot be reached, and `wait` is false.
        """
        self._load_apps()
        for framework in self._frameworks:
            await framework.start(self.application, self.peers)
        self._start_work()
        await self.cluster.start(wait=wait)
        self.peers.start()
        self.operations.start()
        if self.measures is not None:
            self.measures.start()
        if self._dashboard is not None:
            self._dashboard.start()

    async def stop(self, grace: float) -> None:
        """Hand the sessions over, close every websocket with 1012, run the hooks, and leave the cluster.

        Args:
            grace: seconds that all of it may take.
        """
        self.operations.stop()
        with suppress(TimeoutError):
            await asyncio.wait_for(self.warm.close(), grace * _WARM_SHARE)
        if self._dashboard is not None:
            self._dashboard.stop()
        self.peers.stop()
        for framework in self._frameworks:
            await framework.stop()
        await self.handover.hand_over_all(grace)
        await self.cluster.withdraw()  # before browsers are sent away: they may come back at once, to another worker
        await self._close(grace * (1 - HANDOVER_SHARE))
        await self.cluster.stop()
        if self.measures is not None:
            self.measures.stop()

    def unload(self) -> None:
        """Run the unload hooks, if the load hooks have run. Idempotent."""
        if self._loaded:
            self._loaded = False
            for host in self.hosts.values():
                host.unload()

    def _load_apps(self) -> None:
        for host in self.hosts.values():
            host.load()
        self._loaded = True
        checked = {url: host for url, host in self.hosts.items() if host.framework.checks_imports}
        check_imports({url: host.application for url, host in checked.items()})
        self.services.resources.form(1)  # so that the first visitor does not wait for it
        if self.settings.early_pages:
            self.services.resources.frame()

    def _start_work(self) -> None:
        self.collector.start()
        if self.threads is not None:
            self.threads.open()
        if self.settings.slow_callback_warning > 0:
            self._watchdog.start()
        self._housekeeping.start()

    async def _close(self, timeout: float) -> None:
        self._housekeeping.stop()
        await self.services.sockets.close_all(timeout * _CLOSE_SHARE)
        with suppress(TimeoutError):
            await self.store.discard_all(timeout * (1 - _CLOSE_SHARE))
        self._watchdog.stop()
        self.store.note_unfinished()
        self.unload()
        if self.threads is not None:
            self.threads.close()

    def _measured(
        self, tallies: Tallies, stored: SnapshotStore | None, *, index: int, generation: int, alone: bool
    ) -> WorkerMeasures | None:
        if not self.settings.metrics:
            return None
        return WorkerMeasures(
            tallies,
            self.hosts,
            self.services.sockets,
            self.lag,
            self.application,
            self.cluster,
            stored,
            index=index,
            generation=generation,
            path=self.settings.metrics_dir,
            alone=alone,
        )

    def _operations(self, index: int, link: GatewayLink | None) -> Operations:
        address = self.cluster.address
        alone = NoCommandChannel(f"{self.settings.node}/{index}/-")
        return Operations(
            self.store,
            self.handover,
            load=lambda: self.load(self.lag.seconds),
            index=index,
            workers=self.settings.num_procs,
            move_to=(lambda session_id, to: None) if link is None else link.move,
            channel=alone if address is None else CommandChannel(*address),
        )

    def _fill_dashboard(self, document: Document) -> None:
        if self._dashboard is None:
            raise AssertionError("the dashboard is only served where something is measured")
        self._dashboard.fill(document)


@dataclass(frozen=True, slots=True)
class _OnBus:
    """What a worker of a cluster has on the bus before there is a session."""

    bus: RedisBus
    registry: Registry
    lease: LeaseThread
    post: Post
    claims: Claims
    recovery: Recovery
    stored: SnapshotStore | None
    """Where sessions are stored; None with `--durability none`."""
    hostile: Hostile


def _on_bus(settings: Settings, index: int, gateway: Gateway, tallies: Tallies) -> _OnBus:
    options = BusOptions.of(settings)
    bus = RedisBus(options)
    me = WorkerName(settings.node, index, secrets.token_hex(8))
    registry = Registry(bus, me, lease=settings.lease)
    stored: SnapshotStore | None = None
    recovery: Recovery = NoRecovery()
    if settings.durability is not Durability.NONE:
        stored = SnapshotStore(bus, me, lifetime=settings.stored_lifetime, max_snapshot=settings.max_snapshot_bytes)
        recovery = RedisRecovery(stored, acknowledge=settings.durability is Durability.ACK, tallies=tallies)
    hostile = Hostile()
    return _OnBus(
        bus,
        registry,
        LeaseThread(lambda: RedisBus(options), registry, me, lease=settings.lease),
        Post(bus, registry, tallies.relay),
        Claims(registry, gateway, recovery),
        recovery,
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
    early: EarlyRenderer,
) -> Cluster:
    owners = OwnerSide(
        on_bus.post,
        store,
        lambda session, kind, arguments: render(resources, session, kind, arguments),
        early,
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
        acknowledged=settings.durability is Durability.ACK,
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


def _dashboard(
    settings: Settings, index: int, measures: WorkerMeasures | None, cluster: Cluster | Alone
) -> Dashboard | None:
    if measures is None:
        return None
    reader = FigureReader(settings.node, settings.metrics_dir, measures.read, index)
    return Dashboard(reader, NoExchange() if cluster.address is None else FigureExchange(*cluster.address, reader))


def _early_renderer(resources: PageResources, tokens: Tokens, departures: Departures) -> EarlyRenderer:
    def rendered(making: Making, session_key: str, kind: str, arguments: dict[str, str]) -> str | None:
        if kind == LOADED:
            # Workers of earlier versions do not say where.
            departures.when_gone(arguments.get(ADDRESS, ""), making.go)
            return ""
        if EARLY not in arguments:
            return None
        token = tokens.issue(session_key_parts(session_key)[1])
        return render_early(resources, making, token, kind, arguments)

    return rendered


def _install(settings: Settings) -> None:
    """Monkeypatch what Bokeh does once for a whole process. Idempotent."""
    ids.install()
    current.install()
    locking.install()
    if settings.lean_models:
        lean.install()


def _hosts(
    settings: Settings,
    applications: Mapping[str, Application],
    auth: AuthHooks,
    tokens: Tokens,
    tallies: Tallies,
    threads: AppThreads | None,
) -> dict[str, AppHost]:
    def is_bokehs(url: str, app: Application) -> bool:
        # The dashboard is ours, and reads what the event loop writes.
        return not is_panels(app) and not (settings.dashboard and url == DASHBOARD_ROUTE)

    def code(url: str, app: Application) -> AppCode:
        # Panel has threads of its own (`--num-threads` of its command), and a document of its is for one thread.
        return threads if threads is not None and is_bokehs(url, app) else ON_LOOP

    def framing(url: str, app: Application) -> Framing:
        # Panel writes into a page which scripts the session's models need: it cannot be written before them.
        return Framing(url, wanted=settings.early_pages and is_bokehs(url, app))

    pulls = Pulls()
    logout_url = None if auth.logout_url is None else f"{settings.prefix}/{auth.logout_url.lstrip('/')}"
    return {
        url: AppHost(
            url,
            app,
            logout_url=logout_url,
            issue_token=tokens.issue,
            framework=_framework_of(app),
            framing=framing(url, app),
            pulls=pulls,
            tally=tallies.apps[url],
            code=code(url, app),
        )
        for url, app in applications.items()
    }


def _framework_of(application: Application) -> Framework:
    if not is_panels(application):
        return BOKEH
    from aperture.worker.panel.adapter import panel_framework

    return panel_framework()


def _store(
    settings: Settings,
    hosts: Mapping[str, AppHost],
    placement: Placement,
    collector: GarbageCollector,
    recovery: Recovery,
    warm: WarmSessions,
) -> SessionStore:
    lifetime = settings.unused_session_lifetime
    return SessionStore(hosts, placement, collector, unused_lifetime=lifetime, recovery=recovery, warm=warm)


def _session_access(
    settings: Settings,
    store: SessionStore,
    placement: Placement,
    resources: PageResources,
    cluster: Cluster | Alone,
    departures: Departures,
    crowding: Crowding,
) -> SessionAccess:
    limit, elsewhere = settings.websocket_max_message_size, cluster.edges
    return SessionAccess(
        store, placement, resources, elsewhere, departures, arrived=crowding.look, max_message_size=limit
    )


def _services(
    settings: Settings,
    tokens: Tokens,
    store: SessionStore,
    access: SessionAccess,
    collector: GarbageCollector,
    resources: PageResources,
    link: GatewayLink | None,
    warm: WarmSessions,
    departures: Departures,
) -> Services:
    return Services(
        settings=settings,
        tokens=tokens,
        store=store,
        access=access,
        collector=collector,
        resources=resources,
        extensions=Extensions(None if link is None else link.share_extensions),
        origins=AllowedOrigins(_origins_of(settings)),
        sockets=OpenSockets(),
        warm=warm,
        departures=departures,
    )


def _warm(
    settings: Settings,
    hosts: Mapping[str, AppHost],
    tokens: Tokens,
    collector: GarbageCollector,
    resources: PageResources,
) -> WarmSessions:
    """Of the apps whose pages make sessions, but for ours, and for Panel's: those see their request at once."""
    own = DASHBOARD_ROUTE if settings.dashboard else None
    suited = {url: host for url, host in hosts.items() if host.framework is BOKEH and url != own}
    return WarmSessions(
        suited,
        tokens.new_session_id,
        count=settings.warm_sessions if settings.session_ids.generated else 0,
        lifetime=settings.warm_seconds,
        idle=lambda: collector.quiet_for(_WARM_PAUSE),
        clock=time.monotonic,
        prepare_page=lambda document: resources.form(len(document.roots)),
    )


def _crowding(settings: Settings, cluster: Cluster | Alone, link: GatewayLink | None) -> Crowding:
    """Only where other workers could take viewers of a session here."""
    if cluster.address is None or link is None:
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
