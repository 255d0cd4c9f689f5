"""The owner's side of the relay: sessions that are here, and their viewers in other workers."""

from __future__ import annotations

import logging
from collections.abc import Callable
from weakref import WeakKeyDictionary

from aperture import tracing
from aperture.errors import NotTheirs, PageRefused
from aperture.log import short_id
from aperture.metrics import RelayTally
from aperture.protocol.closing import SERVICE_RESTART
from aperture.wire.envelopes import Envelope, FromClient, Join, Leave, Refused, Render, Rendered
from aperture.wire.session_key import session_key_parts
from aperture.worker.relay.audience import RemoteViewer, SessionAudience
from aperture.worker.relay.post import Post
from aperture.worker.relay.remote_messages import Inbox, Receive
from aperture.worker.relay.transfers import CHUNK_BYTES
from aperture.worker.session.early import Making, app_failed
from aperture.worker.session.session import Session
from aperture.worker.session.store import SessionStore

__all__ = ["OwnerSide"]

log = logging.getLogger(__name__)

Renderer = Callable[[Session, str, dict[str, str]], str | bytes]
"""Makes the page, the autoload script or another file of a session that is here: session, kind, arguments."""

EarlyRenderer = Callable[[Making, str, str, dict[str, str]], str | None]
"""The same of a session that is being made, named by its key; None if the request is not for an early page."""


class OwnerSide:
    """Answers what edges ask of this worker's sessions.

    Args:
        post: the way to the edges.
        store: the sessions.
        render: makes pages.
        render_early: makes pages of sessions that are being made.
        receive: acts on a viewer's message, as `aperture.worker.patch.inbound.receive`.
        max_message_size: in bytes, of what a viewer may send.
        tally: takes how long patches wait until they are published.
    """

    def __init__(
        self,
        post: Post,
        store: SessionStore,
        render: Renderer,
        render_early: EarlyRenderer = lambda making, session_key, kind, arguments: None,
        *,
        receive: Receive,
        max_message_size: int,
        tally: RelayTally,
    ) -> None:
        self._post = post
        self._store = store
        self._render = render
        self._render_early = render_early
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
        # By the store's sessions and not by the table's: a session that has ended may be in it until it is collected.
        found = (self._audiences.get(session) for session in self._store)
        return [audience for audience in found if audience is not None]

    async def look_after_audiences(self, dead: frozenset[str], *, roll_call: bool) -> None:
        """Drop the edges that are dead, and tell the others where their sessions are in the sequence.

        Args:
            dead: workers.
            roll_call: ask each edge about each of its viewers, too.

        Raises:
            BusDown: the edges cannot be reached.
        """
        for audience in self.audiences():
            for edge in dead & audience.edges():
                # Their Leaves will never come, and each of their viewers keeps its session from expiring.
                audience.drop_edge(edge)
            if roll_call:
                audience.welcome_all()
            # Not with the roll call: its answers carry the number, too.
            elif audience.connections:
                await audience.probe()

    def on_bus_back(self) -> None:
        """Messages may be lost: have every edge say what it is missing."""
        for audience in self.audiences():
            audience.welcome_all()

    def _on_join(self, join: Join) -> None:
        session = self._store.find_by_key(join.session_key)
        if session is None and self._store.when_made(join.session_key, lambda: self._on_join(join)):
            return
        # A Join creates nothing: only a claim does, and the edge makes one after this refusal.
        if session is None:
            self._refuse_join(join)
            return
        try:
            session.pages.check(join.token)
        except PageRefused as problem:
            self._refuse_page(join, problem)
            return
        audience = self._audience_of(session, join.session_key)
        viewer = audience.find(join.edge, join.connection)
        # Joins are repeated by edges that have lost something. The viewer has its state here: one that is made anew
        # would have its messages applied twice.
        if viewer is None:
            viewer = RemoteViewer(
                audience,
                join.edge,
                join.connection,
                join.token,
                # Only the owner knows whether the page has had the document before; the edge may be a new one.
                inline=session.pages.is_return(join.token, from_browser=join.from_browser),
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
        # Not ignored: the page believes that it is connected. It comes back, and joins where the session is now.
        if session is None or audience is None or viewer is None:
            self._refuse(message.session_key, message.edge, message.connection)
            return
        self._inbox.take(session, audience, viewer, message)

    def _on_render(self, call: Render) -> None:
        self._post.reply(call.edge, self._rendered(call))

    def _rendered(self, call: Render) -> Rendered:
        session = self._store.find_by_key(call.session_key)
        if session is None:
            return self._rendered_early(call)
        try:
            # Also here: the worker that asks cannot know whose the session is.
            session.check_user(call.user)
            # Its websocket is still to come; until then nothing else shows that it is in use.
            session.expiry.touch()
            with tracing.relayed("render for another worker", call.trace):
                rendered = self._render(session, call.kind, call.arguments)
        except NotTheirs as problem:
            return Rendered(call.call, False, str(problem).encode(), theirs=False)
        except Exception:
            log.exception("rendering session %s for another worker failed", short_id(session.id))
            return Rendered(call.call, False, b"rendering failed")
        page = rendered if isinstance(rendered, bytes) else rendered.encode()
        if len(page) <= CHUNK_BYTES:
            return Rendered(call.call, True, page)
        # With an `ended`, an offer that is not fetched expires.
        return Rendered(call.call, True, b"", self._post.offer(page, lambda: None), len(page))

    def _rendered_early(self, call: Render) -> Rendered:
        """The answer for a session that is not here: perhaps it is being made."""
        making = self._store.making(call.session_key)
        if making is None:
            # The worker that asks claims it, and tries what has failed here again.
            self._store.forget_failure(*session_key_parts(call.session_key))
            return Rendered(call.call, False, b"the session is gone")
        try:
            making.check_user(call.user)
            page = self._render_early(making, call.session_key, call.kind, call.arguments)
        except NotTheirs as problem:
            return Rendered(call.call, False, str(problem).encode(), theirs=False)
        if page is None:
            return Rendered(call.call, False, b"the session is being made")
        return Rendered(call.call, True, page.encode())

    def _audience_of(self, session: Session, session_key: str) -> SessionAudience:
        audience = self._audiences.get(session)
        if audience is None:
            # Made with the first viewer elsewhere: nearly all sessions never have one, and pay nothing for the relay.
            audience = SessionAudience(session, session_key, self._post, fenced=self._store.lose, lag=self._tally.lag)
            self._audiences[session] = audience
            session.fanout.relay_to(audience)
        return audience

    def _refuse_join(self, join: Join) -> None:
        if self._store.failed(join.session_key):
            self._refuse_page(join, app_failed())
        else:
            self._refuse(join.session_key, join.edge, join.connection)

    def _refuse_page(self, join: Join, problem: PageRefused) -> None:
        self._post.reply(join.edge, Refused(join.session_key, join.connection, problem.close_code, str(problem)))

    def _refuse(self, session_key: str, edge: str, connection: str) -> None:
        self._post.reply(edge, Refused(session_key, connection, SERVICE_RESTART, "the session is not here"))
