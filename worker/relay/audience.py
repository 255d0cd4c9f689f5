"""The owner's side: the viewers of one session whose connections are in other workers.

Patches and answers leave in one order, through one queue and one task: what has to be on the bus first is there first,
and while Redis is asked to append some patches, the next ones gather and share a call. What Redis cannot take now waits
up to a bound; beyond it the connections are given up, and their browsers come back for a fresh document.

Documents do not count for that bound: they are made one after the other, each when there is room for it
(`aperture.worker.relay.document_turns`). Those that are too large for one message do not wait in the queue either: what
says that they are there does, and their edge fetches them beside it (`aperture.worker.relay.transfers`).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from msgspec.structs import replace

from aperture.errors import BusDown, BusFull, Fenced
from aperture.log import short_id
from aperture.metrics import Distribution
from aperture.protocol.closing import INTERNAL_ERROR, SERVICE_RESTART
from aperture.protocol.fragments import Assembler
from aperture.protocol.frames import FrameRun
from aperture.protocol.message_type import MessageType
from aperture.protocol.messages import Message
from aperture.registry.stream import ENTRY_BYTES
from aperture.wire.envelopes import (
    MAX_STORED,
    Envelope,
    FromClient,
    Joined,
    Patches,
    Probe,
    Refused,
    Relayed,
    Reply,
    SessionEnded,
    Stored,
)
from aperture.worker.patch.viewer import Offer, Viewer
from aperture.worker.relay.document_turns import DocumentTurns
from aperture.worker.relay.transfers import CHUNK_BYTES, MAX_TRANSFER
from aperture.worker.session.session import Session
from aperture.worker.session.slice import Slice

__all__ = ["Post", "RemoteViewer", "SessionAudience"]

log = logging.getLogger(__name__)

QUEUE_LIMIT = 8 * 1024 * 1024
"""Bytes that wait for Redis per session: seconds of a busy dashboard, which is how long a restart of Redis takes."""

LARGE_PATCHES_LIMIT = 64 * 1024 * 1024
"""Bytes of patches too large to be published that may wait beside those when another one comes: a few pictures in one
turn of the loop must close no viewer. Redis takes them in less than a second."""

PULL_MARK = 1024 * 1024
"""Bytes that wait for Redis above which no further document is made. So there are never more than these and one."""

APPEND_LIMIT = ENTRY_BYTES
"""Bytes of patches in one call; a single larger patch goes by itself, in parts."""

ITEM_COST = 200
"""Bytes that anything queued costs beside its frames: without it, patches without viewers would count as nothing."""

RESENDABLE_ANSWER = 64 * 1024
"""Bytes. A larger answer is a document, of which `PULL_MARK` is the bound. It is not kept in case it gets lost, either:
its viewer pulls afresh instead."""

RETRY = 0.1
"""Seconds between two looks whether the bus is back."""


class Post(Protocol):
    """What the audience needs of the bus."""

    @property
    def me(self) -> str:
        """This worker's name."""
        ...

    async def append(self, session_key: str, epoch: int, first: int, last: int, payload: bytes, notice: bytes) -> None:
        """Publish patches to a session's edges, or, where they are too large for that, store them and publish a notice.

        Raises Fenced if the session is another worker's by now.
        """
        ...

    async def tell(self, worker: str, envelope: Envelope) -> None:
        """Send something to one worker."""
        ...

    async def announce(self, session_key: str, envelope: Envelope) -> None:
        """Send something to a session's edges that they may miss."""
        ...

    def offer(self, content: bytes, ended: Callable[[], None]) -> str:
        """Keep this for another worker to fetch; returns its name. `ended` says that it is not kept any more."""
        ...

    def withdraw_offer(self, transfer: str) -> None:
        """Keep it no longer; `ended` is not called. Idempotent."""
        ...


class RemoteViewer(Viewer):
    """A connection in another worker.

    Args:
        edge: that worker.
        connection: the edge's name for it.
        audience: that it belongs to.
    """

    __slots__ = (
        "_audience",
        "_live",
        "answered",
        "asked",
        "assembler",
        "busy",
        "connection",
        "edge",
        "fetching",
        "last_answer",
        "letters",
        "max_message_size",
        "pending",
        "received",
        "slice",
        "trace",
    )

    here = False

    def __init__(
        self, audience: SessionAudience, edge: str, connection: str, token: str, *, inline: bool, max_message_size: int
    ) -> None:
        self._audience = audience
        self._live = False
        self.edge = edge
        self.connection = connection
        self.assembler = Assembler(max_message_size)
        self.max_message_size = max_message_size
        self.received = 0
        """The number of its last message that came."""
        self.answered = 0
        self.asked = 0
        """The number of the message that its edge was last asked to send again."""
        self.last_answer: Reply | None = None
        self.letters: deque[FromClient] = deque()
        """What has come of it and is not assembled yet, because the first has to be fetched."""
        self.fetching = False
        self.pending: deque[tuple[Message, int, str]] = deque()
        """With the sequence number of the last patch that it can have had when it sent each, and the trace."""
        self.trace = ""
        self.busy = False
        """Whether one of its messages is being acted on, or the others have their turn."""
        self.slice = Slice()
        # Its own outbox: what a session sends to this one viewer goes into the queue with the patches, in their order.
        super().__init__(self, token, inline_pulls=inline, max_message_size=max_message_size)

    @property
    def live(self) -> bool:
        return self._live

    @live.setter
    def live(self, value: bool) -> None:
        # Counted by its changes: `live` of the audience is asked for each change of the document, and going through
        # thousands of viewers there would cost more than the change.
        if value != self._live and (self._audience.has(self) or not value):  # its document may come when it has left
            self._live = value
            self._audience.count_live(1 if value else -1)

    # Outbox: what a session sends to a single viewer elsewhere are answers to its messages. Patches are published to
    # all of them, and whether its socket takes them is for its edge to see.

    def offer(self, run: FrameRun) -> Offer:
        raise AssertionError("patches for viewers elsewhere are published")

    def when_drained(self, act: Callable[[], None]) -> None:
        raise AssertionError("its edge watches its socket")

    def resume(self) -> None:
        raise AssertionError("its edge refuses patches, not its owner")

    def send(self, run: FrameRun) -> None:
        self._audience.answer(self, run)

    def answer(self, run: FrameRun, after: int) -> None:
        self._audience.answer(self, run, after)

    def close(self, code: int, reason: str) -> None:
        self._audience.refuse(self, code, reason)


@dataclass(slots=True)
class _Patch:
    sequence: int
    relayed: Relayed
    size: int
    at: float


@dataclass(slots=True)
class _Note:
    """An envelope to one worker, or, where that is None, to all edges of the session."""

    worker: str | None
    envelope: Envelope
    size: int
    is_document: bool = False


@dataclass(frozen=True, slots=True)
class _Append:
    """Patches packed for one call; it stays as it is until Redis has it, so that what is said twice is kept once."""

    first: int
    last: int
    count: int
    payload: bytes
    notice: bytes
    at: float


class SessionAudience:
    """An `aperture.worker.patch.viewer.Audience` over the bus.

    Args:
        session: whose audience it is.
        session_key: the session's name on the bus.
        post: the way there.
        fenced: called when the session turns out to be another worker's.
        lag: takes how long patches wait until they are published.
    """

    def __init__(
        self,
        session: Session,
        session_key: str,
        post: Post,
        *,
        fenced: Callable[[Session], Awaitable[None]],
        lag: Distribution | None = None,
    ) -> None:
        self._lag = lag
        self._session = session
        self._session_key = session_key
        self._post = post
        self._fenced = fenced
        # By worker, then by connection: the worker is what dies, and all its viewers with it.
        self._edges: dict[str, dict[str, RemoteViewer]] = {}
        self._live = 0
        self._queue: deque[_Patch | _Note] = deque()
        self._queued = 0
        """Bytes in the queue, but for documents and large patches."""
        self._documents = 0
        """Bytes of the documents there."""
        self._large = 0
        """Bytes of the patches there that are too large to be published."""
        self._packed: _Append | None = None
        """The patches at the head of the queue, once they have been tried."""
        self._turns = DocumentTurns[RemoteViewer](self._has_room)
        self._cleared = 0
        self._task: asyncio.Task[None] | None = None

    # Audience

    @property
    def connections(self) -> int:
        return sum(len(viewers) for viewers in self._edges.values())

    @property
    def workers(self) -> int:
        return len(self._edges)

    @property
    def live(self) -> bool:
        return self._live > 0

    def publish(
        self,
        sequence: int,
        everyone: FrameRun | None,
        variants: Mapping[Viewer, FrameRun | None],
        answered: Viewer | None,
    ) -> None:
        if not self._edges:
            return  # an edge that joins gets the number of the last patch, and misses nothing
        frames = b"" if everyone is None else everyone.plain
        instead: dict[str, bytes] = {}
        answers: dict[str, int] = {}
        for viewer, run in variants.items():
            if not isinstance(viewer, RemoteViewer):
                raise AssertionError("a viewer that is here gets its frames directly")
            # Empty, and not left out: the viewer has made all of it, and must not get what everyone gets.
            instead[viewer.connection] = b"" if run is None else run.plain
            if viewer is answered:
                # The answer is in this publication, and there is no `answer` to come.
                self._turns.made(viewer)
                viewer.answered += 1
                viewer.last_answer = None  # the stream has it, with the patch
                answers[viewer.connection] = viewer.answered
        size = len(frames) + sum(map(len, instead.values()))
        # An edge refuses to unpack more than this: it would be published, stored, and lost at each of them.
        if size > MAX_STORED:
            self._give_up(f"a patch of {size} bytes is too large for viewers of other workers")
            return
        self._enqueue(_Patch(sequence, Relayed(frames, instead, answers), size, time.perf_counter()))

    def close(self, code: int, reason: str) -> None:
        if self._edges:
            # What their browsers still send is refused, and so leads them to where the session is by then.
            self._forget_all()
            # Behind what is queued: the last patches are still for those viewers.
            self._note(None, SessionEnded(self._session.fanout.epoch, code, reason))

    def abandon(self) -> None:
        """The session is another worker's by now: forget all viewers, and say nothing more."""
        # An item of this queue may be on its way: what waits for the answer must not take another from the new one.
        self._cleared += 1
        self._queue.clear()
        self._queued = self._documents = self._large = 0
        self._packed = None
        self._forget_all()

    # Viewers

    def join(self, viewer: RemoteViewer) -> None:
        """Count a viewer in."""
        self._edges.setdefault(viewer.edge, {})[viewer.connection] = viewer
        # A session that is asked for must not expire before its page has sent a message.
        self._session.expiry.touch()

    def find(self, edge: str, connection: str) -> RemoteViewer | None:
        return self._edges.get(edge, {}).get(connection)

    def leave(self, viewer: RemoteViewer, *, lost: bool = True) -> None:
        """Count a viewer out. Idempotent. `lost`: its page may come back."""
        viewers = self._edges.get(viewer.edge, {})
        if viewers.pop(viewer.connection, None) is None:
            return
        if not viewers:
            del self._edges[viewer.edge]
        viewer.live = False
        offered = self._turns.leave(viewer)
        if offered is not None:
            self._post.withdraw_offer(offered)
        self._session.viewer_left(lost=lost)

    def has(self, viewer: RemoteViewer) -> bool:
        """Whether the viewer has joined, and has not left."""
        return self.find(viewer.edge, viewer.connection) is viewer

    def edges(self) -> set[str]:
        return set(self._edges)

    def drop_edge(self, edge: str) -> None:
        """The worker is dead, and all its connections with it."""
        for viewer in list(self._edges.get(edge, {}).values()):
            self.leave(viewer)

    def count_live(self, change: int) -> None:
        self._live += change

    # What goes to single viewers

    def welcome(self, viewer: RemoteViewer) -> None:
        """Tell the viewer's edge which patches come next, and which of the viewer's messages have come."""
        session = self._session
        # Through the queue: the sequence number in it must not overtake the patches up to it, which would look lost.
        joined = Joined(
            self._session_key,
            self._post.me,
            viewer.connection,
            session.fanout.epoch,
            session.fanout.sequence,
            viewer.received,
            viewer.answered,
        )
        self._note(viewer.edge, joined)

    def welcome_all(self) -> None:
        """Messages of the viewers may have been lost: their edges find out which."""
        for viewers in self._edges.values():
            for viewer in viewers.values():
                self.welcome(viewer)

    def ask_again(self, viewer: RemoteViewer) -> None:
        """A message of the viewer is missing; what came behind it is not taken before it."""
        missing = viewer.received + 1
        # The edge forwards all that is missing, in order, so asking for the first is enough.
        if viewer.asked != missing:  # once: what came behind it may be a thousand messages
            viewer.asked = missing
            self.welcome(viewer)

    def admits(self, viewer: RemoteViewer, message: Message, again: Callable[[], None]) -> bool:
        """Whether a message may be acted on now. If not, `again` is called when it had better be asked once more.

        A document may not be made while another is, or while so much waits for Redis, or for edges to fetch it, that it
        would only wait, too.
        """
        # Other messages are answered with a few bytes; only documents could fill the memory, or Redis.
        if message.msgtype not in (MessageType.PULL_DOC_REQ, MessageType.REFRESH_REQ):
            return True
        return self._turns.take(viewer, viewer.edge, again)

    def answer(self, viewer: RemoteViewer, run: FrameRun, after: int | None = None) -> None:
        """Send the answer to the viewer's oldest unanswered message, behind that patch, or behind all so far."""
        self._turns.made(viewer)
        if not self.has(viewer):
            return  # it has left: viewers that come and go while the document is busy must not fill the queue
        session = self._session
        # Uncompressed: each edge deflates for those of its viewers that have agreed to it.
        frames = run.plain
        viewer.answered += 1
        # Given where the answer was held back for the journal: by now there may be more patches than the document has.
        after = session.fanout.sequence if after is None else after
        if len(frames) > MAX_TRANSFER:
            log.error(
                "session %s of %s: a document of %d bytes is too large for viewers in other workers; %d is the most",
                short_id(session.id),
                session.app,
                len(frames),
                MAX_TRANSFER,
            )
            self.refuse(viewer, INTERNAL_ERROR, "the document is too large for this worker")
            return
        if len(frames) > CHUNK_BYTES:
            self._offer(viewer, frames, after)
            return
        reply = Reply(
            self._session_key, session.fanout.epoch, viewer.connection, viewer.answered, after, frames, viewer.live
        )
        # With the sequence number of now: a document that comes late is not mistaken for one with all patches since.
        viewer.last_answer = reply if len(frames) <= RESENDABLE_ANSWER else replace(reply, frames=b"")
        self._note(viewer.edge, reply, len(frames))

    def answer_again(self, viewer: RemoteViewer) -> None:
        """The answer to its last message may have been lost."""
        reply = viewer.last_answer
        if reply is None or self._queued + self._documents >= PULL_MARK:
            return  # if it is not on its way already, its edge asks again in a few seconds
        if reply.frames:
            self._note(viewer.edge, reply, len(reply.frames))
        else:
            self.refuse(viewer, SERVICE_RESTART, "an answer is lost")

    def refuse(self, viewer: RemoteViewer, code: int, reason: str) -> None:
        """Close one viewer's connection; nothing more of it is acted on."""
        self.leave(viewer)
        viewer.letters.clear()
        viewer.pending.clear()
        self._note(viewer.edge, Refused(self._session_key, viewer.connection, code, reason[:120]))

    async def probe(self) -> None:
        """Let edges that have missed the last patches learn of it."""
        # Else there are patches on their way, whose numbers say the same.
        if self._task is None:
            await self._post.announce(
                self._session_key, Probe(self._session.fanout.epoch, self._session.fanout.sequence)
            )

    # Inside

    def _has_room(self) -> bool:
        """Whether a document may join what waits for Redis."""
        return self._queued + self._large + self._documents < PULL_MARK

    def _offer(self, viewer: RemoteViewer, frames: bytes, after: int) -> None:
        """Have the viewer's edge fetch its answer; what says so keeps its place among the patches."""
        session = self._session
        transfer = self._post.offer(frames, lambda: self._turns.fetched(viewer))
        self._turns.offered(viewer, viewer.edge, transfer, len(frames))
        reply = Reply(
            self._session_key,
            session.fanout.epoch,
            viewer.connection,
            viewer.answered,
            after,
            b"",
            viewer.live,
            transfer,
            len(frames),
        )
        viewer.last_answer = replace(reply, transfer="", size=0)  # it is not offered twice: see `RESENDABLE_ANSWER`
        self._note(viewer.edge, reply)

    def _note(self, worker: str | None, envelope: Envelope, size: int = 0) -> None:
        self._enqueue(_Note(worker, envelope, size, size > RESENDABLE_ANSWER))

    def _enqueue(self, item: _Patch | _Note) -> None:
        item.size += ITEM_COST
        if isinstance(item, _Note) and item.is_document:
            self._documents += item.size
        # Judged by what waits already, not by their own size: one picture larger than the bound must get through.
        elif item.size > ENTRY_BYTES and self._large <= LARGE_PATCHES_LIMIT:
            self._large += item.size
        elif item.size <= ENTRY_BYTES and self._queued + item.size <= QUEUE_LIMIT:
            self._queued += item.size
        else:
            self._give_up("the bus takes nothing")
            return
        # Also behind a queue that waits for Redis: order is what edges rely on.
        self._queue.append(item)
        self._begin_work()

    def _begin_work(self) -> None:
        # One task at a time: of two calls under way the later one may reach Redis first.
        if self._task is None:
            self._task = asyncio.ensure_future(self._work())

    def _give_up(self, reason: str) -> None:
        log.warning("session %s: %s; viewers elsewhere pull the document afresh", short_id(self._session.id), reason)
        self.abandon()
        ended = SessionEnded(self._session.fanout.epoch, SERVICE_RESTART, reason)
        # Past every bound: this one has to get through, and there is one of it.
        self._queue.append(_Note(None, ended, 0))
        self._begin_work()

    def _forget_all(self) -> None:
        for edge in list(self._edges):
            self.drop_edge(edge)

    async def _work(self) -> None:
        try:
            while self._queue:
                try:
                    await self._send_first()
                except BusDown as problem:
                    if isinstance(problem, BusFull) and self._queue and isinstance(self._queue[0], _Patch):
                        # Waiting for memory would hold up all that comes behind; a pull needs none of Redis's.
                        self._give_up(f"a patch has to be stored to be published, and {problem}")
                    else:
                        await asyncio.sleep(RETRY)
        # Redis says that another worker has claimed the session: nothing more of it may be published from here.
        except Fenced:
            self.abandon()
            await self._fenced(self._session)
        except Exception:
            # Redis refuses, for want of memory perhaps: asking again and again would not help it.
            log.exception("session %s: publishing has failed; viewers elsewhere are lost", short_id(self._session.id))
            self.abandon()
        finally:
            self._task = None

    async def _send_first(self) -> None:
        # Left in the queue while it is sent: where Redis does not answer, it is sent again, and nothing overtakes it.
        first, cleared = self._queue[0], self._cleared
        count = await self._send_from(first)
        if cleared == self._cleared:  # else the queue was given up meanwhile, and holds other things
            # Redis has it: the next call packs anew, with all that has gathered.
            self._packed = None
            for _ in range(count):
                self._take_out(self._queue.popleft())
            self._turns.look_soon()

    def _take_out(self, item: _Patch | _Note) -> None:
        if isinstance(item, _Note) and item.is_document:
            self._documents -= item.size
        elif item.size > ENTRY_BYTES:
            self._large -= item.size
        else:
            self._queued -= item.size

    async def _send_from(self, first: _Patch | _Note) -> int:
        """Send the head of the queue; returns how much of it."""
        if isinstance(first, _Note):
            if first.worker is None:
                await self._post.announce(self._session_key, first.envelope)
            else:
                await self._post.tell(first.worker, first.envelope)
            return 1
        # The very same bytes again where the answer to the first attempt was lost: Redis may have stored them, under
        # the last number in them, and edges must not see two versions of one entry.
        packed = self._packed = self._packed or self._pack_first()
        await self._post.append(
            self._session_key, self._session.fanout.epoch, packed.first, packed.last, packed.payload, packed.notice
        )
        if self._lag is not None:
            self._lag.observe(time.perf_counter() - packed.at)
        return packed.count

    def _pack_first(self) -> _Append:
        patches = self._first_patches()
        first, last = patches[0], patches[-1]
        payload = Patches(self._session.fanout.epoch, first.sequence, tuple(patch.relayed for patch in patches)).pack()
        notice = Stored(self._session.fanout.epoch, last.sequence).pack()
        # Of those in one call the first has waited longest.
        return _Append(first.sequence, last.sequence, len(patches), payload, notice, first.at)

    def _first_patches(self) -> list[_Patch]:
        """The patches at the head of the queue that fit one call; their sequence numbers follow one another."""
        patches: list[_Patch] = []
        size = 0
        for item in self._queue:
            if not isinstance(item, _Patch) or (patches and size + item.size > APPEND_LIMIT):
                break
            # Numbers are missing where there was no edge for a while: those patches were not queued.
            if patches and item.sequence != patches[-1].sequence + 1:
                break
            patches.append(item)
            size += item.size
        return patches
