"""What a viewer's messages do to its session.

If the app's code fails, the answer is ERROR and the connection stays open, as in Bokeh. Unlike Bokeh's, the answer has
no traceback: that goes to the log, because a visitor of the page must not see it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, cast

from bokeh import __version__ as bokeh_version
from bokeh.core.serialization import DeserializationError
from bokeh.document import Document
from bokeh.document.events import ModelChangedEvent
from bokeh.model import Model

from aperture import tracing
from aperture.document.applying import NamedModels, apply_event, bytes_copied, configures, replace_document
from aperture.document.current import invoke_with_curdoc
from aperture.document.nesting import check_nesting, restructures
from aperture.errors import PeerError, ProtocolError
from aperture.log import short_id
from aperture.protocol import messages
from aperture.protocol.closing import INTERNAL_ERROR, SERVICE_RESTART
from aperture.protocol.codec import decode_document, decode_patch
from aperture.protocol.frames import FrameRun
from aperture.protocol.message_type import MessageType
from aperture.protocol.messages import Message
from aperture.worker.app_threads import QUITTING, contained
from aperture.worker.patch.batch import Reach
from aperture.worker.patch.hold import Hold
from aperture.worker.patch.viewer import Viewer
from aperture.worker.session.session import Session

__all__ = ["receive"]

log = logging.getLogger(__name__)

_TEXT_LIMIT = 2000
"""Characters of an error that are answered or logged: Bokeh quotes values in its own, of any size."""


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
    if message.msgtype == MessageType.SERVER_INFO_REQ:
        viewer.outbox.send(messages.server_info_reply(message.msgid, bokeh_version))
        return None
    act = (_ACTIONS if viewer.here else _ACTIONS_OF_EDGES).get(message.msgtype)
    if act is None:
        raise ProtocolError(f"a client may not send {message.msgtype[:40]}")
    if act in _WHOLE and session.catch_up.pulls.turns.taken and not in_turn:
        return _pull_in_turn(session, viewer, message)
    # Patches sent while the message waits, here or in transit, were unknown to its sender: contention needs that.
    seen = session.fanout.sequence if viewer.seen is None else viewer.seen
    if session.stays.threaded and act not in _WHOLE:
        return _act_in_thread(session, viewer, message, act, seen)
    if session.held.try_enter():
        _act(session, viewer, message, act, seen)
        return None
    return _act_in_turn(session, viewer, message, act, seen)


def _act(session: Session, viewer: Viewer, message: Message, act: _Action, seen: int) -> None:
    """Apply one message under the lock, which has been taken; sends its changes, and behind them the reply."""
    with session.held.hold(viewer, seen) as hold:
        hold.reply = _reply_to(session, viewer, message, act, hold)


async def _act_in_turn(session: Session, viewer: Viewer, message: Message, act: _Action, seen: int) -> None:
    await session.held.enter()
    _act(session, viewer, message, act, seen)


async def _act_in_thread(session: Session, viewer: Viewer, message: Message, act: _Action, seen: int) -> None:
    await session.held.enter()
    with session.held.hold(viewer, seen) as hold:
        hold.reply = await session.stays.run(hold, partial(_reply_to, session, viewer, message, act, hold))


def _reply_to(session: Session, viewer: Viewer, message: Message, act: _Action, hold: Hold) -> FrameRun:
    try:
        if tracing.on:
            return tracing.callback(message.msgtype, lambda: act(session, viewer, message, hold), viewer.trace)()
        return act(session, viewer, message, hold)
    except Exception as problem:  # the changes made before it was raised still go out
        return _failed(session, viewer, message, problem)
    except QUITTING as problem:
        return _failed(session, viewer, message, contained(problem))


async def _pull_in_turn(session: Session, viewer: Viewer, message: Message) -> None:
    await session.catch_up.pulls.turns.take()
    work = receive(session, viewer, message, in_turn=True)
    if work is not None:
        await work


def _patch(session: Session, viewer: Viewer, message: Message, hold: Hold) -> FrameRun:
    document = session.document
    find, seen = NamedModels(document).find, document.models.seen
    reps = decode_patch(message, find=find, seen=seen, setter=viewer, allowance=viewer.allowance)
    if reps is None:
        log.debug("session %s: dropped a patch of a model that has left the document", short_id(session.id))
        return messages.ok(message.msgid)

    structural = any(map(restructures, reps))
    if structural:
        check_nesting(document, reps)

    def apply() -> None:
        for rep in reps:
            if structural and restructures(rep):
                # Not before all of them: what one adds, the next one has Bokeh look at, too.
                viewer.allowance.visit(len(document.models))
            if rep["kind"] != "ModelChanged":
                viewer.allowance.copy(bytes_copied(rep))
                apply_event(document, rep, viewer)
                continue
            model, attr = rep["model"], rep["attr"]
            # Asked before: the change itself may take the model out of the document.
            is_configuration = configures(document, model)
            apply_event(document, rep, viewer)
            if is_configuration:
                _write_down(session, model, attr, viewer)

    started = time.perf_counter()
    try:
        invoke_with_curdoc(document, apply)
    finally:
        session.fanout.tally.callback.observe(time.perf_counter() - started)
    return _done(hold, message)


def _write_down(session: Session, model: Model, attr: str, viewer: Viewer) -> None:
    """Record a change of the document's configuration in the journal. Like Bokeh, it is not sent to other viewers."""
    prop = model.lookup(attr, raises=False)
    if prop is not None:
        value = prop.get_value(model)
        changed = ModelChangedEvent(session.document, model, attr, value, cast("Any", viewer))
        session.held.record(changed, Reach.JOURNAL)


def _pull(session: Session, viewer: Viewer, message: Message, hold: Hold) -> FrameRun:
    document = session.catch_up.whole_document(inline=viewer.inline_pulls)
    session.catch_up.mark_pulled(viewer, hold)
    return messages.pull_reply(message.msgid, document, epoch=session.fanout.epoch, sequence=session.fanout.sequence)


def _refresh(session: Session, viewer: Viewer, message: Message, _hold: Hold) -> FrameRun:
    after = message.content.get("after") if isinstance(message.content, dict) else None
    if type(after) is not int:
        raise ProtocolError("a refresh without a number")
    run = session.catch_up.refresh(after)
    if run is not None:
        return run
    asyncio.get_running_loop().call_soon(viewer.outbox.close, SERVICE_RESTART, "too much has changed")
    return messages.error(message.msgid, "too much has changed since; the document has to be pulled")


def _push(session: Session, viewer: Viewer, message: Message, hold: Hold) -> FrameRun:
    document: Document = session.document
    pushed = decode_document(message, allowance=viewer.allowance)
    replace_document(document, pushed)
    session.catch_up.mark_pulled(viewer, hold)
    return _done(hold, message)


_Action = Callable[[Session, Viewer, Message, Hold], FrameRun]
"""Applies a message to the document that is held, and returns the reply."""

_ACTIONS: dict[str, _Action] = {
    MessageType.PATCH_DOC: _patch,
    MessageType.PULL_DOC_REQ: _pull,
    MessageType.PUSH_DOC: _push,
}

_ACTIONS_OF_EDGES: dict[str, _Action] = {**_ACTIONS, MessageType.REFRESH_REQ: _refresh}
"""For viewers in other workers, whose edges ask for them."""

_WHOLE = (_pull, _refresh)
"""What may take as long as a whole document."""


def _done(hold: Hold, message: Message) -> FrameRun:
    """The reply: OK, or as in Bokeh ERROR if a change that followed cannot be encoded. The others are applied."""
    problem = hold.batch.unencodable
    return messages.ok(message.msgid) if problem is None else messages.error(message.msgid, _text_of(problem))


def _failed(session: Session, viewer: Viewer, message: Message, problem: Exception) -> FrameRun:
    if isinstance(problem, ProtocolError):
        raise problem  # not a refusal but a peer that does not speak the protocol: its connection is closed
    where = f"session {short_id(session.id)} of {session.app}"
    if isinstance(problem, PeerError) or _is_peers(problem):
        log.warning("%s: %s refused: %s", where, message.msgtype, _text_of(problem))
    else:
        log.error("%s: handling %s failed", where, message.msgtype, exc_info=problem)
    if message.msgtype in (MessageType.PULL_DOC_REQ, MessageType.REFRESH_REQ):
        # Without the document no patch is for it. BokehJS asks for the document again only on a new connection, so
        # behind the answer this one is closed; it tries five times.
        asyncio.get_running_loop().call_soon(viewer.outbox.close, INTERNAL_ERROR, "the document cannot be encoded")
    return messages.error(message.msgid, _text_of(problem))


def _is_peers(problem: Exception) -> bool:
    """Whether it is a value that cannot be decoded; with a cause it may be a model of the app's that failed."""
    return isinstance(problem, DeserializationError) and problem.__cause__ is None


def _text_of(problem: Exception) -> str:
    text = f"{type(problem).__name__}: {problem}"
    return text if len(text) <= _TEXT_LIMIT else f"{text[:_TEXT_LIMIT]}..."
