"""The edges' side: connections that are here, of a session that is in another worker.

An edge has no document. It carries bytes: its browsers' messages to the owner, numbered, kept until they are answered
and sent again when the owner has not had them; the owner's patches to its browsers, in the order of their sequence
numbers and each exactly once. `aperture.worker.relay.repair` fills a hole in the sequence from the session's stream,
and reads there what is too large to be published; what it cannot fill closes the connections, whose browsers come back
at once and pull afresh. `aperture.worker.relay.edge_viewer` is one of the connections.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Protocol, TypeVar

from aperture.errors import BusDown, PageRefused, TransferFailed, WireError
from aperture.log import short_id
from aperture.metrics import AppTally, RelayTally
from aperture.protocol.closing import SERVICE_RESTART
from aperture.protocol.frames import FrameRun
from aperture.protocol.messages import patch_size
from aperture.wire.envelopes import (
    Envelope,
    FromClient,
    Hostile,
    Join,
    Joined,
    Leave,
    Patches,
    Probe,
    Relayed,
    Reply,
    SessionEnded,
    Stored,
)
from aperture.wire.session_key import session_key_parts
from aperture.worker.relay.edge_viewer import EdgeViewer, Unanswered
from aperture.worker.relay.repair import Repair
from aperture.worker.relay.transfers import MAX_TRANSFER

__all__ = ["MOVED", "EdgePost", "EdgeSession"]

log = logging.getLogger(__name__)

T = TypeVar("T")

SEND_AGAIN = 0.3
"""Seconds after which a message that no owner received is sent again."""

UNANSWERED_TIME = 4.0
"""Seconds after which the owner is asked whether it has had a message that it has not answered."""

LEAVE_TIME = 60.0
"""Seconds that the bus may be down until a connection's end is not reported to the owner any more. By then it takes
this worker for dead, or has lost its own way to the bus and asks when it is back."""


MOVED = "the session has moved"
_REBUILT = "the session was rebuilt"
_UNANSWERED = "an answer is lost"


class EdgePost(Protocol):
    """What an edge needs of the bus."""

    @property
    def me(self) -> str:
        """This worker's name."""
        ...

    def send(self, worker: str, envelope: Envelope) -> Coroutine[Any, Any, int]:
        """Send to one worker; returns how many received it, 0 or 1. Raises BusDown. Keeps the order of its calls."""
        ...

    def offer(self, content: bytes) -> str:
        """Keep this for another worker to fetch, until it is withdrawn; returns its name."""
        ...

    def withdraw_offer(self, transfer: str) -> None:
        """Keep it no longer. Idempotent."""
        ...

    async def fetch(self, worker: str, transfer: str, size: int) -> bytes:
        """All of what another worker offers. Raises TransferFailed."""
        ...

    async def read(self, session_key: str, after: int) -> list[bytes] | None:
        """What was published for a session after a sequence number, or None if some of it is gone.

        Raises:
            ValueError: what is there was written by another program.
        """
        ...


class EdgeSession:
    """One session's connections here.

    Args:
        session_key: the session's name on the bus.
        owner: the worker that has it.
        post: the way there.
        hostile: counts what is on the channel and is none of ours.
        ended: called when no connection is left.
        tally: counts the patches of the app.
        relay_tally: counts what is heard, and what had to be mended.
    """

    def __init__(
        self,
        session_key: str,
        owner: str,
        post: EdgePost,
        *,
        hostile: Hostile,
        ended: Callable[[EdgeSession], None],
        tally: AppTally | None = None,
        relay_tally: RelayTally | None = None,
    ) -> None:
        self.tally = tally
        self._relay_tally = relay_tally
        self.session_key = session_key
        self.owner = owner
        self.viewers: dict[str, EdgeViewer] = {}
        self.epoch: int | None = None
        self.sequence = 0
        self.heard_at = asyncio.get_running_loop().time()
        self._post = post
        self._hostile = hostile
        self._ended = ended
        self._repair = Repair(self, session_key, post.read, hostile=hostile, tally=relay_tally)
        self._waiting: deque[Reply] = deque()
        """Answers that name a patch which is not here yet."""
        self._resending: asyncio.Task[None] | None = None
        self._sends: set[asyncio.Future[Any]] = set()
        self._over = False

    # Connections

    def enter(self, viewer: EdgeViewer) -> None:
        """Count a connection in and announce it to the owner."""
        # Before the Join: the answer to one of a connection that is not known here is a Leave.
        self.viewers[viewer.connection] = viewer
        self._send(self._join_of(viewer))

    def has(self, viewer: EdgeViewer) -> bool:
        """Whether the connection is counted in, and not out again."""
        return viewer.connection in self.viewers

    def leave(self, viewer: EdgeViewer, *, lost: bool = True) -> None:
        """Count a connection out, as one whose page may come back unless `lost` is false. Idempotent."""
        if self.viewers.pop(viewer.connection, None) is None:
            return
        viewer.stop()
        if not viewer.joined.done():
            viewer.joined.cancel()
        self.say_left(self.owner, viewer.connection, lost=lost)
        if not self.viewers:
            self._end()

    def say_left(self, owner: str, connection: str, *, lost: bool = True) -> None:
        """Report a connection's end to the owner: else it would keep the session, and publish, without viewers."""
        self._track(self._say_left(owner, Leave(self.session_key, self._post.me, connection, lost)))

    def forward(self, viewer: EdgeViewer, message: Unanswered) -> None:
        """Send a viewer's message to the owner."""
        self._send(
            FromClient(
                self.session_key,
                self._post.me,
                viewer.connection,
                message.number,
                message.seen,
                message.fragments,
                message.transfer,
                message.size if message.transfer else 0,
                message.trace,
            )
        )

    def offer(self, content: bytes) -> str:
        """Keep this for the owner to fetch; returns its name."""
        return self._post.offer(content)

    def withdraw_offer(self, transfer: str) -> None:
        """The owner needs not fetch this any more."""
        if transfer:
            self._post.withdraw_offer(transfer)

    async def fetch(self, reply: Reply) -> bytes | None:
        """The frames of an answer that are with the owner; None if they cannot be had."""
        try:
            # Not believed before memory is taken for it: anyone with access to Redis can publish.
            if not 0 < reply.size <= MAX_TRANSFER:
                raise TransferFailed(f"{reply.size} bytes are too many")
            return await self._post.fetch(self.owner, reply.transfer, reply.size)
        except TransferFailed as problem:
            log.warning("session %s: a document could not be fetched: %s", self._short(), problem)
            return None

    def drop(self, viewer: EdgeViewer, reason: str) -> None:
        """Close a connection that is out of step with the owner; its browser comes back and pulls afresh."""
        self.leave(viewer)
        self._shut(viewer, SERVICE_RESTART, reason)

    def close_all(self, reason: str, code: int = SERVICE_RESTART) -> None:
        """Close every connection; their browsers come back and pull afresh."""
        # Emptied first: a viewer whose websocket then ends is not found by `leave`, and no Leave is sent for it. The
        # owner is dead or has ended the session; one that still counts the viewer finds out at its next roll call.
        viewers, self.viewers = list(self.viewers.values()), {}
        for viewer in viewers:
            self._shut(viewer, code, reason)
        self._end()

    # From the owner

    def deliver(self, payload: bytes) -> None:
        """Take what came on the session's channel."""
        if self._relay_tally is not None:
            self._relay_tally.received += 1
        try:
            envelope = Envelope.unpack(payload)
        except WireError as problem:
            # Counted, and logged once: any client of that Redis can publish here as often as it likes.
            self._hostile.count("a session's channel", problem)
            return
        self._act_on(envelope)

    def take_joined(self, joined: Joined) -> None:
        """The owner has counted a connection in, or says again where it is."""
        viewer = self.viewers.get(joined.connection)
        if viewer is None:
            # Its Leave was lost, or overtaken by this answer to a Join that was sent again.
            self.say_left(joined.owner, joined.connection)
            return
        self._heard()
        if self.epoch is None:
            # Patches published before this are in the document that the viewers pull next; those after it follow in
            # number.
            self.epoch, self.sequence = joined.epoch, joined.sequence
        elif joined.epoch != self.epoch:
            # Another claim: the document was rebuilt from what was stored, which may be less than what is shown here.
            self.close_all(_REBUILT)
            return
        elif joined.sequence > self.sequence:
            self._repair.miss(joined.sequence)
        if not viewer.joined.done():
            viewer.joined.set_result(None)
        if joined.received < viewer.answered:
            # The owner took this worker for dead, and now knows nothing of what it has had.
            self.drop(viewer, "the session has forgotten this viewer")
            return
        for message in viewer.unanswered:
            # Those that the owner has not had; and the one that it has answered last, if the answer was lost on the
            # way: that one is not applied again, only answered again. In between are those that it is still working on.
            if message.number > joined.received or message.number == joined.answered:
                self.forward(viewer, message)

    def take_reply(self, reply: Reply) -> None:
        """Take the answer to a viewer's message: behind the patches that it must not overtake."""
        viewer = self.viewers.get(reply.connection)
        if viewer is None:
            return
        self._heard()
        if self.epoch != reply.epoch:
            self.close_all(_REBUILT)
        elif self._repair.running or reply.after > self.sequence:
            # Also when its turn has come but a repair is running: until that ends it is open whether the viewers stay.
            self._waiting.append(reply)
            self._repair.miss(reply.after)
        else:
            self._answer(viewer, reply)

    def refuse(self, connection: str, code: int, reason: str) -> None:
        """The owner does not want this connection."""
        # Without a Leave: the owner does not count it.
        viewer = self.viewers.pop(connection, None)
        if viewer is None:
            return
        self._shut(viewer, code, reason)
        if not self.viewers:
            self._end()

    def resynchronise(self) -> None:
        """Messages may have been lost, both ways: fill holes, and ask the owner what it has had."""
        for viewer in self.viewers.values():
            self._send(self._join_of(viewer))
        self._repair.start()

    def bus_is_back(self) -> None:
        """As `resynchronise`; and that the owner was silent while the bus was away says nothing of it."""
        self._heard()
        self.resynchronise()

    def ask_about_unanswered(self) -> None:
        """Ask the owner about messages that it should have answered by now; it may be busy, or never have had them."""
        # A Join is the question, as it is idempotent and its answer says what the owner has had. The first of a
        # viewer's messages is the oldest.
        before = asyncio.get_running_loop().time() - UNANSWERED_TIME
        for viewer in self.viewers.values():
            if viewer.unanswered and viewer.unanswered[0].at < before:
                self._send(self._join_of(viewer))

    def apply(self, patches: Patches) -> None:
        """Write those that are new. The first of them is not beyond the next."""
        for sequence, relayed in enumerate(patches.patches, patches.first):
            if sequence <= self.sequence:
                # Exactly once: a patch is no set of values alone; streamed rows and events would be applied twice.
                continue  # seen: from the stream, or published twice because the first answer was lost
            if sequence != self.sequence + 1:
                raise AssertionError("the caller has looked for holes")
            self.answer_due()  # a document that was pulled before this patch lacks it
            self.sequence = sequence
            self._write(sequence, relayed)

    def answer_due(self) -> None:
        """Give the waiting answers whose turn it is: behind the patches before them, ahead of those after them."""
        if not self._waiting:
            return
        # Taken out first: to answer may drop a viewer, and what that sets off must not find these again.
        waiting, self._waiting = self._waiting, deque()
        for reply in waiting:
            viewer = self.viewers.get(reply.connection)
            # Not its turn yet. Those behind it are looked at all the same: they may be other viewers'.
            if reply.after > self.sequence:
                self._waiting.append(reply)
            elif viewer is not None:
                self._answer(viewer, reply)

    # Inside

    def _heard(self) -> None:
        self.heard_at = asyncio.get_running_loop().time()

    def _shut(self, viewer: EdgeViewer, code: int, reason: str) -> None:
        viewer.stop()
        if viewer.joined.done():
            viewer.outbox.close(code, reason)
        elif code != SERVICE_RESTART:
            viewer.joined.set_exception(PageRefused(reason, code))  # final: another owner would say the same
            viewer.joined.exception()  # asked for: who waited may have gone
        else:
            viewer.joined.cancel()  # nothing is lost yet: its `join` looks for the owner once more

    def _act_on(self, envelope: Envelope) -> None:
        self._heard()
        if self.epoch is None or self._over:
            return  # not joined yet: no viewer here has the document
        match envelope:
            case Patches():
                self._take_patches(envelope)
            case Stored(epoch=epoch, last=last):
                # The patches themselves are too large for the channel: reading them is no sign of loss.
                if epoch > self.epoch:
                    self.close_all(MOVED)
                elif epoch == self.epoch and last > self.sequence:
                    self._repair.read_up_to(last)
            case Probe(epoch=epoch, sequence=sequence):
                if epoch > self.epoch:
                    self.close_all(MOVED)
                elif epoch == self.epoch and sequence > self.sequence:
                    self._repair.miss(sequence)
            case SessionEnded(epoch=epoch, code=code, reason=reason):
                # Also from a later owner: its session is over, too. From an earlier one it is a late message, and means
                # nothing.
                if epoch >= self.epoch:
                    self.close_all(reason, code)

    def _take_patches(self, patches: Patches) -> None:
        if patches.epoch != self.epoch:
            if patches.epoch > (self.epoch or 0):
                self.close_all(MOVED)  # another owner: its document is not the one that is shown here
            return
        if self._repair.running:
            # Also one that would follow: the two sources are put together once, when the stream has been read.
            self._repair.hold(patches)
        elif patches.first > self.sequence + 1:
            self._repair.hold(patches)
            self._repair.miss(patches.last)
        else:
            self.apply(patches)

    def _write(self, sequence: int, relayed: Relayed) -> None:
        # None where each viewer that has the document changed something itself; each then has a variant.
        run = FrameRun(relayed.frames) if relayed.frames else None
        written = 0
        # A copy: a viewer that is out of step is taken out on the way.
        for connection, viewer in tuple(self.viewers.items()):
            if connection in relayed.variants:
                self._write_variant(viewer, sequence, relayed)
            elif run is not None and viewer.live:
                viewer.send_patch(sequence, run)
                written += 1
        if self.tally is not None:
            self.tally.patches_out += written
            self.tally.patch_bytes_out += written * len(relayed.frames)

    def _write_variant(self, viewer: EdgeViewer, sequence: int, relayed: Relayed) -> None:
        frames = relayed.variants[viewer.connection]
        number = relayed.answers.get(viewer.connection)
        if number is not None and not viewer.note_answer(number):
            self.drop(viewer, _UNANSWERED)
        # Nothing where the viewer's own changes were all that was in the patch.
        elif frames and viewer.live:
            run = FrameRun(frames)
            viewer.send_patch(sequence, run)
            # It may be the answer alone: then there was nothing in the patch that its viewer had not changed itself.
            if self.tally is not None and (size := patch_size(run)):
                self.tally.patches_out += 1
                self.tally.patch_bytes_out += size

    def _answer(self, viewer: EdgeViewer, reply: Reply) -> None:
        if reply.number <= viewer.answered:
            return  # answered before: this one was sent again
        # `live` in the answer to a pull: from that document on, patches are for this viewer, too.
        begins = reply.live and not viewer.live
        if not viewer.note_answer(reply.number) or (begins and reply.after < self.sequence):
            # An answer is lost; or this document came late, and of the patches since it has had none.
            self.drop(viewer, _UNANSWERED)
            return
        viewer.take_answer(reply, self.sequence)

    # Sending

    def _join_of(self, viewer: EdgeViewer) -> Join:
        return Join(self.session_key, self._post.me, viewer.connection, viewer.token, viewer.from_browser)

    def _send(self, envelope: Envelope) -> None:
        # Not awaited: the bus keeps the order of calls, and a page's next message need not wait for Redis to answer.
        self._track(self._post.send(self.owner, envelope)).add_done_callback(self._on_sent)

    async def _say_left(self, owner: str, leave: Leave) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(LEAVE_TIME):
                while True:
                    try:
                        # How many received it is not looked at: an owner that did not asks at its next roll call.
                        await self._post.send(owner, leave)
                        return
                    except BusDown:
                        await asyncio.sleep(SEND_AGAIN)

    def _track(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.ensure_future(work)
        # The event loop holds tasks weakly: without this one might be collected before it has sent anything.
        self._sends.add(task)
        task.add_done_callback(self._sends.discard)
        return task

    def _on_sent(self, sending: asyncio.Future[int]) -> None:
        if sending.cancelled() or self._over:
            return
        problem = sending.exception()
        if problem is not None and not isinstance(problem, BusDown):
            log.error("sending to a session's owner failed", exc_info=problem)
        # 0 receivers: the owner is dead, or between two subscriptions. One repetition for all messages, after a pause:
        # a Join for each viewer, whose answers say which messages are missing.
        if (problem is not None or sending.result() == 0) and self._resending is None:
            self._resending = asyncio.ensure_future(self._send_again_soon())

    async def _send_again_soon(self) -> None:
        await asyncio.sleep(SEND_AGAIN)
        # First: what is sent again may fail again, and then needs another pause.
        self._resending = None
        if self.viewers:
            self.resynchronise()

    def _end(self) -> None:
        if self._over:
            return
        # First: what is closed and called below comes back here.
        self._over = True
        self._repair.stop()
        if self._resending is not None:
            self._resending.cancel()
        self._ended(self)

    def _short(self) -> str:
        return short_id(session_key_parts(self.session_key)[1])
