"""The edge's side of the relay: connections that are here, of sessions that other workers own."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Mapping

from aperture import tracing
from aperture.bus.calls import Calls
from aperture.errors import BusDown, CallFailed, NotTheirs, OwnerGone, OwnerUnknown, TransferFailed
from aperture.metrics import AppTally, RelayTally
from aperture.registry.members import WorkerName
from aperture.registry.registry import Registry
from aperture.wire.envelopes import Envelope, Hostile, Joined, Leave, Refused, Render, Rendered, Reply
from aperture.wire.session_key import session_key_parts
from aperture.worker.patch.viewer import Outbox
from aperture.worker.relay.edge import MOVED, EdgeSession
from aperture.worker.relay.edge_viewer import EdgeViewer
from aperture.worker.relay.post import Post
from aperture.worker.relay.transfers import MAX_TRANSFER
from aperture.worker.session.arrival import Arrival
from aperture.worker.session.placement import Gateway
from aperture.worker.session.store import SessionStore

__all__ = ["EdgeSide"]

log = logging.getLogger(__name__)

CALL_TIME = 5.0
"""Seconds that an owner has to answer a Join or a Render, unless app code keeps it; then the browser tries again."""

SILENCE = 6.0
"""Seconds without a message from an owner, which sends one every two, before an edge asks the registry about it."""


class EdgeSide:
    """The way to sessions of other workers; an `aperture.worker.session_access.Elsewhere`.

    Args:
        post: the way to the owners.
        registry: for this worker.
        gateway: of this node.
        store: the sessions that are here.
        max_message_size: in bytes, of what a viewer may send.
        tallies: of the apps, by route.
        relay_tally: counts what is lost and repaired.
        hostile: counts what is published on a session's channel and is no patch.
        acknowledged: whether the answer to a patch says that its changes will not be lost.
    """

    def __init__(
        self,
        post: Post,
        registry: Registry,
        gateway: Gateway,
        store: SessionStore,
        *,
        max_message_size: int,
        tallies: Mapping[str, AppTally],
        relay_tally: RelayTally,
        hostile: Hostile,
        acknowledged: bool = False,
    ) -> None:
        self._post = post
        self._registry = registry
        self._gateway = gateway
        self._store = store
        self._max_message_size = max_message_size
        self._tallies = tallies
        self._relay_tally = relay_tally
        self._hostile = hostile
        self._acknowledged = acknowledged
        self._edges: dict[str, EdgeSession] = {}
        # By the session's key: made with its first viewer here, gone with its edge.
        self._entering: dict[str, asyncio.Lock] = {}
        self._calls = Calls[Rendered]()

    @property
    def idle(self) -> bool:
        """Whether there is no connection here of a session elsewhere, and no page of one is waited for."""
        return not self._edges and not self._entering and not self._calls.in_flight

    def connections(self) -> Counter[str]:
        """Connections here of sessions elsewhere, by app."""
        counted: Counter[str] = Counter()
        for edge in self._edges.values():
            counted[session_key_parts(edge.session_key)[0]] += len(edge.viewers)
        return counted

    # Elsewhere

    async def enter(self, owner: str, arrival: Arrival, outbox: Outbox) -> EdgeViewer:
        """Make a connection here a viewer of a session elsewhere.

        Raises:
            OwnerGone: its owner does not answer; claim again.
        """
        # Before a subscription and a Join: a dead owner whose lease still runs would cost each page `CALL_TIME`.
        await self._ensure_listens(owner)
        session_key = arrival.session_key
        # One subscription for all connections of a session, however many come at once.
        async with self._entering.setdefault(session_key, asyncio.Lock()):
            edge, first = await self._edge_to(session_key, owner)
            viewer = EdgeViewer(
                edge,
                outbox,
                arrival.token,
                from_browser=arrival.from_browser,
                max_message_size=self._max_message_size,
                acknowledged=self._acknowledged,
            )
            edge.enter(viewer)
        try:
            # After the Join: while the gateway takes note, the owner answers.
            if first:
                await self._attract(arrival.session_id, owner)
            async with asyncio.timeout(CALL_TIME):
                # Shielded: a timeout must not look like a refusal, which cancels that future.
                await asyncio.shield(viewer.joined)
        except (TimeoutError, asyncio.CancelledError) as problem:
            refused = viewer.joined.cancelled()
            # The Join may have arrived all the same: without a Leave the owner would count a viewer that does not
            # exist.
            edge.leave(viewer)
            if isinstance(problem, asyncio.CancelledError) and not refused:
                raise  # it is the caller that was cancelled
            # The caller claims again: if the owner is dead, the claim succeeds, and the session is rebuilt here.
            raise OwnerGone("the session's owner does not answer") from problem
        return viewer

    async def _edge_to(self, session_key: str, owner: str) -> tuple[EdgeSession, bool]:
        """The edge of a session, and whether it has just been opened. Only under the lock of the session's entries."""
        edge = self._edges.get(session_key)
        if edge is not None and edge.owner == owner:
            return edge, False
        if edge is not None:
            # The session has moved, and the registry knew it before this worker's heartbeat did.
            edge.close_all(MOVED)
            await asyncio.sleep(0)  # its subscription ends first
        try:
            return await self._open_edge(session_key, owner), True
        except BaseException:
            self._entering.pop(session_key, None)
            raise

    async def render(self, owner: str, arrival: Arrival, kind: str, arguments: dict[str, str]) -> bytes:
        """Have the owner render a page.

        Raises:
            NotTheirs: it is another user's.
            OwnerGone: it does not answer, or no longer has the session; claim again.
        """
        session_key, me = arrival.session_key, self._post.me

        async def ask(call: int) -> int:
            request = Render(session_key, me, call, kind, arguments, arrival.user, tracing.carrier())
            return await self._post.send(owner, request)

        try:
            rendered = await self._calls.call(ask, CALL_TIME)
        except CallFailed as problem:
            raise OwnerGone(f"the session's owner cannot render it: {problem}") from problem
        if not rendered.theirs:
            raise NotTheirs(rendered.body.decode("utf-8", "replace"))
        # The session ended, or moved, while the call was under way.
        if not rendered.ok:
            raise OwnerGone(rendered.body.decode("utf-8", "replace"))
        return await self._body_of(rendered, owner)

    async def _body_of(self, rendered: Rendered, owner: str) -> bytes:
        if not rendered.transfer:
            return rendered.body
        try:
            # What the message says is not to be believed before memory is taken for it: anyone can publish.
            if not 0 < rendered.size <= MAX_TRANSFER:
                raise TransferFailed(f"{rendered.size} bytes are too many")
            return await self._post.fetch(owner, rendered.transfer, rendered.size)
        except TransferFailed as problem:
            raise OwnerGone(f"the page could not be fetched from the session's worker: {problem}") from problem

    # From owners

    def handle(self, message: Envelope) -> bool:
        """Act on a message of an owner. Returns False for any other."""
        match message:
            case Rendered(call=call):
                self._calls.answer(call, message)
            case Reply() | Joined() | Refused():
                self._on_session(message)
            case _:
                return False
        return True

    def _on_session(self, message: Reply | Joined | Refused) -> None:
        edge = self._edges.get(message.session_key)
        match message:
            case Joined() if edge is None:
                # The last of its connections has ended, and the Leave was lost.
                self._post.reply(
                    message.owner, Leave(message.session_key, self._post.me, message.connection, lost=True)
                )
            # Answers to connections that have ended meanwhile.
            case _ if edge is None:
                return
            case Reply():
                edge.take_reply(message)
            case Joined():
                edge.take_joined(message)
            case Refused(connection=connection, code=code, reason=reason):
                edge.refuse(connection, code, reason)

    # Heartbeat

    def owners(self) -> set[str]:
        """The workers whose sessions have connections here."""
        return {edge.owner for edge in self._edges.values()}

    async def look_after_edges(self, dead: frozenset[str]) -> None:
        """Close the edges whose session has moved or whose owner is dead, and ask again about what was lost.

        Raises:
            BusDown: the registry cannot be asked.
        """
        now = asyncio.get_running_loop().time()
        for edge in list(self._edges.values()):
            if edge.owner in dead:
                edge.close_all("the session's worker is gone")
                continue
            edge.ask_about_unanswered()
            # Only the silent are looked up: owners send a probe with each heartbeat, so that is an exception.
            if now - edge.heard_at >= SILENCE:
                await self._check(edge)

    async def _check(self, edge: EdgeSession) -> None:
        try:
            claim = await self._registry.owner_of(edge.session_key)
        except OwnerUnknown:
            return  # the owner may be about to come back to Redis
        # Before the first answer to a Join there is no epoch to compare.
        if claim is None or claim.owner != edge.owner or claim.epoch != (edge.epoch or claim.epoch):
            edge.close_all(MOVED)
        else:
            edge.resynchronise()

    def on_bus_back(self) -> None:
        """Messages may be lost: read what is missing from Redis."""
        for edge in list(self._edges.values()):
            edge.bus_is_back()

    def close_all(self, reason: str) -> None:
        """Close every connection of a session elsewhere, and wait for no page of one any more."""
        self._calls.close()
        for edge in list(self._edges.values()):
            edge.close_all(reason)

    # Edges

    async def _ensure_listens(self, owner: str) -> None:
        try:
            listens = await self._post.listens(owner)
        except BusDown as problem:
            raise OwnerGone("the bus is down") from problem
        if not listens:
            raise OwnerGone("the session's owner does not listen")

    async def _open_edge(self, session_key: str, owner: str) -> EdgeSession:
        edge = EdgeSession(
            session_key,
            owner,
            self._post,
            hostile=self._hostile,
            ended=self._close_edge,
            tally=self._tallies.get(session_key_parts(session_key)[0]),
            relay_tally=self._relay_tally,
        )
        try:
            await self._post.follow(session_key, edge.deliver)
        # ValueError: the subscription of an edge that was closed just now has not ended yet.
        except (BusDown, ValueError) as problem:
            raise OwnerGone("the bus is down") from problem
        # Only with the subscription confirmed: else patches after the Join's answer could be published to no one here.
        self._edges[session_key] = edge
        return edge

    async def _attract(self, session_id: str, owner: str) -> None:
        """Have further requests for a session of another node sent to this worker, which has a subscription to it."""
        # The gateway of the owner's own node knows the owner: requests there need no relay.
        if WorkerName.parse(owner).node != WorkerName.parse(self._post.me).node:
            await self._gateway.announce(session_id)

    def _close_edge(self, edge: EdgeSession) -> None:
        # A later edge of the same session may stand there by now.
        if self._edges.get(edge.session_key) is not edge:
            return
        del self._edges[edge.session_key]
        self._entering.pop(edge.session_key, None)
        self._post.unfollow(edge.session_key)
        # The session may have moved here meanwhile: then requests must go on coming.
        if self._store.find_by_key(edge.session_key) is None:
            self._gateway.retract(session_key_parts(edge.session_key)[1])
