"""The edges' side of a worker: its connections of sessions that other workers own."""

from __future__ import annotations

import asyncio
from collections import Counter

from aperture import tracing
from aperture.bus.calls import Calls
from aperture.errors import BusDown, CallFailed, OwnerGone, OwnerUnknown, TransferFailed
from aperture.metrics import Tallies
from aperture.protocol.closing import SERVICE_RESTART
from aperture.registry.registry import WorkerName
from aperture.wire.envelopes import Joined, Leave, Refused, Render, Rendered, Reply
from aperture.wire.session_key import session_key_of, session_key_parts
from aperture.worker.patch.viewer import Outbox
from aperture.worker.relay.claims import Claims
from aperture.worker.relay.edge import EdgeSession, EdgeViewer
from aperture.worker.relay.relay_bus import RelayBus
from aperture.worker.relay.transfers import MAX_TRANSFER
from aperture.worker.session.store import SessionStore

__all__ = ["EdgeSide"]

CALL_TIME = 5.0
"""Seconds that an owner has to answer a Join or a Render, unless app code keeps it; then the browser tries again."""

SILENCE = 6.0
"""Seconds without a word from an owner, which speaks every two, before an edge asks the registry about it."""


class EdgeSide:
    """The way to sessions of other workers: an `aperture.worker.session_access.Elsewhere`.

    Args:
        bus: the way to the other workers.
        claims: of this worker.
        store: the sessions that are here.
        tallies: count what edges do, by app; None where nothing is measured.
        max_message_size: of what a viewer sends, in bytes.
    """

    def __init__(
        self, bus: RelayBus, claims: Claims, store: SessionStore, tallies: Tallies | None, *, max_message_size: int
    ) -> None:
        self._bus = bus
        self._claims = claims
        self._store = store
        self._tallies = tallies
        self._max_message_size = max_message_size
        self._edges: dict[str, EdgeSession] = {}
        self._entering: dict[str, asyncio.Lock] = {}
        self._calls = Calls[Rendered]()

    @property
    def idle(self) -> bool:
        """Whether no connection is here and nothing is under way."""
        return not self._edges and not self._entering and not self._calls.in_flight

    def connections(self) -> Counter[str]:
        """Connections here of sessions elsewhere, by app."""
        counted: Counter[str] = Counter()
        for edge in self._edges.values():
            counted[session_key_parts(edge.session_key)[0]] += len(edge.viewers)
        return counted

    def close(self) -> None:
        """End every connection and every call."""
        for edge in list(self._edges.values()):
            edge.close_all(SERVICE_RESTART, "restarting")
        self._calls.close()

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
            size = self._max_message_size
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
            request = Render(session_key, self._bus.me, number, kind, arguments, tracing.carrier())
            return await self._bus.send(owner, request)

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
            return await self._bus.fetch(owner, rendered.transfer, rendered.size)
        except TransferFailed as problem:
            raise OwnerGone(f"the page could not be fetched from the session's worker: {problem}") from problem

    # From owners

    def rendered(self, rendered: Rendered) -> None:
        """An owner has rendered a page, or refused to."""
        self._calls.answer(rendered.call, rendered)

    def take(self, word: Reply | Joined | Refused) -> None:
        """An owner says something to a connection here."""
        edge = self._edges.get(word.session_key)
        match word:
            case Joined() if edge is None:
                # The last of its connections has ended, and the owner has not heard of it.
                self._bus.tell_soon(word.owner, Leave(word.session_key, self._bus.me, word.connection, lost=True))
            case _ if edge is None:
                return
            case Reply():
                edge.take_reply(word)
            case Joined():
                edge.take_joined(word)
            case Refused(connection=connection, code=code, reason=reason):
                edge.refuse(connection, code, reason)

    # Heartbeat

    def owners(self) -> set[str]:
        """The workers that own the sessions that are watched here."""
        return {edge.owner for edge in self._edges.values()}

    async def look_after(self, dead: set[str]) -> None:
        """Close the connections of dead owners, and ask about sessions whose owner is silent."""
        now = asyncio.get_running_loop().time()
        for edge in list(self._edges.values()):
            if edge.owner in dead:
                edge.close_all(SERVICE_RESTART, "the session's worker is gone")
                continue
            edge.ask_about_unanswered()
            if now - edge.heard_at < SILENCE:
                continue
            try:
                claim = await self._claims.registry.owner_of(edge.session_key)
            except OwnerUnknown:
                continue  # the owner may be about to come back to Redis
            if claim is None or claim.owner != edge.owner or claim.epoch != (edge.epoch or claim.epoch):
                edge.close_all(SERVICE_RESTART, "the session has moved")
            else:
                edge.resynchronise()

    def bus_is_back(self) -> None:
        """What was published meanwhile may be lost."""
        for edge in list(self._edges.values()):
            edge.bus_is_back()

    # Inside

    async def _ensure_listens(self, owner: str) -> None:
        """Do not wait for one that is dead, though its lease may still run."""
        try:
            _, listeners = await self._bus.bus.command("PUBSUB", "NUMSUB", self._bus.bus.names.inbox(owner))
        except BusDown as problem:
            raise OwnerGone("the bus is away") from problem
        if not int(listeners):
            raise OwnerGone("the session's owner does not listen")

    async def _open_edge(self, session_key: str, owner: str) -> EdgeSession:
        edge = EdgeSession(
            session_key,
            owner,
            self._bus,
            hostile=self._bus.hostile,
            ended=self._close_edge,
            tally=None if self._tallies is None else self._tallies.apps.get(session_key_parts(session_key)[0]),
            relay_tally=self._bus.tally,
        )
        try:
            await self._bus.bus.subscribe(self._bus.bus.names.channel(session_key), edge.deliver)
        except (BusDown, ValueError) as problem:
            raise OwnerGone("the bus is away") from problem
        self._edges[session_key] = edge
        return edge

    async def _attract(self, session_key: str, owner: str) -> None:
        """The owner is on another node: on this one, further requests for the session had better come here."""
        if WorkerName.parse(owner).node != WorkerName.parse(self._bus.me).node:
            await self._claims.gateway.announce(session_key_parts(session_key)[1])

    def _close_edge(self, edge: EdgeSession) -> None:
        if self._edges.get(edge.session_key) is not edge:
            return
        del self._edges[edge.session_key]
        self._entering.pop(edge.session_key, None)
        self._bus.tasks.start(self._bus.bus.unsubscribe(self._bus.bus.names.channel(edge.session_key)))
        session_id = session_key_parts(edge.session_key)[1]
        if self._store.at(*session_key_parts(edge.session_key)) is None:
            self._claims.gateway.retract(session_id)
