"""A worker among others: what it claims, what it hears and says on the bus, and its heartbeat.

Every session is claimed in the registry before its app code runs. What belongs to another worker is reached through
that worker's inbox; what turns out to have been lost to another is dropped here, and its browsers are sent to it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from itertools import count
from typing import Protocol

from aperture import tracing
from aperture.bus.bus import Bus
from aperture.bus.calls import BackgroundTasks, Calls, listen
from aperture.errors import BusDown, CallFailed, OwnedElsewhere, OwnerGone, OwnerUnknown, TransferFailed
from aperture.log import short_id
from aperture.metrics import RelayTally, Tallies
from aperture.protocol.closing import SERVICE_RESTART
from aperture.registry.lease import LeaseKeeper
from aperture.registry.registry import LEAST_GRACE, Registry, WorkerName
from aperture.wire.envelopes import (
    Chunk,
    ChunkRequest,
    Envelope,
    FromClient,
    Hostile,
    Join,
    Joined,
    Leave,
    Refused,
    Render,
    Rendered,
    Reply,
)
from aperture.wire.session_key import session_key_of, session_key_parts
from aperture.worker.patch.inbound import receive
from aperture.worker.patch.viewer import Outbox
from aperture.worker.relay.audience import RemoteViewer, SessionAudience
from aperture.worker.relay.edge import EdgeSession, EdgeViewer
from aperture.worker.relay.remote_messages import Inbox
from aperture.worker.relay.transfers import CHUNK_BYTES, MAX_TRANSFER, Transfers
from aperture.worker.session.session import Session

__all__ = ["Cluster", "Neighbourhood"]

log = logging.getLogger(__name__)

CALL_TIME = 5.0
"""Seconds that an owner has to answer a Join or a Render, unless app code keeps it; then the browser tries again."""

SILENCE = 6.0
"""Seconds without a word from an owner, which speaks every two, before an edge asks the registry about it."""

ROLL_CALL = 15
"""Heartbeats between two times that an owner goes through its viewers elsewhere, so that the end of a connection that
it was not told of does not keep a session for ever. Half a minute: it takes a message for each of them."""


class Neighbourhood(Protocol):
    """What the cluster needs of the rest of the worker."""

    def find_session(self, app: str, session_id: str) -> Session | None: ...

    def sessions(self) -> list[Session]: ...

    async def drop_session(self, session: Session) -> None:
        """The session is another worker's: close its viewers and discard it, without a word to the registry."""
        ...

    def render(self, session: Session, kind: str, arguments: dict[str, str]) -> str:
        """The page, or the autoload script, of a session that is here."""
        ...

    async def announce(self, session_id: str) -> None:
        """Tell the gateway that requests for this session come here."""
        ...

    def retract(self, session_id: str) -> None:
        """Tell the gateway that they need not any more."""
        ...

    @property
    def max_message_size(self) -> int: ...


class KeptSessions(Protocol):
    """Knows what is kept of sessions that nobody has."""

    async def exists(self, app: str, session_id: str) -> bool:
        """Whether a session could be built again. Raises BusDown where that cannot be found out."""
        ...


class Cluster:
    """This worker's part in the cluster; also its `aperture.worker.session.placement.Placement`.

    Args:
        bus: not started yet.
        registry: on that bus, for this worker.
        neighbourhood: the rest of the worker.
        keeper: keeps the lease while app code keeps this worker's loop.
        kept: knows which sessions could be built again.
        tallies: count what goes to other workers and comes from them.
    """

    def __init__(
        self,
        bus: Bus,
        registry: Registry,
        neighbourhood: Neighbourhood,
        keeper: LeaseKeeper | None = None,
        kept: KeptSessions | None = None,
        tallies: Tallies | None = None,
    ) -> None:
        self._tallies = tallies
        self._relay_tally = RelayTally() if tallies is None else tallies.relay
        self._bus = bus
        self._registry = registry
        self._worker = neighbourhood
        self._keeper = keeper
        self._kept = kept
        self._withdrawn = False
        self._was_full = False
        self.hostile = Hostile()
        self.transfers = Transfers(registry.me, self.tell)
        self._inbox = Inbox(receive, self.fetch)
        self._edges: dict[str, EdgeSession] = {}
        self._entering: dict[str, asyncio.Lock] = {}
        self._calls = Calls[Rendered]()
        self._epochs: dict[str, int] = {}
        self._beats = count(1)
        self._trusted_at = 0.0
        """Until then Redis may have been emptied, and a worker without a lease is not dead for that."""
        self._settling: asyncio.Task[None] | None = None
        self._tasks = BackgroundTasks("work for the cluster failed")
        self._beating: asyncio.Task[None] | None = None

    # Life

    async def start(self, *, wait: bool) -> None:
        """Connect, listen, and begin the heartbeat.

        Raises:
            BusUnavailable: Redis cannot be reached, and `wait` is false.
        """
        await self._bus.start(wait=wait)
        # What a rolling upgrade across two versions of the wire means, where its operator looks.
        log.info(
            "bus: wire version %d, namespace %s; nodes of another wire version share no sessions with this one",
            self._bus.names.version,
            self._bus.names.namespace,
        )
        self._bus.on_resubscribed(self._on_resubscribed)
        self._bus.watch(self._on_bus_changed)
        if self._bus.up:
            try:
                await self._registry.bury_predecessors()
                await self._registry.renew({})
            except BusDown as problem:
                log.warning("not known to others yet: %s", problem)
        self._tasks.start(listen(self._bus, self._bus.names.inbox(self.me), self._on_letter))
        self._beating = asyncio.ensure_future(self._beat())
        if self._keeper is not None:
            self._keeper.start()

    async def withdraw(self) -> None:
        """Give all claims up at once; sessions and edges here end soon. Harmless twice."""
        if self._withdrawn:
            return
        self._withdrawn = True
        if self._beating is not None:
            self._beating.cancel()
        if self._keeper is not None:
            self._keeper.stop()
        try:
            async with asyncio.timeout(1.0):
                await self._registry.withdraw()
        except (BusDown, TimeoutError):
            log.warning("the bus is away: this worker's claims end with its lease")

    async def stop(self) -> None:
        """Leave the cluster."""
        await self.withdraw()
        for edge in list(self._edges.values()):
            edge.close_all(SERVICE_RESTART, "restarting")
        self._calls.close()
        await self._bus.close()

    @property
    def up(self) -> bool:
        return self._bus.up

    @property
    def full(self) -> bool:
        """Whether Redis is there, and has no memory for new sessions."""
        return self._registry.full

    def edge_connections(self) -> Counter[str]:
        """Connections here of sessions elsewhere, by app."""
        counted: Counter[str] = Counter()
        for edge in self._edges.values():
            counted[session_key_parts(edge.session_key)[0]] += len(edge.viewers)
        return counted

    @property
    def bus(self) -> Bus:
        return self._bus

    @property
    def me(self) -> str:
        return self._registry.me

    # Placement

    async def claim(self, app: str, session_id: str, *, fresh: bool) -> int:
        session_key = session_key_of(app, session_id)
        claim = await self._registry.claim(session_key, fresh=fresh)
        if not claim.mine:
            raise OwnedElsewhere(claim.owner)
        self._epochs[session_key] = claim.epoch
        await self._worker.announce(session_id)
        return claim.epoch

    def release(self, app: str, session_id: str, *, last: bool) -> None:
        session_key = session_key_of(app, session_id)
        epoch = self._epochs.pop(session_key, None)
        if epoch is not None:
            self._tasks.start(self._release(session_key, epoch))
        if last:
            self._worker.retract(session_id)

    def steady(self) -> bool:
        return self._settling is None and not self._registry.frozen

    async def settle(self) -> None:
        if self._settling is None:
            log.warning("this worker was stopped for longer than its lease; asking which sessions are still its own")
            self._settling = asyncio.ensure_future(self._ask_what_is_left())
        await asyncio.shield(self._settling)

    async def lives(self, app: str, session_id: str) -> bool:
        if await self._registry.owner_of(session_key_of(app, session_id)) is not None:
            return True
        return self._kept is not None and await self._kept.exists(app, session_id)

    # Edges

    async def enter(
        self, owner: str, app: str, session_id: str, outbox: Outbox, token: str, *, inline: bool
    ) -> EdgeViewer:
        """Make a connection here a viewer of a session elsewhere.

        Raises:
            OwnerGone: its owner does not answer; claim again.
        """
        await self._ensure_listens(owner)
        session_key = session_key_of(app, session_id)
        async with self._entering.setdefault(session_key, asyncio.Lock()):
            edge, first = self._edges.get(session_key), False
            if edge is not None and edge.owner != owner:
                edge.close_all()
                edge = None
                await asyncio.sleep(0)  # its subscription ends first
            if edge is None:
                try:
                    edge = await self._open_edge(session_key, owner)
                except BaseException:
                    self._entering.pop(session_key, None)
                    raise
                first = True
            size = self._worker.max_message_size
            viewer = EdgeViewer(edge, outbox, token, inline=inline, max_message_size=size)
            edge.enter(viewer)
        try:
            if first:
                await self._attract(session_key, owner)
            async with asyncio.timeout(CALL_TIME):
                await asyncio.shield(viewer.joined)
        except (TimeoutError, asyncio.CancelledError) as problem:
            refused = viewer.joined.cancelled()
            edge.leave(viewer)
            if isinstance(problem, asyncio.CancelledError) and not refused:
                raise  # it is the caller that was cancelled
            raise OwnerGone("the session's owner does not answer") from problem
        return viewer

    async def call(self, owner: str, app: str, session_id: str, kind: str, arguments: dict[str, str]) -> bytes:
        """Have the owner render a page.

        Raises:
            OwnerGone: it does not answer, or no longer has the session; claim again.
        """
        session_key = session_key_of(app, session_id)

        async def ask(number: int) -> int:
            return await self.send(owner, Render(session_key, self.me, number, kind, arguments, tracing.carrier()))

        try:
            rendered = await self._calls.call(ask, CALL_TIME)
        except CallFailed as problem:
            raise OwnerGone(f"the session's owner cannot render it: {problem}") from problem
        if not rendered.ok:
            raise OwnerGone(rendered.body.decode("utf-8", "replace"))
        if not rendered.transfer:
            body: bytes = rendered.body
            return body
        try:
            if not 0 < rendered.size <= MAX_TRANSFER:
                raise TransferFailed(f"{rendered.size} bytes are too many")
            return await self.fetch(owner, rendered.transfer, rendered.size)
        except TransferFailed as problem:
            raise OwnerGone(f"the page could not be fetched from the session's worker: {problem}") from problem

    # Post, for audiences and edges

    async def append(self, session_key: str, epoch: int, first: int, last: int, payload: bytes, notice: bytes) -> None:
        self._relay_tally.sent += 1
        await self._registry.append(session_key, epoch, first, last, payload, notice)

    def offer(self, content: bytes, ended: Callable[[], None] | None = None) -> str:
        return self.transfers.offer(content, ended)

    def withdraw_offer(self, transfer: str) -> None:
        self.transfers.withdraw(transfer)

    async def fetch(self, worker: str, transfer: str, size: int) -> bytes:
        return await self.transfers.fetch(worker, transfer, size)

    async def tell(self, worker: str, envelope: Envelope) -> None:
        self._relay_tally.sent += 1
        await self._bus.publish(self._bus.names.inbox(worker), envelope.pack())

    async def announce(self, session_key: str, envelope: Envelope) -> None:
        self._relay_tally.sent += 1
        await self._bus.publish(self._bus.names.channel(session_key), envelope.pack())

    async def send(self, worker: str, envelope: Envelope) -> int:
        self._relay_tally.sent += 1
        return await self._bus.publish(self._bus.names.inbox(worker), envelope.pack())

    async def read(self, session_key: str, after: int) -> list[bytes] | None:
        return await self._registry.read(session_key, after)

    # Inbox

    def _on_letter(self, payload: bytes) -> None:
        self._relay_tally.received += 1
        try:
            envelope = Envelope.unpack(payload)
        except ValueError as problem:
            self.hostile.count("an inbox", problem)
            return
        match envelope:
            case FromClient():
                self._on_message(envelope)
            case Reply() | Joined() | Refused():
                self._on_owners_word(envelope)
            case Join():
                self._on_join(envelope)
            case Leave():
                self._on_leave(envelope)
            case Render():
                self._on_render(envelope)
            case ChunkRequest():
                self._tasks.start(self.transfers.answer(envelope))
            case Chunk():
                self.transfers.take(envelope)
            case Rendered(call=call):
                self._calls.answer(call, envelope)
            case _:
                self.hostile.count("an inbox", ValueError(f"a {type(envelope).__name__} does not belong there"))

    def _on_join(self, join: Join) -> None:
        session = self._session_at(join.session_key)
        if session is None:
            self._refuse(join.session_key, join.edge, join.connection)
            return
        audience = self._audience_of(session, join.session_key)
        viewer = audience.find(join.edge, join.connection)
        if viewer is None:
            viewer = RemoteViewer(
                audience,
                join.edge,
                join.connection,
                join.token,
                inline=join.inline or session.is_return(join.token),
                max_message_size=self._worker.max_message_size,
            )
            audience.join(viewer)
        audience.welcome(viewer)

    def _on_leave(self, leave: Leave) -> None:
        session = self._session_at(leave.session_key)
        audience = session.fanout.audience if session is not None else None
        if isinstance(audience, SessionAudience) and (viewer := audience.find(leave.edge, leave.connection)):
            audience.leave(viewer, lost=leave.lost)

    def _on_message(self, letter: FromClient) -> None:
        session = self._session_at(letter.session_key)
        audience = session.fanout.audience if session is not None else None
        viewer = audience.find(letter.edge, letter.connection) if isinstance(audience, SessionAudience) else None
        if session is None or viewer is None or not isinstance(audience, SessionAudience):
            self._refuse(letter.session_key, letter.edge, letter.connection)
            return
        self._inbox.take(session, audience, viewer, letter)

    def _on_render(self, call: Render) -> None:
        session = self._session_at(call.session_key)
        if session is None:
            rendered = Rendered(call.call, False, b"the session is gone")
        else:
            try:
                session.touch()
                with tracing.relayed("render for another worker", call.trace):
                    page = self._worker.render(session, call.kind, call.arguments)
                rendered = self._rendered(call.call, page.encode())
            except Exception:
                log.exception("rendering session %s for another worker failed", short_id(session.id))
                rendered = Rendered(call.call, False, b"rendering failed")
        self._tasks.start(self._tell(call.edge, rendered))

    def _rendered(self, call: int, page: bytes) -> Rendered:
        if len(page) <= CHUNK_BYTES:
            return Rendered(call, True, page)
        return Rendered(call, True, b"", self.offer(page, lambda: None), len(page))

    def _on_owners_word(self, word: Reply | Joined | Refused) -> None:
        edge = self._edges.get(word.session_key)
        match word:
            case Joined() if edge is None:
                # The last of its connections has ended, and the owner has not heard of it.
                self._tasks.start(self._tell(word.owner, Leave(word.session_key, self.me, word.connection, lost=True)))
            case _ if edge is None:
                return
            case Reply():
                edge.take_reply(word)
            case Joined():
                edge.take_joined(word)
            case Refused(connection=connection, code=code, reason=reason):
                edge.refuse(connection, code, reason)

    def _refuse(self, session_key: str, edge: str, connection: str) -> None:
        self._tasks.start(
            self._tell(edge, Refused(session_key, connection, SERVICE_RESTART, "the session is not here"))
        )

    # Sessions here

    def _session_at(self, session_key: str) -> Session | None:
        return self._worker.find_session(*session_key_parts(session_key))

    def _audience_of(self, session: Session, session_key: str) -> SessionAudience:
        if not isinstance(session.fanout.audience, SessionAudience):
            lag = self._relay_tally.lag
            session.fanout.audience = SessionAudience(session, session_key, self, fenced=self.lose, lag=lag)
        return session.fanout.audience

    async def lose(self, session: Session) -> None:
        """Drop a session that another worker has claimed, and send its viewers there. Harmless twice."""
        if self._worker.find_session(session.app, session.id) is not session:
            return  # whoever publishes it and whoever writes it down find out one after the other
        log.warning("session %s of %s is another worker's by now", short_id(session.id), session.app)
        if isinstance(session.fanout.audience, SessionAudience):
            session.fanout.audience.abandon()
        session_key = session_key_of(session.app, session.id)
        if self._epochs.get(session_key) == session.fanout.epoch:
            del self._epochs[session_key]
        await self._worker.drop_session(session)

    # Heartbeat

    async def _beat(self) -> None:
        while True:
            try:
                # One that was stopped must not take itself for the owner while it is being told.
                await (self.settle() if self._registry.frozen else self._renew())
                await self._look_for_room()
                await self._look_after_audiences()
                await self._look_after_edges()
            except BusDown:
                log.debug("the bus is away; this heartbeat is left out")
            except Exception:
                log.exception("the heartbeat failed")
            await asyncio.sleep(self._registry.interval)

    async def _renew(self) -> None:
        asked = dict(self._epochs)
        for session_key in await self._registry.renew(asked):
            session = self._session_at(session_key)
            if session is not None and session.fanout.epoch == asked[session_key]:  # else it was claimed anew meanwhile
                await self.lose(session)

    async def _look_for_room(self) -> None:
        await self._registry.look_for_room()
        if self._registry.full != self._was_full:
            self._was_full = self._registry.full
            if self._was_full:
                log.warning("Redis is full (maxmemory): no new sessions here until it has room; those that live go on")
            else:
                log.info("Redis has room for new sessions again")

    async def _look_after_audiences(self) -> None:
        audiences = [session.fanout.audience for session in self._worker.sessions()]
        watched = [audience for audience in audiences if isinstance(audience, SessionAudience)]
        edges: set[str] = set().union(*(audience.edges() for audience in watched))
        dead = await self._dead(edges)
        roll_call = next(self._beats) % ROLL_CALL == 0
        for audience in watched:
            for edge in dead & audience.edges():
                audience.drop_edge(edge)
            if roll_call:
                audience.welcome_all()
            elif audience.connections:
                await audience.probe()

    async def _look_after_edges(self) -> None:
        now = asyncio.get_running_loop().time()
        dead = await self._dead({edge.owner for edge in self._edges.values()})
        for edge in list(self._edges.values()):
            if edge.owner in dead:
                edge.close_all(SERVICE_RESTART, "the session's worker is gone")
                continue
            edge.ask_about_unanswered()
            if now - edge.heard_at < SILENCE:
                continue
            try:
                claim = await self._registry.owner_of(edge.session_key)
            except OwnerUnknown:
                continue  # the owner may be about to come back to Redis
            if claim is None or claim.owner != edge.owner or claim.epoch != (edge.epoch or claim.epoch):
                edge.close_all(SERVICE_RESTART, "the session has moved")
            else:
                edge.resynchronise()

    async def _ask_what_is_left(self) -> None:
        try:
            while True:
                try:
                    await self._renew()
                    return
                except BusDown:
                    await asyncio.sleep(0.2)
        finally:
            self._settling = None

    # Inside

    async def _ensure_listens(self, owner: str) -> None:
        """Do not wait for one that is dead, though its lease may still run."""
        try:
            _, listeners = await self._bus.command("PUBSUB", "NUMSUB", self._bus.names.inbox(owner))
        except BusDown as problem:
            raise OwnerGone("the bus is away") from problem
        if not int(listeners):
            raise OwnerGone("the session's owner does not listen")

    async def _open_edge(self, session_key: str, owner: str) -> EdgeSession:
        edge = EdgeSession(
            session_key,
            owner,
            self,
            hostile=self.hostile,
            ended=self._close_edge,
            tally=None if self._tallies is None else self._tallies.apps.get(session_key_parts(session_key)[0]),
            relay_tally=self._relay_tally,
        )
        try:
            await self._bus.subscribe(self._bus.names.channel(session_key), edge.deliver)
        except (BusDown, ValueError) as problem:
            raise OwnerGone("the bus is away") from problem
        self._edges[session_key] = edge
        return edge

    async def _attract(self, session_key: str, owner: str) -> None:
        """The owner is on another node: on this one, further requests for the session had better come here."""
        if WorkerName.parse(owner).node != WorkerName.parse(self.me).node:
            await self._worker.announce(session_key_parts(session_key)[1])

    def _close_edge(self, edge: EdgeSession) -> None:
        if self._edges.get(edge.session_key) is not edge:
            return
        del self._edges[edge.session_key]
        self._entering.pop(edge.session_key, None)
        self._tasks.start(self._bus.unsubscribe(self._bus.names.channel(edge.session_key)))
        session_id = session_key_parts(edge.session_key)[1]
        if self._session_at(edge.session_key) is None:
            self._worker.retract(session_id)

    async def _dead(self, workers: set[str]) -> set[str]:
        dead = workers - await self._registry.living(workers)
        return dead if asyncio.get_running_loop().time() >= self._trusted_at else set()

    def _on_resubscribed(self) -> None:
        self._trusted_at = asyncio.get_running_loop().time() + LEAST_GRACE + self._registry.interval
        for edge in list(self._edges.values()):
            edge.bus_is_back()
        for session in self._worker.sessions():
            if isinstance(session.fanout.audience, SessionAudience):
                session.fanout.audience.welcome_all()

    def _on_bus_changed(self, up: bool) -> None:
        if self._withdrawn:
            return  # closed by ourselves
        log.log(logging.INFO if up else logging.WARNING, "the bus is %s", "back" if up else "away")
        if up:
            self._tasks.start(self.settle() if self._registry.frozen else self._renew())

    async def _release(self, session_key: str, epoch: int) -> None:
        try:
            await self._registry.release(session_key, epoch)
        except BusDown:
            log.debug("a claim could not be released and ends with the lease")

    async def _tell(self, worker: str, envelope: Envelope) -> None:
        try:
            await self.tell(worker, envelope)
        except BusDown:
            log.debug("an answer to another worker is lost with the bus")
