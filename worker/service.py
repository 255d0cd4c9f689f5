"""One worker's parts, put together, started and stopped: the same in a forked worker and inside another program."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Mapping
from contextlib import suppress

from bokeh.application import Application

from aperture.config.settings import Settings
from aperture.document import current, ids
from aperture.metrics import Tallies
from aperture.paths import path_of
from aperture.protocol.closing import NORMAL_CLOSURE, SERVICE_RESTART
from aperture.protocol.tokens import Tokens
from aperture.worker.collector import GarbageCollector
from aperture.worker.crowding import Crowding
from aperture.worker.document import lean
from aperture.worker.document.loading import check_imports
from aperture.worker.handler_context import Services
from aperture.worker.http.allowed_origins import AllowedOrigins
from aperture.worker.http.application import make_application, session_paths
from aperture.worker.http.auth import AuthHooks, load_auth_module
from aperture.worker.http.resources import Extensions, PageResources, ShareExtensions
from aperture.worker.patch.pulls import Pulls
from aperture.worker.pulse import LoopLag, every, resident_bytes
from aperture.worker.recovery.rebuild import Survival
from aperture.worker.session.host import AppHost
from aperture.worker.session.placement import Placement
from aperture.worker.session.session import Session
from aperture.worker.session.store import SessionStore
from aperture.worker.session_access import Door, Elsewhere
from aperture.worker.ws.sockets import OpenSockets

__all__ = ["HAND_OVER_SHARE", "WorkerService", "auth_of", "make_hosts"]

log = logging.getLogger(__name__)

_COLLECTOR_INTERVAL = 1.0
_CROWDING_INTERVAL = 1.0
_TOUCH_INTERVAL = 30.0
REST_TIME = 3.0
"""Seconds in which a session must come to rest that an operator wants ended or moved."""

HAND_OVER_SHARE = 0.3
"""Of the time for stopping, what may be spent on writing down what others are to go on with."""

_CLOSE_SHARE = 0.4
"""Of the time for stopping, what may be spent on waiting for peers to answer close frames; the rest is for hooks."""


class WorkerService:
    """The apps, sessions, routes and timers of one worker.

    Making one needs no event loop; everything else runs on the one that is running in `start`.

    Args:
        settings: of the node.
        hosts: the apps by route.
        store: their sessions.
        auth: who may see them.
        tokens: made and read.
        resources: what pages are rendered with.
        collector: decides when garbage is collected.
        placement: told of sessions as they come and go.
        elsewhere: the way to sessions of other workers, if there are any.
        survival: keeps sessions beyond this worker's life, if they are to outlive it.
        crowding: watches how many viewers come to each session, if others could take some.
        share_extensions: exchanges asset folders with other workers, if there are any.

    Raises:
        ConfigurationError: an origin or the icon is not as it should be.
    """

    def __init__(
        self,
        settings: Settings,
        hosts: Mapping[str, AppHost],
        store: SessionStore,
        *,
        auth: AuthHooks,
        tokens: Tokens,
        resources: PageResources,
        collector: GarbageCollector,
        placement: Placement,
        elsewhere: Elsewhere | None = None,
        survival: Survival | None = None,
        crowding: Crowding | None = None,
        share_extensions: ShareExtensions | None = None,
    ) -> None:
        self.hosts = hosts
        self.store = store
        self.collector = collector
        self._survival = survival
        self._crowding = crowding or Crowding(0, lambda session_id, crowded: None)
        self.services = Services(
            settings=settings,
            tokens=tokens,
            store=self.store,
            door=Door(
                self.store,
                placement,
                resources,
                elsewhere,
                arrived=self._crowding.look,
                max_message_size=settings.websocket_max_message_size,
            ),
            collector=self.collector,
            resources=resources,
            extensions=Extensions(share_extensions),
            origins=AllowedOrigins(_origins_of(settings)),
            sockets=OpenSockets(),
        )
        self.application = make_application(self.hosts, self.services, auth)
        self._session_paths = session_paths(tuple(self.hosts), settings.prefix)
        self.lag = LoopLag()
        self._timers: list[asyncio.Task[None]] = []
        self._loaded = False

    def creates(self, path: str) -> bool:
        """Whether a request for this path that names no session makes one."""
        return path_of(path) in self._session_paths

    def start(self) -> None:
        """Run the apps' load hooks, import what the apps import, and start the timers.

        Raises:
            AppLoadError: an app's package cannot be loaded, or imports what is missing.
        """
        for host in self.hosts.values():
            host.load()
        self._loaded = True
        check_imports({url: host.application for url, host in self.hosts.items()})
        self.services.resources.bundle()  # so that the first visitor does not wait for it
        self.collector.start()
        settings = self.services.settings
        self._timers = [
            self.lag.start(),
            every(settings.check_unused_sessions, self.store.discard_unused),
            every(_COLLECTOR_INTERVAL, self._collect_if_due),
            every(_CROWDING_INTERVAL, self._look_at_crowds),
            every(settings.stats_log_frequency, self._log_stats),
        ]
        if self._survival is not None:
            self._timers.append(every(_TOUCH_INTERVAL, self._survival.touch))
        if settings.mem_log_frequency > 0:
            self._timers.append(every(settings.mem_log_frequency, self._log_memory))

    async def hand_over(self, timeout: float) -> None:
        """Bring every session to rest and write it down, so that others can go on with it."""
        if self._survival is None:
            return
        share = timeout * HAND_OVER_SHARE / 3
        await self.store.close(share)  # what is still being made would be changed after all others are written down
        resting = [asyncio.ensure_future(session.held.freeze()) for session in self.store]
        if resting:
            _, busy = await asyncio.wait(resting, timeout=share)
            for session in busy:
                session.cancel()
        await self._survival.flush(share)

    @property
    def keeps(self) -> bool:
        """Whether sessions can go on in another worker."""
        return self._survival is not None

    async def end(self, session: Session) -> None:
        """End one session, in the middle of app code if that does not let go of the document."""
        with suppress(TimeoutError):
            await asyncio.wait_for(session.held.freeze(), REST_TIME)
        try:
            await self.store.end(session, NORMAL_CLOSURE, "the session was ended")
        finally:
            session.held.thaw()

    async def move(self, session: Session, going: Callable[[], None]) -> bool:
        """Write one session down and give it up, for another worker to go on with.

        Args:
            session: one that is here.
            going: called once it is written down, before its viewers are told to come back.

        Returns:
            False if it is not to be had now; then it goes on here, and its viewers have not noticed.

        Raises:
            BusDown: Redis is away, with the same effect.
        """
        if self._survival is None:
            return False
        try:
            async with asyncio.timeout(REST_TIME):
                await session.held.freeze()
                written = await self._survival.write_down(session)
            if written:
                going()
                await self.store.hand_off(session, SERVICE_RESTART, "the session is moving")
            return written
        except TimeoutError:
            return False
        finally:
            session.held.thaw()

    async def stop(self, timeout: float) -> None:
        """Close every websocket with 1012, end every session with its hooks, run the unload hooks.

        Args:
            timeout: seconds after which hooks that still run are left behind.
        """
        for timer in self._timers:
            timer.cancel()
        self._timers = []
        await self.services.sockets.close_all(timeout * _CLOSE_SHARE)
        with suppress(TimeoutError):
            await asyncio.wait_for(self.store.discard_all(), timeout * (1 - _CLOSE_SHARE))
        self.unload()

    def unload(self) -> None:
        """Run the unload hooks, if the load hooks have run; harmless twice."""
        if self._loaded:
            self._loaded = False
            for host in self.hosts.values():
                host.unload()

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


def make_hosts(
    settings: Settings,
    applications: Mapping[str, Application],
    auth: AuthHooks,
    tokens: Tokens,
    tallies: Tallies | None,
) -> dict[str, AppHost]:
    """A host for each app, by route; from here on this process makes models our way."""
    ids.install()
    current.install()
    if settings.lean_models:
        lean.install()
    pulls = Pulls()
    return {
        url: AppHost(
            url,
            app,
            logout_url=_logout_url(settings, auth),
            issue_token=tokens.issue,
            pulls=pulls,
            tally=None if tallies is None else tallies.apps[url],
        )
        for url, app in applications.items()
    }


def _origins_of(settings: Settings) -> tuple[str, ...]:
    if settings.allow_websocket_origin is not None:
        return settings.allow_websocket_origin
    return (f"localhost:{settings.port}",)


def auth_of(settings: Settings) -> AuthHooks:
    """Who may see what, by the settings. Raises ConfigurationError."""
    if settings.auth_provider is not None:
        return AuthHooks.of(settings.auth_provider)
    if settings.auth_module is not None:
        return load_auth_module(settings.auth_module)
    return AuthHooks()


def _logout_url(settings: Settings, auth: AuthHooks) -> str | None:
    if auth.logout_url is None:
        return None
    return f"{settings.prefix}/{auth.logout_url.lstrip('/')}"
