"""The edges' side: connections that are here, of a session that is in another worker.

An edge has no document. It carries bytes: its browsers' messages to the owner, numbered, kept until they are answered
and sent again when the owner has not had them; the owner's patches to its browsers, in the order of their sequence
numbers and each exactly once. A hole in the sequence is filled from the session's stream, all of it or nothing: what
cannot be filled closes the connections, whose browsers come back at once and pull afresh. Patches too large to be
published are read from there in the same way. A document that is too large is fetched from the owner, and what follows
it to its connection waits behind it; the other connections do not.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from aperture import tracing
from aperture.errors import BusDown, ProtocolError, TransferFailed
from aperture.log import short_id
from aperture.metrics import AppTally, RelayTally
from aperture.protocol.closing import SERVICE_RESTART, TRY_AGAIN_LATER
from aperture.protocol.frames import FrameRun
from aperture.protocol.message_type import MessageType
from aperture.protocol.messages import Message
from aperture.wire.envelopes import (
    MAX_STORED,
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
    pack_fragments,
)
from aperture.wire.session_key import session_key_parts
from aperture.worker.patch.viewer import Outbox
from aperture.worker.relay.transfers import CHUNK_BYTES, MAX_TRANSFER

__all__ = ["EdgePost", "EdgeSession", "EdgeViewer"]

log = logging.getLogger(__name__)

T = TypeVar("T")

UNANSWERED_BYTES = 4 * 1024 * 1024
UNANSWERED_MESSAGES = 10_000
"""Of one connection, beside one message of the largest size: a page may send a while without waiting for answers."""

HELD_BYTES = 16 * 1024 * 1024
"""Patches that may come in while a hole is being filled; and, per connection, while its document is being fetched."""

REPAIR_TIME = 15.0
"""Seconds that the bus may be away while browsers wait for a hole to be filled; then they are sent to pull afresh."""

SEND_AGAIN = 0.3
"""Seconds after which the owner is asked again for what nobody received."""

UNANSWERED_TIME = 4.0
"""Seconds after which the owner is asked whether it has had a message that it has not answered."""

LEAVE_TIME = 60.0
"""Seconds for which the bus may be away until the owner is not told of a connection's end any more. By then it takes
this worker for dead, or has lost its own way to the bus and asks when it is back."""


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
            ValueError: somebody else has written there.
        """
        ...


@dataclass(slots=True)
class _Unanswered:
    number: int
    fragments: tuple[str | bytes, ...]
    size: int
    seen: int
    awaited: bool
    """Whether the client waits for the answer; to a patch, which tells it nothing, nobody does."""
    at: float
    trace: str
    transfer: str
    """The name for the owner to fetch the fragments by, which are empty then; or nothing."""


class EdgeViewer:
    """One connection here. Also what its websocket hands its messages to.

    Args:
        edge: the session that it looks at.
        outbox: its own.
        token: what it connected with.
        inline: whether its pulls must be answered without binary buffers, as far as is known here.
        max_message_size: in bytes, of what it may send.
    """

    def __init__(self, edge: EdgeSession, outbox: Outbox, token: str, *, inline: bool, max_message_size: int) -> None:
        self.edge = edge
        self.connection = uuid.uuid4().hex
        self.outbox = outbox
        self.token = token
        self.inline = inline
        self.live = False
        self.joined: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.unanswered: deque[_Unanswered] = deque()
        self.answered = 0
        self._sent = 0
        self._unanswered_limit = max_message_size + UNANSWERED_BYTES
        self._unanswered_bytes = 0
        self._behind: deque[FrameRun | Reply] = deque()
        """What is to be written when the document that is being fetched is here."""
        self._behind_bytes = 0
        self._fetching: asyncio.Task[None] | None = None

    def receive(self, message: Message, fragments: tuple[str | bytes, ...]) -> Awaitable[None] | None:
        """Pass a message on to the owner."""
        if self.connection not in self.edge.viewers:
            return None  # it is being closed
        size = sum(map(len, fragments))
        if self._unanswered_bytes + size > self._unanswered_limit or len(self.unanswered) >= UNANSWERED_MESSAGES:
            raise ProtocolError("too much waits for the owner of the session", TRY_AGAIN_LATER)
        self._sent += 1
        awaited = message.msgtype != MessageType.PATCH_DOC
        if self.edge.tally is not None and not awaited:
            self.edge.tally.patches_in += 1
            self.edge.tally.patch_bytes_in += size
        now = asyncio.get_running_loop().time()
        trace = tracing.hop(message.msgtype) if tracing.on else ""
        transfer = ""
        if size > CHUNK_BYTES:
            packed = pack_fragments(fragments)
            transfer, fragments, size = self.edge.offer(packed), (), len(packed)
        self._unanswered_bytes += size
        sequence = self.edge.sequence
        self.unanswered.append(_Unanswered(self._sent, fragments, size, sequence, awaited, now, trace, transfer))
        self.edge.forward(self, self.unanswered[-1])
        return None

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
            complete = complete and (first.number == number or not first.awaited)
        self.answered = number
        return complete

    def send(self, item: FrameRun | Reply) -> None:
        """Write frames to the connection, or the answer whose frames have to be fetched; in the order of the calls."""
        if self._fetching is None and isinstance(item, FrameRun):
            self.outbox.send(item)
            return
        if self._behind_bytes > HELD_BYTES:
            log.warning("viewer is closed: too much came while its document was being fetched; it may come back")
            self.edge.drop(self)
            return
        self._behind.append(item)
        self._behind_bytes += len(item) if isinstance(item, FrameRun) else 0
        if self._fetching is None:
            self._fetching = asyncio.ensure_future(self._write_behind())

    def stop(self) -> None:
        """The connection has ended, or is about to: offer, fetch and write nothing more."""
        for message in self.unanswered:
            self.edge.withdraw_offer(message.transfer)
        self._behind.clear()
        if self._fetching is not None:
            self._fetching.cancel()

    async def _write_behind(self) -> None:
        while self._behind:
            item = self._behind.popleft()
            if isinstance(item, FrameRun):
                self._behind_bytes -= len(item)
                self.outbox.send(item)
                continue
            frames = await self.edge.fetch(item)
            if frames is None:
                self.edge.drop(self)
                return
            self.outbox.send(FrameRun(frames))
        self._fetching = None


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
        self._latest = 0
        """The highest sequence number that is known to exist."""
        self.heard_at = asyncio.get_running_loop().time()
        self._post = post
        self._hostile = hostile
        self._ended = ended
        self._held: deque[Patches] = deque()
        self._held_bytes = 0
        self._waiting: deque[Reply] = deque()
        self._missed = False
        """Whether patches were lost on the way: else those that are read from the stream were never on it."""
        self._repair: asyncio.Task[None] | None = None
        self._resending: asyncio.Task[None] | None = None
        self._sends: set[asyncio.Future[Any]] = set()
        self._over = False

    # Connections

    def enter(self, viewer: EdgeViewer) -> None:
        """Count a connection in and announce it to the owner."""
        self.viewers[viewer.connection] = viewer
        self._send(self._join_of(viewer))

    def leave(self, viewer: EdgeViewer, *, lost: bool = True) -> None:
        """Count a connection out, as one whose page may come back unless `lost` is false; harmless twice."""
        if self.viewers.pop(viewer.connection, None) is None:
            return
        viewer.stop()
        if not viewer.joined.done():
            viewer.joined.cancel()
        self.say_left(self.owner, viewer.connection, lost=lost)
        if not self.viewers:
            self._end()

    def say_left(self, owner: str, connection: str, *, lost: bool = True) -> None:
        """Tell the owner of a connection's end: else it would keep the session, and publish, for nobody."""
        self._track(self._say_left(owner, Leave(self.session_key, self._post.me, connection, lost)))

    def forward(self, viewer: EdgeViewer, message: _Unanswered) -> None:
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
            if not 0 < reply.size <= MAX_TRANSFER:
                raise TransferFailed(f"{reply.size} bytes are too many")
            return await self._post.fetch(self.owner, reply.transfer, reply.size)
        except TransferFailed as problem:
            log.warning("session %s: a document could not be fetched: %s", self._short(), problem)
            return None

    def drop(self, viewer: EdgeViewer) -> None:
        """Close a connection that is out of step with the owner; its browser comes back and pulls afresh."""
        self.leave(viewer)
        self._shut(viewer, SERVICE_RESTART, "out of step")

    def close_all(self, code: int = SERVICE_RESTART, reason: str = "out of step") -> None:
        """Close every connection; their browsers come back and pull afresh."""
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
        except ValueError as problem:
            self._hostile.count("a session's channel", problem)
            return
        self._heed(envelope)

    def take_joined(self, joined: Joined) -> None:
        """The owner has counted a connection in, or says again where it is."""
        viewer = self.viewers.get(joined.connection)
        if viewer is None:
            self.say_left(joined.owner, joined.connection)
            return
        self._heard()
        if self.epoch is None:
            self.epoch, self.sequence = joined.epoch, joined.sequence
        elif joined.epoch != self.epoch:
            self.close_all()
            return
        elif joined.sequence > self.sequence:
            self._miss(joined.sequence)
        if not viewer.joined.done():
            viewer.joined.set_result(None)
        if joined.received < viewer.answered:
            self.drop(viewer)  # the owner took this worker for dead, and now knows nothing of what it has had
            return
        for message in viewer.unanswered:
            if message.number > joined.received or message.number == joined.answered:
                self.forward(viewer, message)

    def take_reply(self, reply: Reply) -> None:
        """Take the answer to a viewer's message: behind the patches that it must not overtake."""
        viewer = self.viewers.get(reply.connection)
        if viewer is None:
            return
        self._heard()
        if self.epoch != reply.epoch:
            self.close_all()
        elif self._repair is not None or reply.after > self.sequence:
            self._waiting.append(reply)
            self._miss(reply.after)
        else:
            self._answer(viewer, reply)

    def refuse(self, connection: str, code: int, reason: str) -> None:
        """The owner does not want this connection."""
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
        self._start_repair()

    def bus_is_back(self) -> None:
        """As `resynchronise`; and that the owner was silent while the bus was away says nothing of it."""
        self._heard()
        self.resynchronise()

    def ask_about_unanswered(self) -> None:
        """Ask the owner about messages that it should have answered by now; it may be busy, or never have had them."""
        before = asyncio.get_running_loop().time() - UNANSWERED_TIME
        for viewer in self.viewers.values():
            if viewer.unanswered and viewer.unanswered[0].at < before:
                self._send(self._join_of(viewer))

    # Inside

    def _heard(self) -> None:
        self.heard_at = asyncio.get_running_loop().time()

    def _shut(self, viewer: EdgeViewer, code: int, reason: str) -> None:
        viewer.stop()
        if viewer.joined.done():
            viewer.outbox.close(code, reason)
        else:
            viewer.joined.cancel()  # nothing is lost yet: whoever lets it in looks for the owner once more

    def _heed(self, envelope: Envelope) -> None:
        self._heard()
        if self.epoch is None or self._over:
            return  # not joined yet: nobody here has the document
        match envelope:
            case Patches():
                self._take_patches(envelope)
            case Stored(epoch=epoch, last=last):
                if epoch > self.epoch:
                    self.close_all()
                elif epoch == self.epoch and last > self.sequence:
                    self._read_up_to(last)
            case Probe(epoch=epoch, sequence=sequence):
                if epoch > self.epoch:
                    self.close_all()
                elif epoch == self.epoch and sequence > self.sequence:
                    self._miss(sequence)
            case SessionEnded(epoch=epoch, code=code, reason=reason):
                if epoch >= self.epoch:
                    self.close_all(code, reason)

    def _take_patches(self, patches: Patches) -> None:
        if patches.epoch != self.epoch:
            if patches.epoch > (self.epoch or 0):
                self.close_all()  # another owner: its document is not the one that is shown here
            return
        if self._repair is not None:
            self._hold(patches)
        elif patches.first > self.sequence + 1:
            self._hold(patches)
            self._miss(patches.last)
        else:
            self._apply(patches)

    def _apply(self, patches: Patches) -> None:
        for sequence, relayed in enumerate(patches.patches, patches.first):
            if sequence <= self.sequence:
                continue  # seen: from the stream, or published twice because nobody knew whether it had been
            if sequence != self.sequence + 1:
                raise AssertionError("the caller has looked for holes")
            self._answer_due()  # a document that was pulled before this patch lacks it
            self.sequence = sequence
            self._write(relayed)

    def _write(self, relayed: Relayed) -> None:
        run = FrameRun(relayed.frames) if relayed.frames else None
        written = 0
        for connection, viewer in tuple(self.viewers.items()):
            if connection in relayed.variants:
                self._write_variant(viewer, relayed)
            elif run is not None and viewer.live:
                viewer.send(run)
                written += 1
        if self.tally is not None:
            self.tally.patches_out += written
            self.tally.patch_bytes_out += written * len(relayed.frames)

    def _write_variant(self, viewer: EdgeViewer, relayed: Relayed) -> None:
        frames = relayed.variants[viewer.connection]
        number = relayed.answers.get(viewer.connection)
        if number is not None and not viewer.note_answer(number):
            self.drop(viewer)
        elif frames and viewer.live:
            viewer.send(FrameRun(frames))

    def _answer(self, viewer: EdgeViewer, reply: Reply) -> None:
        if reply.number <= viewer.answered:
            return  # answered before: this one was sent again
        begins = reply.live and not viewer.live
        if not viewer.note_answer(reply.number) or (begins and reply.after < self.sequence):
            # An answer is lost; or this document came late, and of the patches since it has had none.
            self.drop(viewer)
            return
        viewer.live = viewer.live or reply.live
        viewer.send(reply if reply.transfer else FrameRun(reply.frames))

    def _answer_due(self) -> None:
        """Give the waiting answers whose turn it is: behind the patches before them, ahead of those after them."""
        if not self._waiting:
            return
        waiting, self._waiting = self._waiting, deque()
        for reply in waiting:
            viewer = self.viewers.get(reply.connection)
            if reply.after > self.sequence:
                self._waiting.append(reply)
            elif viewer is not None:
                self._answer(viewer, reply)

    # Repair

    def _hold(self, patches: Patches) -> None:
        self._held.append(patches)
        self._latest = max(self._latest, patches.last)
        for relayed in patches.patches:
            self._held_bytes += len(relayed.frames) + sum(map(len, relayed.variants.values()))
        if self._held_bytes > HELD_BYTES:
            log.warning("session %s: too much came while a hole was being filled", self._short())
            if self._relay_tally is not None:
                self._relay_tally.lost += 1
            self.close_all()

    def _miss(self, latest: int) -> None:
        """There are patches up to this one, and some that are not here were lost on the way."""
        self._missed = True
        self._read_up_to(latest)

    def _read_up_to(self, latest: int) -> None:
        """There are patches up to this one, and not all of them are here."""
        self._latest = max(self._latest, latest)
        self._start_repair()

    def _start_repair(self) -> None:
        if self._repair is None and not self._over:
            self._repair = asyncio.ensure_future(self._fill_hole())

    async def _fill_hole(self) -> None:
        known = self.sequence
        problem = await self._try_to_catch_up()
        missed, self._missed = self._missed, False
        self._repair = None
        if self._relay_tally is not None and not self._over:
            self._relay_tally.lost += problem is not None
            self._relay_tally.repaired += missed and problem is None and self.sequence > known
        if problem is None:
            self._answer_due()
        elif not self._over:
            log.warning("session %s: %s; its viewers here pull afresh", self._short(), problem)
            self.close_all()

    async def _try_to_catch_up(self) -> str | None:
        """Whatever goes wrong, the repair ends: until it has, nothing that comes is written to anybody."""
        try:
            return await self._catch_up()
        except ValueError as problem:
            self._hostile.count("a session's stream", problem)
            return "its stream holds what is none of ours"
        except Exception:
            log.exception("session %s: a hole could not be filled", self._short())
            return "patches are lost"

    async def _catch_up(self) -> str | None:
        """Take what is missing from the stream; returns why that cannot be done.

        A stream that is gone is no loss by itself: perhaps nothing is missing, as the owner's answer to a Join tells.
        """
        while True:
            known = self._latest
            try:
                missing = await self._read()
            except TimeoutError:
                return "the bus was away too long"
            for payload in missing or ():
                self._apply_from_stream(payload)
            self._let_go()
            if self.sequence >= self._latest:
                return None
            if self._latest == known:  # else more were published since the stream was read
                return "patches are lost"

    async def _read(self) -> list[bytes] | None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + REPAIR_TIME
        while True:
            try:
                return await self._post.read(
                    self.session_key, self.sequence
                )  # which may itself take long: it is in parts
            except BusDown:
                if loop.time() > deadline:
                    raise TimeoutError from None
                await asyncio.sleep(SEND_AGAIN)

    def _apply_from_stream(self, payload: bytes) -> None:
        try:
            envelope = Envelope.unpack(payload, MAX_STORED)
        except ValueError as problem:
            self._hostile.count("a session's stream", problem)
            return
        if isinstance(envelope, Patches) and envelope.epoch == self.epoch and envelope.first <= self.sequence + 1:
            self._apply(envelope)

    def _let_go(self) -> None:
        """Go on with what came meanwhile, as far as it now follows."""
        held, self._held, self._held_bytes = self._held, deque(), 0
        for patches in held:
            if patches.first <= self.sequence + 1:
                self._apply(patches)
            else:
                self._hold(patches)

    # Sending

    def _join_of(self, viewer: EdgeViewer) -> Join:
        return Join(self.session_key, self._post.me, viewer.connection, viewer.token, viewer.inline)

    def _send(self, envelope: Envelope) -> None:
        self._track(self._post.send(self.owner, envelope)).add_done_callback(self._on_sent)

    async def _say_left(self, owner: str, leave: Leave) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(LEAVE_TIME):
                while True:
                    try:
                        await self._post.send(owner, leave)
                        return
                    except BusDown:
                        await asyncio.sleep(SEND_AGAIN)

    def _track(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.ensure_future(work)
        self._sends.add(task)
        task.add_done_callback(self._sends.discard)
        return task

    def _on_sent(self, sending: asyncio.Future[int]) -> None:
        if sending.cancelled() or self._over:
            return
        problem = sending.exception()
        if problem is not None and not isinstance(problem, BusDown):
            log.error("sending to a session's owner failed", exc_info=problem)
        if (problem is not None or sending.result() == 0) and self._resending is None:
            self._resending = asyncio.ensure_future(self._send_again_soon())

    async def _send_again_soon(self) -> None:
        await asyncio.sleep(SEND_AGAIN)
        self._resending = None
        if self.viewers:
            self.resynchronise()

    def _end(self) -> None:
        if self._over:
            return
        self._over = True
        for task in (self._repair, self._resending):
            if task is not None and task is not asyncio.current_task():
                task.cancel()
        self._ended(self)

    def _short(self) -> str:
        return short_id(session_key_parts(self.session_key)[1])
