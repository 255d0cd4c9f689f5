"""What a viewer's messages do to its session.

A failure of the app's code is answered with ERROR and the connection goes on, as in Bokeh, though without the
traceback: that is for the log, not for whoever looks at the page.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, cast

from bokeh import __version__ as bokeh_version
from bokeh.document import Document
from bokeh.document.callbacks import invoke_with_curdoc

from aperture import tracing
from aperture.document.applying import apply_event
from aperture.errors import PeerError, ProtocolError
from aperture.log import short_id
from aperture.protocol import messages
from aperture.protocol.closing import INTERNAL_ERROR
from aperture.protocol.codec import decode_document, decode_patch
from aperture.protocol.frames import FrameRun
from aperture.protocol.messages import Message
from aperture.worker.session.session import Session
from aperture.worker.session.viewer import Viewer

if TYPE_CHECKING:
    from bokeh.model import Model

__all__ = ["receive"]

log = logging.getLogger(__name__)


def receive(session: Session, viewer: Viewer, message: Message, *, in_turn: bool = False) -> Awaitable[None] | None:
    """Act on one message. Returns an awaitable if the document is busy, None if all is done.

    Args:
        session: that the viewer is attached to.
        viewer: who has sent it.
        message: its message.
        in_turn: whether it has waited for its turn among the worker's pulls.

    Raises:
        ProtocolError: the message is not one that a client may send, or not of its form. The awaitable raises it too.
        SessionGone: the session was discarded.
    """
    if message.msgtype == "PULL-DOC-REQ" and session.pulls.turns.taken and not in_turn:
        return _pull_in_turn(session, viewer, message)
    match message.msgtype:
        case "PATCH-DOC":
            act: Callable[[], FrameRun] = lambda: _patch(session, viewer, message)  # noqa: E731
        case "PULL-DOC-REQ":
            act = lambda: _pull(session, viewer, message)  # noqa: E731
        case "PUSH-DOC":
            act = lambda: _push(session, viewer, message)  # noqa: E731
        case "SERVER-INFO-REQ":
            viewer.outbox.send(messages.server_info_reply(message.msgid, bokeh_version))
            return None
        case _:
            raise ProtocolError(f"a client may not send {message.msgtype[:40]}")
    if tracing.on:
        act = tracing.callback(message.msgtype, act, viewer.trace)
    return session.run_locked(viewer, act, on_error=lambda problem: _failed(session, viewer, message, problem))


async def _pull_in_turn(session: Session, viewer: Viewer, message: Message) -> None:
    await session.pulls.turns.take()
    work = receive(session, viewer, message, in_turn=True)
    if work is not None:
        await work


def _patch(session: Session, viewer: Viewer, message: Message) -> FrameRun:
    document = session.document
    models = document.models
    find = cast("Callable[[str], Model | None]", models.get_by_id)
    seen = cast("Callable[[str], bool]", models.seen)
    reps = decode_patch(message, find=find, seen=seen, setter=viewer)
    if reps is None:
        log.debug("session %s: dropped a patch of a model that has left the document", short_id(session.id))
        return messages.ok(message.msgid)

    def apply() -> None:
        for rep in reps:
            apply_event(document, rep, viewer)

    started = time.perf_counter()
    try:
        invoke_with_curdoc(document, apply)
    finally:
        if session.tally is not None:
            session.tally.callback.observe(time.perf_counter() - started)
    return _done(session, message)


def _pull(session: Session, viewer: Viewer, message: Message) -> FrameRun:
    document = session.whole_document(inline=viewer.inline_pulls)
    session.mark_pulled(viewer)
    return messages.pull_reply_of(message.msgid, document, epoch=session.epoch, sequence=session.sequence)


def _push(session: Session, viewer: Viewer, message: Message) -> FrameRun:
    document: Document = session.document
    pushed = decode_document(message.content, message.buffers)
    document.replace_with_json(pushed)  # type: ignore[arg-type]
    session.mark_pulled(viewer)
    return _done(session, message)


def _done(session: Session, message: Message) -> FrameRun:
    """As in Bokeh, whoever caused something that cannot be encoded is told so; all else that it did has happened."""
    problem = session.unencodable
    return messages.ok(message.msgid) if problem is None else messages.error(message.msgid, _text_of(problem))


def _failed(session: Session, viewer: Viewer, message: Message, problem: Exception) -> FrameRun:
    if isinstance(problem, ProtocolError):
        raise problem  # not a refusal but a peer that does not speak the protocol: its connection is closed
    where = f"session {short_id(session.id)} of {session.app}"
    if isinstance(problem, PeerError):
        log.warning("%s: %s refused: %s", where, message.msgtype, problem)
    else:
        log.error("%s: handling %s failed", where, message.msgtype, exc_info=problem)
    if message.msgtype == "PULL-DOC-REQ":
        # Without the document no patch is for it. BokehJS asks for the document again only on a new connection, so
        # behind the answer this one is closed; it tries five times.
        asyncio.get_running_loop().call_soon(viewer.outbox.close, INTERNAL_ERROR, "the document cannot be encoded")
    return messages.error(message.msgid, _text_of(problem))


def _text_of(problem: Exception) -> str:
    return f"{type(problem).__name__}: {problem}"
