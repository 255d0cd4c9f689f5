"""The sessions of a worker: found, created once, and discarded when unused."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator, Mapping

from aperture import tracing
from aperture.errors import BusDown, NotTheirs, SessionGone, StateMismatch
from aperture.log_scope import SessionScope, session_scope, short_id
from aperture.protocol.closing import SERVICE_RESTART
from aperture.wire.node_messages import SessionInfo
from aperture.wire.session_key import session_key_parts
from aperture.worker.collector import GarbageCollector
from aperture.worker.document.snapshot import fingerprint
from aperture.worker.document.teardown import take_apart
from aperture.worker.session.durability import Keeper, KeptBefore, NoKeeper
from aperture.worker.session.host import AppHost, Origin
from aperture.worker.session.placement import Placement
from aperture.worker.session.session import Session
from aperture.worker.session.turns import Turns

__all__ = ["SessionStore"]

log = logging.getLogger(__name__)

_LOST_LIFETIME = 60.0
"""Seconds that a session is kept whose page was cut off: BokehJS tries for half a minute to come back, and a person may
press its button after that."""


SETTLE_PAUSE = 0.2
"""Seconds between two attempts to ask the registry, while Redis is down, which sessions are still this worker's."""


class SessionStore:
    """Every session of this worker. Also the `aperture.worker.session.placement.Fence` of each.

    Args:
        hosts: the apps by route.
        placement: claims each session before its app code runs, and releases it at its end.
        collector: notified of each session that ends.
        unused_lifetime: seconds that a session without connections is kept.
        keeper: keeps sessions beyond this worker's life, if they are to outlive it.
    """

    def __init__(
        self,
        hosts: Mapping[str, AppHost],
        placement: Placement,
        collector: GarbageCollector,
        *,
        unused_lifetime: float,
        keeper: Keeper | None = None,
    ) -> None:
        self._hosts = hosts
        self._placement = placement
        self._collector = collector
        self._unused_lifetime = unused_lifetime
        self._keeper = keeper or NoKeeper()
        self._creating: dict[tuple[str, str], asyncio.Future[Session]] = {}
        self._turns = Turns()
        self._settling: asyncio.Task[None] | None = None
        self._closed = False

    def __len__(self) -> int:
        return sum(len(host.sessions_by_id) for host in self._hosts.values())

    def __iter__(self) -> Iterator[Session]:
        for host in self._hosts.values():
            yield from host.sessions

    @property
    def connections(self) -> int:
        return sum(session.connection_count for session in self)

    def has(self, session_id: str) -> bool:
        """Whether any app's session of this id is here, or is being created."""
        return any(session_id in host.sessions_by_id for host in self._hosts.values()) or any(
            creating == session_id for _, creating in self._creating
        )

    def ids(self) -> set[str]:
        """The ids of all sessions here, those being created among them."""
        return {session.id for session in self} | {session_id for _, session_id in self._creating}

    def find(self, host: AppHost, session_id: str) -> Session | None:
        """The living session, or None; nothing is created."""
        return host.sessions_by_id.get(session_id)

    def find_by_key(self, session_key: str) -> Session | None:
        """The living session of this key, or None."""
        app, session_id = session_key_parts(session_key)
        host = self._hosts.get(app)
        return None if host is None else self.find(host, session_id)

    async def get_or_create(self, host: AppHost, session_id: str, origin: Origin, *, fresh: bool = False) -> Session:
        """The session, created first if need be. The app's code runs once, however many ask at the same time.

        Raises:
            SessionGone: the worker is shutting down.
            OwnedElsewhere: another worker has it.
            NotTheirs: it outlived its worker, and was another user's.
            BusDown: the registry cannot be asked which worker owns it.
            Exception: what the app's code raised; nothing is left of the attempt, and the next request tries again.
        """
        session = host.sessions_by_id.get(session_id)
        if session is not None:
            return session
        key = (host.url, session_id)
        creating = self._creating.get(key)
        if creating is None:
            # A task of its own: the page that asked first may be closed while others wait for the same session.
            creating = asyncio.ensure_future(self._create(host, session_id, origin, fresh))
            self._creating[key] = creating
            creating.add_done_callback(lambda done: self._forget_attempt(key, done))
        return await asyncio.shield(creating)

    async def discard_unused(self) -> None:
        """Discard the sessions that have been unused for their lifetime, one after the other."""
        for session in list(self):
            if self._is_unused(session):
                await self._discard(session)

    async def close(self, timeout: float | None = None) -> None:
        """Create no more sessions. Returns when those that are being created are there, or will not be.

        Args:
            timeout: seconds after which it returns all the same.
        """
        self._closed = True
        if self._creating:
            await asyncio.wait(list(self._creating.values()), timeout=timeout)

    async def discard_all(self) -> None:
        """Discard every session, for the end of the worker. Nothing is taken apart: the process ends."""
        await self.close()
        for session in list(self):
            await self._hosts[session.app].retire(session)

    # Fencing

    def steady(self) -> bool:
        """Whether the sessions are still this worker's, as far as it can know without asking."""
        return self._settling is None and self._placement.steady()

    async def settle(self) -> None:
        """Ask the registry; returns when every session that another worker has claimed is dropped."""
        if self._settling is None:
            log.warning("this worker was stopped for longer than its lease; asking which sessions are still its own")
            self._settling = asyncio.ensure_future(self._settle())
        # Many holds wait for the one answer; one that is cancelled must not take it from the others.
        await asyncio.shield(self._settling)

    async def renew(self) -> None:
        """Renew the claims of all sessions, and drop those that are lost.

        Raises:
            BusDown: the registry cannot be asked.
        """
        for lost in await self._placement.renew():
            session = self.find(self._hosts[lost.app], lost.session_id)
            if session is not None and session.fanout.epoch == lost.epoch:  # else it was claimed anew meanwhile
                await self.lose(session)

    async def lose(self, session: Session) -> None:
        """Drop a session that another worker has claimed, and send its viewers there. Idempotent."""
        if self._hosts[session.app].sessions_by_id.get(session.id) is not session:
            return  # the heartbeat, the relay and the journal each find it out by themselves
        log.warning(
            "session %s of %s is another worker's now; its viewers are sent there", short_id(session.id), session.app
        )
        session.fanout.audience.abandon()
        self._placement.forget(session.app, session.id, session.fanout.epoch)
        _close_viewers(session, SERVICE_RESTART, "the session has moved")
        self._keeper.drop(session)
        await self._hosts[session.app].retire(session)
        self._release(session.app, session.id)
        await self._take_apart(session)

    async def end(self, session: Session, code: int, reason: str) -> None:
        """End a session for good, also with viewers: their connections are closed, and stored state is deleted."""
        _close_viewers(session, code, reason)
        await self._discard(session)

    async def hand_off(self, session: Session, code: int, reason: str) -> None:
        """Give up a session that is frozen and stored; its viewers reconnect to the worker that rebuilds it."""
        self._keeper.drop(session)
        host = self._hosts[session.app]
        if host.sessions_by_id.get(session.id) is session:
            del host.sessions_by_id[session.id]
        self._release(session.app, session.id)  # first: the viewers may come back at once, to another worker
        _close_viewers(session, code, reason)
        await host.retire(session)
        await self._take_apart(session)

    def describe(self) -> list[SessionInfo]:
        """What `/sessions` shows of this worker."""
        return [
            SessionInfo(
                id=session.id,
                app=session.app,
                epoch=session.fanout.epoch,
                connections=session.connection_count,
                edges=session.fanout.audience.workers,
                age_seconds=session.age_seconds,
            )
            for session in self
        ]

    async def _create(self, host: AppHost, session_id: str, origin: Origin, fresh: bool) -> Session:
        """Claim the session, load what another worker kept of it, make it, publish it."""
        if self._closed:
            raise SessionGone("the worker is shutting down")
        started = time.perf_counter()
        epoch = await self._placement.claim(host.url, session_id, fresh=fresh)
        try:
            kept = None if fresh else await self._keeper.find(host.url, session_id)
            await self._turns.take()
            if self._closed:  # since it was asked for: its changes would not be written down any more
                raise SessionGone("the worker is shutting down")
            if kept is not None and kept.origin.user != origin.user:
                raise NotTheirs("the session was another user's")
            with session_scope(SessionScope(session_id, host.url)), tracing.span("session create"):
                session = None if kept is None else await self._remake(host, session_id, kept, epoch)
                if session is None:
                    session = await self._make(host, session_id, origin, epoch, inherited=not fresh)
            host.publish(session)
        except BaseException:
            self._creating.pop((host.url, session_id), None)
            self._release(host.url, session_id)
            self._collector.session_discarded()
            raise
        host.tally.create.observe(time.perf_counter() - started)
        return session

    async def _remake(self, host: AppHost, session_id: str, kept: KeptBefore, epoch: int) -> Session | None:
        """Make a session from what another worker kept of it; None if that does not fit any more."""
        try:
            session = await self._make(host, session_id, kept.origin, epoch, inherited=True, kept=kept)
        except StateMismatch as problem:
            self._keeper.failed(host.url, session_id, problem)
            return None
        (self._keeper.remade if kept.remade else self._keeper.restored)(session)
        return session

    async def _make(
        self,
        host: AppHost,
        session_id: str,
        origin: Origin,
        epoch: int,
        *,
        inherited: bool,
        kept: KeptBefore | None = None,
    ) -> Session:
        """Run the app's code, lay what was kept over its document, and have the session written down from now on."""
        session = await host.build(session_id, origin, epoch=epoch, fence=self, inherited=inherited)
        try:
            if self._keeper.keeps:
                made = fingerprint(session.document)
                if kept is not None:
                    await kept.restore(session)
                await self._keeper.watch(session, origin, made, again=kept is not None, lost=self.lose)
        except BaseException:
            await host.abandon(session)
            raise
        return session

    async def _settle(self) -> None:
        try:
            while True:
                try:
                    await self.renew()
                    return
                except BusDown:
                    await asyncio.sleep(SETTLE_PAUSE)
        finally:
            self._settling = None

    def _forget_attempt(self, key: tuple[str, str], done: asyncio.Future[Session]) -> None:
        # One that failed has gone already, and the next may have begun.
        if self._creating.get(key) is done:
            del self._creating[key]

    def _is_unused(self, session: Session) -> bool:
        unused_for = session.milliseconds_since_last_unsubscribe / 1000
        unused = unused_for > self._unused_lifetime and session.seconds_since_last_lost > _LOST_LIFETIME
        long_enough = unused or session.expiration_requested
        return session.connection_count == 0 and long_enough and not session.expiration_blocked

    async def _discard(self, session: Session) -> None:
        log.debug("discarding session %s of %s", short_id(session.id), session.app)
        await self._hosts[session.app].retire(session)
        await self._keeper.forget(session)
        self._release(session.app, session.id)
        await self._take_apart(session)

    async def _take_apart(self, session: Session) -> None:
        for _ in take_apart(session.document):
            await asyncio.sleep(0)
        self._collector.session_discarded()

    def _release(self, app: str, session_id: str) -> None:
        # Two apps may use one session id; requests for it come here while either does.
        again = (app, session_id) in self._creating or session_id in self._hosts[app].sessions_by_id
        if not again:
            self._placement.release(app, session_id, last=not self.has(session_id))


def _close_viewers(session: Session, code: int, reason: str) -> None:
    for viewer in tuple(session.fanout.viewers):
        viewer.live = False
        viewer.outbox.close(code, reason)
