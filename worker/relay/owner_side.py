"""The owners' side of a worker: takes what edges send, and renders pages for them.

An edge is a worker with connections of a session of this one. Each session that has any has an audience; a session
that nobody watches from elsewhere has none.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from itertools import count
from weakref import WeakValueDictionary

from aperture import tracing
from aperture.log import short_id
from aperture.protocol.closing import SERVICE_RESTART
from aperture.wire.envelopes import FromClient, Join, Leave, Refused, Render, Rendered
from aperture.wire.session_key import session_key_of, session_key_parts
from aperture.worker.patch.inbound import receive
from aperture.worker.relay.audience import RemoteViewer, SessionAudience
from aperture.worker.relay.claims import Claims
from aperture.worker.relay.relay_bus import RelayBus
from aperture.worker.relay.remote_messages import Inbox, Receive
from aperture.worker.relay.transfers import CHUNK_BYTES
from aperture.worker.session.session import Session
from aperture.worker.session.store import SessionStore

__all__ = ["OwnerSide", "RenderPage"]

log = logging.getLogger(__name__)

ROLL_CALL = 15
"""Heartbeats between two times that an owner goes through its viewers elsewhere, so that the end of a connection that
it was not told of does not keep a session for ever. Half a minute: it takes a message for each of them."""

RenderPage = Callable[[Session, str, dict[str, str]], str]
"""The page, or the autoload script, of a session that is here."""


class OwnerSide:
    """The sessions here, as other workers see them.

    Args:
        bus: the way to the other workers.
        claims: of this worker.
        store: the sessions.
        render: makes pages of them.
        max_message_size: of what a viewer sends, in bytes.
        act: acts on a viewer's message.
    """

    def __init__(
        self,
        bus: RelayBus,
        claims: Claims,
        store: SessionStore,
        render: RenderPage,
        *,
        max_message_size: int,
        act: Receive = receive,
    ) -> None:
        self._bus = bus
        self._claims = claims
        self._store = store
        self._render = render
        self._max_message_size = max_message_size
        self._inbox = Inbox(act, bus.fetch)
        # Held by their sessions: an audience must not outlive its session, nor keep it alive.
        self._audiences: WeakValueDictionary[str, SessionAudience] = WeakValueDictionary()
        self._beats = count(1)
        claims.on_lost(self._on_lost)

    @property
    def idle(self) -> bool:
        """Whether no message of an edge is under way."""
        return self._inbox.idle

    # From edges

    def join(self, join: Join) -> None:
        """A connection has come to an edge; said again, it changes nothing."""
        session = self._store.at(*session_key_parts(join.session_key))
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
                max_message_size=self._max_message_size,
            )
            audience.join(viewer)
        audience.welcome(viewer)

    def leave(self, leave: Leave) -> None:
        """A connection of an edge has ended."""
        audience = self._audience_at(leave.session_key)
        if audience is not None and (viewer := audience.find(leave.edge, leave.connection)):
            audience.leave(viewer, lost=leave.lost)

    def take(self, message: FromClient) -> None:
        """A viewer elsewhere has sent something."""
        session = self._store.at(*session_key_parts(message.session_key))
        audience = self._audience_at(message.session_key)
        viewer = None if audience is None else audience.find(message.edge, message.connection)
        if session is None or audience is None or viewer is None:
            self._refuse(message.session_key, message.edge, message.connection)
        else:
            self._inbox.take(session, audience, viewer, message)

    def render(self, call: Render) -> None:
        """Another worker wants a page of a session that is here."""
        session = self._store.at(*session_key_parts(call.session_key))
        if session is None:
            rendered = Rendered(call.call, False, b"the session is gone")
        else:
            try:
                session.touch()
                with tracing.relayed("render for another worker", call.trace):
                    page = self._render(session, call.kind, call.arguments)
                rendered = self._rendered(call.call, page.encode())
            except Exception:
                log.exception("rendering session %s for another worker failed", short_id(session.id))
                rendered = Rendered(call.call, False, b"rendering failed")
        self._bus.tell_soon(call.edge, rendered)

    def _rendered(self, call: int, page: bytes) -> Rendered:
        if len(page) <= CHUNK_BYTES:
            return Rendered(call, True, page)
        return Rendered(call, True, b"", self._bus.offer(page, lambda: None), len(page))

    def _refuse(self, session_key: str, edge: str, connection: str) -> None:
        self._bus.tell_soon(edge, Refused(session_key, connection, SERVICE_RESTART, "the session is not here"))

    # Audiences

    def _audience_at(self, session_key: str) -> SessionAudience | None:
        """The audience of the session that has this key now; one before it may have had another."""
        session, audience = self._store.at(*session_key_parts(session_key)), self._audiences.get(session_key)
        return audience if session is not None and session.fanout.audience is audience else None

    def _audience_of(self, session: Session, session_key: str) -> SessionAudience:
        audience = self._audience_at(session_key)
        if audience is None:
            lag = self._bus.tally.lag
            audience = SessionAudience(session, session_key, self._bus, fenced=self.lose, lag=lag)
            session.fanout.audience = self._audiences[session_key] = audience
        return audience

    async def lose(self, session: Session) -> None:
        """Drop a session that another worker has claimed, and send its viewers there. Idempotent."""
        if self._store.at(session.app, session.id) is not session:
            return  # the audience and the journal find out one after the other
        log.warning("session %s of %s is another worker's by now", short_id(session.id), session.app)
        audience = self._audience_at(session_key_of(session.app, session.id))
        if audience is not None:
            audience.abandon()
        self._claims.forget(session)
        await self._store.drop(session, SERVICE_RESTART, "the session has moved")

    async def _on_lost(self, session_key: str, epoch: int) -> None:
        session = self._store.at(*session_key_parts(session_key))
        if session is not None and session.fanout.epoch == epoch:  # else it was claimed anew meanwhile
            await self.lose(session)

    # Heartbeat

    def edges(self) -> set[str]:
        """The workers with viewers of sessions here."""
        return set().union(*(audience.edges() for audience in self._watched()))

    async def look_after(self, dead: set[str]) -> None:
        """Drop the viewers of dead workers; send the others the newest sequence number, and call the roll at times."""
        roll_call = next(self._beats) % ROLL_CALL == 0
        for audience in self._watched():
            for edge in dead & audience.edges():
                audience.drop_edge(edge)
            if roll_call:
                audience.welcome_all()
            elif audience.connections:
                await audience.probe()

    def bus_is_back(self) -> None:
        """What was published meanwhile may be lost: say to all edges where their sessions are."""
        for audience in self._watched():
            audience.welcome_all()

    def _watched(self) -> list[SessionAudience]:
        found = (self._audience_at(session_key_of(session.app, session.id)) for session in self._store)
        return [audience for audience in found if audience is not None]
