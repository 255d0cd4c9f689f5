"""What viewers in other workers send: taken in each viewer's order, each message once, and acted on by the session."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from aperture.errors import BusDown, ProtocolError, SessionGone, TransferFailed
from aperture.log import short_id
from aperture.protocol.closing import INTERNAL_ERROR, MESSAGE_TOO_BIG, SERVICE_RESTART
from aperture.protocol.messages import Message
from aperture.wire.envelopes import Fragments, FromClient, unpack_fragments
from aperture.worker.patch.viewer import Viewer
from aperture.worker.relay.audience import RemoteViewer, SessionAudience
from aperture.worker.session.session import Session

__all__ = ["Inbox", "Receive"]

log = logging.getLogger(__name__)


PACKED_OVERHEAD = 1024 * 1024
"""Bytes by which the fragments of a message may be longer when they are packed: five for each buffer and each id."""

Fetch = Callable[[str, str, int], Awaitable[bytes]]
"""As `aperture.worker.relay.transfers.Transfers.fetch`."""


Receive = Callable[[Session, Viewer, Message], Awaitable[None] | None]
"""As `aperture.worker.patch.inbound.receive`."""


class Inbox:
    """Takes the messages of viewers elsewhere, each viewer's in its order, and has the session act on them.

    Args:
        receive: acts on one message, as `aperture.worker.patch.inbound.receive`.
        fetch: gets what is too large to be sent.
    """

    def __init__(self, receive: Receive, fetch: Fetch) -> None:
        self._receive = receive
        self._fetch = fetch
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def idle(self) -> bool:
        """Whether no message is being fetched or acted on."""
        return not self._tasks

    def take(self, session: Session, audience: SessionAudience, viewer: RemoteViewer, letter: FromClient) -> None:
        """Take one message. One that came before is only answered again; ahead of one too early, another is missing."""
        number = letter.number
        if number <= viewer.received:
            # It was answered, and the answer may be lost. One that was received and is not answered is being worked on.
            if number == viewer.answered:
                audience.answer_again(viewer)
            return
        # Dropped and not stored: the edge has it until it is answered, and sends all that is missing in order.
        if number != viewer.received + 1:
            audience.ask_again(viewer)
            return
        # At once, also where it has to be fetched first: its edge must not send it again meanwhile.
        viewer.received = number
        viewer.letters.append(letter)
        self._open_letters(session, audience, viewer)

    def _open_letters(self, session: Session, audience: SessionAudience, viewer: RemoteViewer) -> None:
        """Assemble what has come, up to a message that has to be fetched first."""
        try:
            while viewer.letters and not viewer.fetching:
                letter = viewer.letters[0]
                # The viewer's later messages wait for it, in order; other viewers' do not.
                if letter.transfer:
                    viewer.fetching = True
                    self._track(self._fetch_first(session, audience, viewer))
                else:
                    viewer.letters.popleft()
                    self._assemble(viewer, letter, letter.fragments)
        except ProtocolError as problem:
            _close_at_fault(session, audience, viewer, problem)
            return
        self._pump(session, audience, viewer)

    def _assemble(self, viewer: RemoteViewer, letter: FromClient, fragments: Fragments) -> None:
        for fragment in fragments:
            message = viewer.assembler.feed(fragment)
            if message is not None:
                viewer.pending.append((message, letter.seen, letter.trace))

    async def _fetch_first(self, session: Session, audience: SessionAudience, viewer: RemoteViewer) -> None:
        letter = viewer.letters[0]
        try:
            # Before it is fetched: the size that the edge gives is what memory is taken for.
            if not 0 < letter.size <= viewer.max_message_size + PACKED_OVERHEAD:
                raise ProtocolError(f"message is larger than {viewer.max_message_size} bytes", MESSAGE_TOO_BIG)
            fragments = unpack_fragments(await self._fetch(letter.edge, letter.transfer, letter.size))
            # It has left while its message was on the way here.
            if not audience.has(viewer):
                return
            self._assemble(viewer, letter, fragments)
        except ProtocolError as problem:
            _close_at_fault(session, audience, viewer, problem)
            return
        except (TransferFailed, ValueError) as problem:
            if audience.has(viewer):  # else its edge keeps the message no longer
                log.warning("session %s: a viewer's message could not be fetched: %s", short_id(session.id), problem)
                audience.refuse(viewer, SERVICE_RESTART, "a message is lost")
            return
        # Not in a `finally`: where it fails the viewer is closed, and nothing of it may be assembled any more.
        viewer.fetching = False
        viewer.letters.popleft()
        self._open_letters(session, audience, viewer)

    def _pump(self, session: Session, audience: SessionAudience, viewer: RemoteViewer) -> None:
        try:
            while viewer.pending and not viewer.busy:
                # Looked at, and taken out only when it is admitted: `again` finds it in its place.
                if not audience.admits(viewer, viewer.pending[0][0], lambda: self._pump(session, audience, viewer)):
                    return
                message, viewer.seen, viewer.trace = viewer.pending.popleft()
                viewer.slice.begin()
                # As from a websocket here: a coroutine only where the document is busy, or app code is asynchronous.
                work = self._receive(session, viewer, message)
                give_way = viewer.slice.end()
                if work is not None:
                    viewer.busy = True
                    self._track(self._finish(work, session, audience, viewer))
                elif give_way:
                    viewer.busy = True  # what comes meanwhile waits behind what is pending
                    asyncio.get_running_loop().call_soon(self._resume, session, audience, viewer)
        except Exception as problem:
            self._refuse(session, audience, viewer, problem)

    def _track(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _resume(self, session: Session, audience: SessionAudience, viewer: RemoteViewer) -> None:
        viewer.busy = False
        self._pump(session, audience, viewer)

    async def _finish(
        self, work: Awaitable[None], session: Session, audience: SessionAudience, viewer: RemoteViewer
    ) -> None:
        try:
            await work
        except Exception as problem:
            self._refuse(session, audience, viewer, problem)
        self._resume(session, audience, viewer)

    def _refuse(self, session: Session, audience: SessionAudience, viewer: RemoteViewer, problem: Exception) -> None:
        """Its message cannot be answered, and would be sent again for ever."""
        match problem:
            case ProtocolError():
                _close_at_fault(session, audience, viewer, problem)
            case SessionGone():
                audience.refuse(viewer, SERVICE_RESTART, "the session is gone")
            case BusDown():
                # An operator reads of the bus once, from what watches it; a traceback for each message says no more.
                log.warning("session %s: message of a viewer elsewhere not handled: %s", short_id(session.id), problem)
                audience.refuse(viewer, SERVICE_RESTART, "the bus is down")
            case _:
                log.error("session %s: a message could not be handled", short_id(session.id), exc_info=problem)
                audience.refuse(viewer, INTERNAL_ERROR, "the message could not be handled")


def _close_at_fault(session: Session, audience: SessionAudience, viewer: RemoteViewer, problem: ProtocolError) -> None:
    # Here, as its own worker sees a close by the owner and not what the peer has done.
    log.warning("websocket of session %s, in another worker, broke the protocol: %s", short_id(session.id), problem)
    audience.refuse(viewer, problem.close_code, str(problem))
