"""The owner's side of the relay: sessions that are here, and their viewers in other workers."""

from __future__ import annotations

import logging
from collections.abc import Callable
from weakref import WeakKeyDictionary

from aperture import tracing
from aperture.log import short_id
from aperture.metrics import RelayTally
from aperture.protocol.closing import SERVICE_RESTART
from aperture.wire.envelopes import Envelope, FromClient, Join, Leave, Refused, Render, Rendered
from aperture.worker.relay.audience import RemoteViewer, SessionAudience
from aperture.worker.relay.post import Post
from aperture.worker.relay.remote_messages import Inbox, Receive
from aperture.worker.relay.transfers import CHUNK_BYTES
from aperture.worker.session.session import Session
from aperture.worker.session.store import SessionStore

__all__ = ["OwnerSide"]

log = logging.getLogger(__name__)

Renderer = Callable[[Session, str, dict[str, str]], str]
"""Makes the page, or the autoload script, of a session that is here: session, kind, arguments."""


class OwnerSide:
    """Answers what edges ask of this worker's sessions.

    Args:
        post: the way to the edges.
        store: the sessions.
        render: makes pages.
        receive: acts on a viewer's message, as `aperture.worker.patch.inbound.receive`.
        max_message_size: in bytes, of what a viewer may send.
        tally: takes how long patches wait until they are published.
    """

    def __init__(
        self,
        post: Post,
        store: SessionStore,
        render: Renderer,
        *,
        receive: Receive,
        max_message_size: int,
        tally: RelayTally,
    ) -> None:
        self._post = post
        self._store = store
        self._render = render
        self._max_message_size = max_message_size
        self._tally = tally
        self._inbox = Inbox(receive, post.fetch)
        # Weak: an audience ends with its session, and sessions end in many ways.
        self._audiences: WeakKeyDictionary[Session, SessionAudience] = WeakKeyDictionary()

    @property
    def idle(self) -> bool:
        """Whether no message of a viewer elsewhere is being acted on."""
        return self._inbox.idle

    def handle(self, message: Envelope) -> bool:
        """Act on a message of an edge. Returns False for any other."""
        match message:
            case FromClient():
                self._on_message(message)
            case Join():
                self._on_join(message)
            case Leave():
                self._on_leave(message)
            case Render():
                self._on_render(message)
            case _:
                return False
        return True

    def audiences(self) -> list[SessionAudience]:
        """Of the sessions that live and have, or had, viewers elsewhere."""
        found = (self._audiences.get(session) for session in self._store)
        return [audience for audience in found if audience is not None]

    async def look_after_audiences(self, dead: frozenset[str], *, roll_call: bool) -> None:
        """Drop the edges that are dead, and tell the others where their sessions are in the sequence.

        Args:
            dead: workers.
            roll_call: ask each edge about each of its viewers, too.

        Raises:
            BusDown: the edges cannot be told.
        """
        for audience in self.audiences():
            for edge in dead & audience.edges():
                audience.drop_edge(edge)
            if roll_call:
                audience.welcome_all()
            elif audience.connections:
                await audience.probe()

    def on_bus_back(self) -> None:
        """Messages may be lost: have every edge say what it is missing."""
        for audience in self.audiences():
            audience.welcome_all()

    def _on_join(self, join: Join) -> None:
        session = self._store.find_by_key(join.session_key)
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

    def _on_leave(self, leave: Leave) -> None:
        session = self._store.find_by_key(leave.session_key)
        audience = None if session is None else self._audiences.get(session)
        viewer = None if audience is None else audience.find(leave.edge, leave.connection)
        if audience is not None and viewer is not None:
            audience.leave(viewer, lost=leave.lost)

    def _on_message(self, message: FromClient) -> None:
        session = self._store.find_by_key(message.session_key)
        audience = None if session is None else self._audiences.get(session)
        viewer = None if audience is None else audience.find(message.edge, message.connection)
        if session is None or audience is None or viewer is None:
            self._refuse(message.session_key, message.edge, message.connection)
            return
        self._inbox.take(session, audience, viewer, message)

    def _on_render(self, call: Render) -> None:
        self._post.reply(call.edge, self._rendered(call))

    def _rendered(self, call: Render) -> Rendered:
        session = self._store.find_by_key(call.session_key)
        if session is None:
            return Rendered(call.call, False, b"the session is gone")
        try:
            session.touch()
            with tracing.relayed("render for another worker", call.trace):
                page = self._render(session, call.kind, call.arguments).encode()
        except Exception:
            log.exception("rendering session %s for another worker failed", short_id(session.id))
            return Rendered(call.call, False, b"rendering failed")
        if len(page) <= CHUNK_BYTES:
            return Rendered(call.call, True, page)
        # With an `ended`, an offer that is not fetched expires.
        return Rendered(call.call, True, b"", self._post.offer(page, lambda: None), len(page))

    def _audience_of(self, session: Session, session_key: str) -> SessionAudience:
        audience = self._audiences.get(session)
        if audience is None:
            audience = SessionAudience(session, session_key, self._post, fenced=self._store.lose, lag=self._tally.lag)
            self._audiences[session] = audience
            session.fanout.relay_to(audience)
        return audience

    def _refuse(self, session_key: str, edge: str, connection: str) -> None:
        self._post.reply(edge, Refused(session_key, connection, SERVICE_RESTART, "the session is not here"))
