"""One connection at an edge: what it sends is numbered and kept until it is answered, what it gets keeps its order.

A document that is too large for one message is fetched from the owner, and what follows it to its connection waits
behind it; the other connections do not.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections import deque
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Protocol

from aperture import tracing
from aperture.errors import ProtocolError
from aperture.metrics import AppTally
from aperture.protocol.closing import TRY_AGAIN_LATER
from aperture.protocol.frames import FrameRun
from aperture.protocol.message_type import MessageType
from aperture.protocol.messages import Message, refresh_request, without_patches
from aperture.wire.envelopes import Reply, pack_fragments
from aperture.worker.patch.viewer import Offer, Outbox
from aperture.worker.relay.transfers import CHUNK_BYTES

__all__ = ["Edge", "EdgeViewer", "Unanswered"]

log = logging.getLogger(__name__)

UNANSWERED_BYTES = 4 * 1024 * 1024
UNANSWERED_MESSAGES = 10_000
"""Of one connection, beside one message of the largest size: a page may send a while without waiting for answers."""

BEHIND_BYTES = 16 * 1024 * 1024
"""Of one connection, what may come in while its document is being fetched."""


@dataclass(slots=True)
class Unanswered:
    """A message that the owner may not have had.

    Args:
        number: from 1, without gaps.
        fragments: as they came; empty where the owner fetches them.
        size: in bytes.
        seen: the number of the last patch that the page can have had when it sent this.
        awaited: whether the client may wait for the answer. To a patch it says that the change will not be lost, or
            nothing if changes are not acknowledged so, and then no client waits for it.
        at: when it came, by the clock of the loop.
        trace: to which it belongs.
        transfer: the name for the owner to fetch the fragments by, or nothing.
    """

    number: int
    fragments: tuple[str | bytes, ...]
    size: int
    seen: int
    awaited: bool
    at: float
    trace: str
    transfer: str


@dataclass(frozen=True, slots=True)
class _Numbered:
    """A patch that waits behind a document."""

    sequence: int
    run: FrameRun


class Edge(Protocol):
    """What a connection needs of its edge, `aperture.worker.relay.edge.EdgeSession`."""

    @property
    def tally(self) -> AppTally | None:
        """Of the session's app."""
        ...

    @property
    def sequence(self) -> int:
        """The number of the last patch that has been written to the connections."""
        ...

    def has(self, viewer: EdgeViewer) -> bool:
        """Whether the connection is counted in, and not out again."""
        ...

    def forward(self, viewer: EdgeViewer, message: Unanswered) -> None:
        """Send the message to the owner. Keeps the order of the calls."""
        ...

    def offer(self, content: bytes) -> str:
        """Keep this for the owner to fetch; returns its name."""
        ...

    def withdraw_offer(self, transfer: str) -> None:
        """Keep it no longer. Idempotent; an empty name is none."""
        ...

    async def fetch(self, reply: Reply) -> bytes | None:
        """The frames of an answer that are with the owner; None if they cannot be had."""
        ...

    def leave(self, viewer: EdgeViewer, *, lost: bool) -> None:
        """Count the connection out. Idempotent."""
        ...

    def drop(self, viewer: EdgeViewer, reason: str) -> None:
        """Close a connection that is out of step with the owner; its browser comes back and pulls afresh."""
        ...


class EdgeViewer:
    """One connection here. Also what its websocket hands its messages to.

    Args:
        edge: the session that it looks at.
        outbox: its own.
        token: what it connected with.
        from_browser: whether it may be a page that comes back; the owner knows.
        max_message_size: in bytes, of what it may send.
        acknowledged: whether the answer to a patch says that its changes will not be lost.
    """

    def __init__(
        self,
        edge: Edge,
        outbox: Outbox,
        token: str,
        *,
        from_browser: bool,
        max_message_size: int,
        acknowledged: bool = False,
    ) -> None:
        self.edge = edge
        # Unique among all edges, not only here: a patch names the viewers that get a variant by this alone.
        self.connection = uuid.uuid4().hex
        self.outbox = outbox
        self.token = token
        self.from_browser = from_browser
        self.live = False
        self._seen: int | None = None
        """The number of the last patch before those that wait, or were refused; None if it has had all."""
        self._missed_after: int | None = None
        """The number of the last patch before those that its outbox has refused; None if there are none."""
        self._refresh: int | None = None
        """The number of the message, to the owner, by which this asks for what the viewer has missed."""
        # A future and not an event: an owner that refuses the viewer cancels it, and `EdgeSide.enter` sees that it was
        # not its own caller who gave up.
        self.joined: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.unanswered: deque[Unanswered] = deque()
        self.answered = 0
        self._sent = 0
        self._acknowledged = acknowledged
        self._unanswered_limit = max_message_size + UNANSWERED_BYTES
        self._unanswered_bytes = 0
        self._behind: deque[FrameRun | Reply | _Numbered] = deque()
        """What is to be written when the document that is being fetched is here."""
        self._behind_bytes = 0
        self._fetching: asyncio.Task[None] | None = None

    def receive(self, message: Message, fragments: tuple[str | bytes, ...]) -> Awaitable[None] | None:
        """Pass a message on to the owner."""
        if not self.edge.has(self):
            # The websocket goes on reading until the peer has answered the close frame.
            return None  # it is being closed
        size = sum(map(len, fragments))
        if self._unanswered_bytes + size > self._unanswered_limit or len(self.unanswered) >= UNANSWERED_MESSAGES:
            raise ProtocolError("too much waits for the owner of the session", TRY_AGAIN_LATER)
        is_patch = message.msgtype == MessageType.PATCH_DOC
        if message.msgtype == MessageType.REFRESH_REQ:
            raise ProtocolError(f"a client may not send {message.msgtype}")
        if self.edge.tally is not None and is_patch:
            self.edge.tally.patches_in += 1
            self.edge.tally.patch_bytes_in += size
        self._forward(fragments, size, message.msgtype, awaited=self._acknowledged or not is_patch)
        return None

    def _forward(self, fragments: tuple[str | bytes, ...], size: int, msgtype: str, *, awaited: bool) -> None:
        """Number a message, and keep it until it is answered."""
        # From 1 and without gaps, so that the owner can tell one that was lost from one that was sent twice.
        self._sent += 1
        now = asyncio.get_running_loop().time()
        # Kept with the message, so that a repetition belongs to the trace of the first attempt.
        trace = tracing.hop(msgtype) if tracing.on else ""
        transfer = ""
        # Redis cuts off a subscriber that is 32 MB behind, with all that other workers have sent to that inbox.
        if size > CHUNK_BYTES:
            packed = pack_fragments(fragments)
            transfer, fragments, size = self.edge.offer(packed), (), len(packed)
        # Recorded before it is sent and until it is answered: to Redis a message without a receiver is a success.
        self._unanswered_bytes += size
        # The page has had no more patches than were written to it by now; the owner needs this bound to tell changes
        # made at the same time from changes made one after the other.
        sequence = self.edge.sequence if self._seen is None else self._seen
        self.unanswered.append(Unanswered(self._sent, fragments, size, sequence, awaited, now, trace, transfer))
        self.edge.forward(self, self.unanswered[-1])

    def leave(self, *, lost: bool = False) -> None:
        """The connection has ended; the owner learns how."""
        self.edge.leave(self, lost=lost)

    def note_answer(self, number: int) -> bool:
        """A message is answered, and those before it are. Returns whether no answer that is waited for was lost."""
        complete = True
        while self.unanswered and self.unanswered[0].number <= number:
            first = self.unanswered.popleft()
            self._unanswered_bytes -= first.size
            self.edge.withdraw_offer(first.transfer)
            # Answers leave the owner in the order of the messages. One to a later message says that those to earlier
            # ones were lost, as the owner repeats only its last.
            complete = complete and (first.number == number or not first.awaited)
        self.answered = number
        return complete

    def send(self, item: FrameRun | Reply) -> None:
        """Write an answer to the connection, perhaps one whose frames have to be fetched; in the order of the calls."""
        # Nearly always: nothing is ahead of it. What follows a document must not be written before it.
        if self._fetching is None and isinstance(item, FrameRun):
            self.outbox.send(item)
        else:
            self._send_behind(item, len(item) if isinstance(item, FrameRun) else 0)

    def send_patch(self, sequence: int, run: FrameRun) -> None:
        """Write a patch, and the answer that may be in it, to the connection; in the order of the calls."""
        if self._fetching is None:
            self._offer(sequence, run)
        else:
            self._send_behind(_Numbered(sequence, run), len(run))

    def take_answer(self, reply: Reply, sequence: int) -> None:
        """Write the answer to the oldest message; the last patch for which it is time has this number."""
        self.live = self.live or reply.live
        self.send(reply if reply.transfer else FrameRun(reply.frames))
        # Any other answer says nothing of what was refused.
        if reply.number != self._refresh:
            return
        self._refresh = None
        if reply.after >= sequence:  # what comes after it is sent behind it
            self._missed_after = None
            self.outbox.resume()
        else:  # the answer was late
            self._missed_after = reply.after
        self.outbox.when_drained(self._on_drained)

    def _offer(self, sequence: int, run: FrameRun) -> None:
        offer = self.outbox.offer(run)
        if offer is Offer.WRITTEN:
            return
        if self._seen is None:
            # What the page sends until its socket has drained, it sends without having seen this patch.
            self._seen = sequence - 1
            self.outbox.when_drained(self._on_drained)
        if offer is Offer.REFUSED:
            if self.edge.tally is not None:
                self.edge.tally.coalesced += 1
            if self._missed_after is None:
                # Of the first that was refused: the owner sends what this and all later ones have changed.
                self._missed_after = sequence - 1
            # The page waits for an answer that travels with the patch, and gets it all the same.
            answer = without_patches(run)
            if answer is not None:
                self.outbox.send(answer)

    def _on_drained(self) -> None:
        if self._missed_after is None:
            self._seen = None
        # One at a time: its answer says from which patch on the viewer still lacks something.
        elif self._refresh is None and self.edge.has(self):
            fragments = tuple(map(str, refresh_request(self._missed_after).fragments))
            self._refresh = self._sent + 1
            self._forward(fragments, sum(map(len, fragments)), MessageType.REFRESH_REQ, awaited=True)

    def _send_behind(self, item: FrameRun | Reply | _Numbered, size: int) -> None:
        """Write this when the document that is being fetched is written."""
        if self._behind_bytes > BEHIND_BYTES:
            log.warning("viewer is closed: too much came while its document was being fetched; it may come back")
            self.edge.drop(self, "too much came behind a document")
            return
        self._behind.append(item)
        # A reply whose frames are still at the owner takes no memory here.
        self._behind_bytes += size
        if self._fetching is None:
            self._fetching = asyncio.ensure_future(self._write_behind())

    def stop(self) -> None:
        """The connection has ended, or is about to: offer, fetch and write nothing more."""
        # These offers do not expire: a message may wait for a busy owner as long as its connection lives.
        for message in self.unanswered:
            self.edge.withdraw_offer(message.transfer)
        self._behind.clear()
        if self._fetching is not None:
            # Else it would go on taking a share of the window of all fetches, for a document that no page waits for.
            self._fetching.cancel()

    async def _write_behind(self) -> None:
        while self._behind:
            match self._behind.popleft():
                case FrameRun() as run:
                    self._behind_bytes -= len(run)
                    self.outbox.send(run)
                case _Numbered(sequence=sequence, run=run):
                    self._behind_bytes -= len(run)
                    self._offer(sequence, run)
                case Reply() as reply:
                    frames = await self.edge.fetch(reply)
                    if frames is None:
                        self.edge.drop(self, "a document is lost")
                        return
                    self.outbox.send(FrameRun(frames))
        self._fetching = None
        if self._missed_after is not None:
            self.outbox.when_drained(self._on_drained)
