"""The sessions of a worker: found, created once, and discarded when unused."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

from aperture import tracing
from aperture.errors import BusDown, NotTheirs, PageRefused, SessionGone, StateMismatch
from aperture.log_scope import SessionScope, session_scope, short_id
from aperture.protocol.closing import SERVICE_RESTART
from aperture.wire.accounts import SessionRow
from aperture.wire.session_key import session_key_parts
from aperture.worker.collector import GarbageCollector
from aperture.worker.document.snapshot import fingerprint
from aperture.worker.document.teardown import take_apart
from aperture.worker.session.arrival import Arrival
from aperture.worker.session.durability import NoRecovery, Recoverable, Recovery
from aperture.worker.session.early import Making, app_failed
from aperture.worker.session.host import AppHost, Origin, Prepared
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


class Ahead(Protocol):
    """What has been made ahead of sessions; `aperture.worker.session.warm.WarmSessions`."""

    async def take(self, session_id: str, origin: Origin) -> Prepared | None:
        """What was made under this id, from now on for this request; None for an id that nothing was made under.

        What is being made under it is waited for.
        """
        ...


class _NothingAhead:
    """Each session is made when it is asked for."""

    async def take(self, session_id: str, origin: Origin) -> Prepared | None:
        return None


NOTHING_AHEAD = _NothingAhead()


class SessionStore:
    """Every session of this worker. Also the `aperture.worker.session.placement.Fence` of each.

    Args:
        hosts: the apps by route.
        placement: claims each session before its app code runs, and releases it at its end.
        collector: notified of each session that ends.
        unused_lifetime: seconds that a session without connections is kept.
        recovery: stores sessions that are to outlive this worker.
        warm: what has been made ahead.
    """

    def __init__(
        self,
        hosts: Mapping[str, AppHost],
        placement: Placement,
        collector: GarbageCollector,
        *,
        unused_lifetime: float,
        recovery: Recovery | None = None,
        warm: Ahead = NOTHING_AHEAD,
    ) -> None:
        self._hosts = hosts
        self._warm = warm
        self._placement = placement
        self._collector = collector
        self._unused_lifetime = unused_lifetime
        self._recovery = recovery or NoRecovery()
        # By app and id, as long as app code runs: a second request for the session waits for the first one's.
        self._creating: dict[tuple[str, str], tuple[Making, asyncio.Future[Session]]] = {}
        self._failed: dict[tuple[str, str], float] = {}
        """Sessions of early pages whose app failed, and when: still claimed, so that websockets learn it."""
        self._turns = Turns()
        self._settling: asyncio.Task[None] | None = None
        self._ending: dict[Session, asyncio.Task[None]] = {}
        """Sessions that are stopped while their app code is in a thread, until it has come back."""
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
            claimed == session_id for _, claimed in (*self._creating, *self._failed)
        )

    def ids(self) -> set[str]:
        """The ids of all sessions here, those being created among them."""
        return {session.id for session in self} | {claimed for _, claimed in (*self._creating, *self._failed)}

    def find(self, host: AppHost, session_id: str) -> Session | None:
        """The living session, or None; nothing is created."""
        return host.sessions_by_id.get(session_id)

    def find_by_key(self, session_key: str) -> Session | None:
        """The living session of this key, or None."""
        app, session_id = session_key_parts(session_key)
        host = self._hosts.get(app)
        return None if host is None else self.find(host, session_id)

    async def get_or_create(self, arrival: Arrival) -> Session:
        """The session, created first if need be. The app's code runs once, however many ask at the same time.

        Raises:
            SessionGone: the worker is shutting down.
            OwnedElsewhere: another worker has it.
            NotTheirs: it outlived its worker, and was another user's.
            BusDown: the registry cannot be asked which worker owns it.
            Exception: what the app's code raised; nothing is left of the attempt, and the next request tries again.
        """
        session = self.find(arrival.host, arrival.session_id)
        if session is not None:
            return session
        making, creating = self._attempt(arrival)
        # A request waits for the session itself: a page that was sent before it has loaded its scripts by now.
        making.go()
        # One caller that goes away must not take the session from the others.
        return await asyncio.shield(creating)

    async def begin(self, arrival: Arrival) -> Session | Making:
        """As `get_or_create`, but a session that has to be made is not waited for: it is claimed, and is being made.

        The app's code begins at `Making.go`.

        Raises:
            Exception: as `get_or_create`, but for what the app's code raises.
        """
        session = self.find(arrival.host, arrival.session_id)
        if session is not None:
            return session
        making, _ = self._attempt(arrival)
        await asyncio.shield(making.claimed)
        return self.find(arrival.host, arrival.session_id) or making

    def making(self, session_key: str) -> Making | None:
        """The session of this key if it is being made here."""
        attempt = self._creating.get(session_key_parts(session_key))
        return None if attempt is None else attempt[0]

    def when_made(self, session_key: str, call: Callable[[], None]) -> bool:
        """Call this when a session that is being made here is there, or will not be. False if it is not being made."""
        attempt = self._creating.get(session_key_parts(session_key))
        if attempt is None:
            return False
        making, creating = attempt
        making.go()
        creating.add_done_callback(lambda done: call())
        return True

    def failed(self, session_key: str) -> bool:
        """Whether a page was sent for this session, and then its app failed."""
        return session_key_parts(session_key) in self._failed

    def forget_failure(self, app: str, session_id: str) -> None:
        """Let the session be made anew, here or elsewhere. Idempotent."""
        if self._failed.pop((app, session_id), None) is not None:
            self._release(app, session_id)

    def _attempt(self, arrival: Arrival) -> tuple[Making, asyncio.Future[Session]]:
        """The attempt to make this session, begun if there is none.

        Raises:
            PageRefused: the last one has failed, and this is the websocket of its page.
        """
        key = (arrival.app, arrival.session_id)
        attempt = self._creating.get(key)
        if attempt is None:
            if arrival.token and key in self._failed:
                raise app_failed()
            self.forget_failure(*key)  # a page that is loaded again wants it tried again
            origin = arrival.origin()
            making = Making(origin.user, held=arrival.early)
            # A task of its own: the page that asked first may be closed while others wait for the same session.
            creating = asyncio.ensure_future(self._create(arrival, origin, making))
            making.follow(creating)
            attempt = self._creating[key] = making, creating
            creating.add_done_callback(lambda done: self._forget_attempt(key, done))
        return attempt

    async def discard_unused(self) -> None:
        """Discard the sessions that have been unused for their lifetime, one after the other."""
        # A copy, as each `await` may end sessions; and one after the other, as taking a document apart costs
        # milliseconds.
        for session in list(self):
            if self._is_unused(session):
                await self._discard(session)
        before = time.monotonic() - self._unused_lifetime
        for key in [key for key, since in self._failed.items() if since < before]:
            self.forget_failure(*key)

    async def close(self, timeout: float | None = None) -> None:
        """Create no more sessions. Returns when those that are being created are there, or will not be.

        Args:
            timeout: seconds after which it returns all the same.
        """
        self._closed = True
        for making, _ in self._creating.values():
            making.go()  # to its end: no code begins any more
        if self._creating:
            # Not cancelled: app code that is cut off in the middle leaves what it has opened.
            await asyncio.wait([creating for _, creating in self._creating.values()], timeout=timeout)

    async def discard_all(self, timeout: float | None = None) -> None:
        """Discard every session, for the end of the worker. Nothing is taken apart: the process ends.

        Args:
            timeout: seconds that all of it may take, of which half may go into sessions that are still being made.

        Raises:
            TimeoutError: hooks, or app code that is in a thread, have not come to their end.
        """
        async with asyncio.timeout(timeout):
            await self.close(None if timeout is None else timeout / 2)
            await self._retire_all()

    async def _retire_all(self) -> None:
        for session in list(self):
            await self._retire(session)
        if self._ending:
            await asyncio.wait(self._ending.values())

    def note_unfinished(self) -> None:
        """Log the sessions whose app code has not come back from its thread; the worker ends without it."""
        for session in self._ending:
            log.warning(
                "app code of session %s of %s has not come back: its on_session_destroyed hooks are not run",
                short_id(session.id),
                session.app,
            )

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
            if self._failed.pop((lost.app, lost.session_id), None) is not None:
                self._placement.forget(lost.app, lost.session_id, lost.epoch)
            attempt = self._creating.get((lost.app, lost.session_id))
            if attempt is not None and attempt[0].epoch == lost.epoch:
                # `_release` must not touch the new owner's claim.
                self._placement.forget(lost.app, lost.session_id, lost.epoch)
                attempt[0].lost = True
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
        # In silence: the channel is the new owner's.
        session.fanout.audience.abandon()
        # `_release`, below, must not touch the new owner's claim.
        self._placement.forget(session.app, session.id, session.fanout.epoch)
        # Before the hooks, which are app code and may take long: these viewers look at a document that is not theirs
        # any more.
        _close_viewers(session, SERVICE_RESTART, "the session has moved")
        # Not `forget`: what is stored is the new owner's.
        self._recovery.drop(session)
        await self._retire(session)
        self._release(session.app, session.id)
        await self._take_apart(session)

    async def end(self, session: Session, code: int, reason: str) -> None:
        """End a session for good, also with viewers: their connections are closed, and stored state is deleted."""
        _close_viewers(session, code, reason)
        await self._discard(session)

    async def hand_off(self, session: Session, code: int, reason: str) -> None:
        """Give up a session that is frozen and stored; its viewers reconnect to the worker that rebuilds it."""
        # Written down by now; from here on the journal is the next owner's.
        self._recovery.drop(session)
        host = self._hosts[session.app]
        # Before the viewers are closed: one that comes back to this worker must not find a session that is going.
        if host.sessions_by_id.get(session.id) is session:
            del host.sessions_by_id[session.id]
        self._release(session.app, session.id)  # first: the viewers may come back at once, to another worker
        _close_viewers(session, code, reason)
        await self._retire(session)
        await self._take_apart(session)

    def describe(self) -> list[SessionRow]:
        """What `/sessions` shows of this worker."""
        return [
            SessionRow(
                id=session.id,
                app=session.app,
                epoch=session.fanout.epoch,
                connections=session.connection_count,
                edges=session.fanout.audience.workers,
                age_seconds=session.expiry.age,
            )
            for session in self
        ]

    async def _create(self, arrival: Arrival, origin: Origin, making: Making) -> Session:
        """Claim the session, load the state that another worker stored, make it, publish it."""
        if self._closed:
            raise SessionGone("the worker is shutting down")
        started = time.perf_counter()
        # Before any app code: with two workers claiming at once, it must run in one.
        epoch = making.epoch = await self._placement.claim(arrival.app, arrival.session_id, fresh=arrival.fresh)
        try:
            # Only behind the claim: the old owner may write until Redis knows of the higher epoch.
            stored = None if arrival.fresh else await self._recovery.find(arrival.app, arrival.session_id)
            # The id alone does not say who asks: with logins a stored session is its user's.
            if stored is not None and stored.origin.user != origin.user:
                raise NotTheirs("the session was another user's")
            # All that can refuse the request has been asked. A page may be sent from here on.
            if not making.claimed.done():
                making.claimed.set_result(None)
            await self._may_run(making)
            with session_scope(SessionScope(arrival.session_id, arrival.app)), tracing.span("session create"):
                session = None if stored is None else await self._remake(arrival, stored, epoch)
                if session is None:
                    session = await self._make(arrival, origin, epoch)
            self._judge_frames(arrival.host, making, session)
            # The last step: no request finds a session that is not claimed, restored and written down.
            arrival.host.publish(session)
        except BaseException as problem:
            # Before the release, which leaves the claim alone while the session is being created.
            self._creating.pop((arrival.app, arrival.session_id), None)
            if isinstance(problem, PageRefused):
                self._failed[arrival.app, arrival.session_id] = time.monotonic()
            else:
                self._release(arrival.app, arrival.session_id)
            self._collector.session_discarded()
            raise
        arrival.host.tally.create.observe(time.perf_counter() - started)
        return session

    async def _may_run(self, making: Making) -> None:
        """Return when the code of a session that is claimed may run.

        Raises:
            SessionGone: it must not any more.
        """
        await making.may_run()
        # One session per turn of the loop, or a hundred pages at once would keep all others waiting until the last is
        # made.
        await self._turns.take()
        if self._closed:  # since it was asked for: its changes would not be written down any more
            raise SessionGone("the worker is shutting down")
        # The code may have waited for its page, and this process may have been stopped, for longer than a lease.
        if not self.steady():
            await self.settle()
        if making.lost:
            raise SessionGone("another worker has claimed the session meanwhile")

    def _judge_frames(self, host: AppHost, making: Making, session: Session) -> None:
        """Have the pages that were sent before the session show it, or be loaded again."""
        for token, suits in making.frames:
            session.pages.note_issued(token)
            if not suits(session.document):
                session.pages.refuse(token)
                host.framing.learn(session.document)  # which says why, if it is the template
                host.framing.give_up("their sessions bring scripts of their own")

    async def _remake(self, arrival: Arrival, stored: Recoverable, epoch: int) -> Session | None:
        """Make a session from the state that another worker stored; None if that does not fit any more."""
        try:
            session = await self._make(arrival, stored.origin, epoch, stored)
        # The session starts afresh, under the same claim.
        except StateMismatch as problem:
            self._recovery.failed(arrival.app, arrival.session_id, problem)
            return None
        (self._recovery.remade if stored.remade else self._recovery.restored)(session)
        return session

    async def _make(self, arrival: Arrival, origin: Origin, epoch: int, stored: Recoverable | None = None) -> Session:
        """Run the app's code, lay the stored state over its document, and have the session written down from now on."""
        host, inherited = arrival.host, not arrival.fresh
        ahead = await self._warm.take(arrival.session_id, origin)
        prepared = ahead or await self._run_app(arrival, origin)
        session = host.finish(prepared, epoch=epoch, fence=self, user=origin.user, inherited=inherited)
        try:
            if self._recovery.enabled:
                made = prepared.made or fingerprint(session.document)
                if stored is not None:
                    await stored.restore(session)
                await self._recovery.watch(session, origin, made, again=stored is not None, lost=self.lose)
        except BaseException:
            # Whatever went wrong: hooks have run, callbacks may be scheduled, and the journal may have begun.
            await host.abandon(session)
            raise
        return session

    async def _run_app(self, arrival: Arrival, origin: Origin) -> Prepared:
        """Run the app's code. Where a page was sent before, that page says that the app has failed, and the log why.

        Raises:
            PageRefused: it has.
            Exception: as `AppHost.prepare`, of other pages.
        """
        host = arrival.host
        try:
            prepared = await host.prepare(arrival.session_id, origin)
        except StateMismatch:
            raise  # of another worker's values: it starts afresh
        except Exception as problem:
            if not arrival.early:
                raise
            log.exception("the app %s failed: session %s; its page says so", host.url, short_id(arrival.session_id))
            raise app_failed() from problem
        if arrival.early and prepared.failed:
            # Of a script Bokeh has logged the traceback, and would show what it had made until then.
            log.error("the app %s failed: session %s; its page says so", host.url, short_id(arrival.session_id))
            await host.abandon(host.finish(prepared))
            raise app_failed()
        return prepared

    async def _settle(self) -> None:
        try:
            while True:
                try:
                    await self.renew()
                    return
                except BusDown:
                    # Holds of all sessions wait meanwhile: what is not surely this worker's must not change.
                    await asyncio.sleep(SETTLE_PAUSE)
        finally:
            self._settling = None

    def _forget_attempt(self, key: tuple[str, str], done: asyncio.Future[Session]) -> None:
        # One that failed has gone already, and the next may have begun.
        attempt = self._creating.get(key)
        if attempt is not None and attempt[1] is done:
            del self._creating[key]

    def _is_unused(self, session: Session) -> bool:
        unused_for = session.expiry.unused_for
        unused = unused_for > self._unused_lifetime and session.expiry.since_lost > _LOST_LIFETIME
        long_enough = unused or session.expiration_requested
        used = session.connection_count > 0 or session.expiration_blocked or session.stays.busy
        return long_enough and not used

    async def _discard(self, session: Session) -> None:
        log.debug("discarding session %s of %s", short_id(session.id), session.app)
        await self._retire(session)
        # Before the claim is released: another worker that claims it must find nothing to rebuild.
        await self._recovery.forget(session)
        self._release(session.app, session.id)
        await self._take_apart(session)

    async def _retire(self, session: Session) -> None:
        """Stop a session and run its hooks: later, if its app code is in a thread, because they are of one document."""
        host = self._hosts[session.app]
        host.withdraw(session)
        if not session.stays.busy:
            await host.tell_destroyed(session)
        elif session not in self._ending:
            self._ending[session] = asyncio.ensure_future(self._end_later(host, session))

    async def _end_later(self, host: AppHost, session: Session) -> None:
        log.info("session %s of %s ends when its app code comes back", short_id(session.id), session.app)
        await session.stays.ended()
        await host.tell_destroyed(session)
        del self._ending[session]
        await self._take_apart(session)

    async def _take_apart(self, session: Session) -> None:
        if session in self._ending:
            return
        for _ in take_apart(session.document):
            # A document of thousands of models takes longer than any other session should wait.
            await asyncio.sleep(0)
        self._collector.session_discarded()

    def _release(self, app: str, session_id: str) -> None:
        # Two apps may use one session id; requests for it come here while either does.
        key = (app, session_id)
        again = key in self._creating or key in self._failed or session_id in self._hosts[app].sessions_by_id
        if not again:
            self._placement.release(app, session_id, last=not self.has(session_id))


def _close_viewers(session: Session, code: int, reason: str) -> None:
    for viewer in tuple(session.fanout.viewers):
        viewer.live = False
        viewer.outbox.close(code, reason)
