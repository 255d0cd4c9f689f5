"""Viewers of a session without a socket: Bokeh's own message classes and documents at the far end of an outbox.

What a session sends is taken apart as websocket frames (RFC 6455, section 5.2), assembled by `bokeh.protocol`'s
receiver and applied to a real `Document`. What a peer changes in its document is turned into messages by
`bokeh.protocol` and goes through our assembler. So whatever only our two halves could agree on fails the test.
"""

from __future__ import annotations

import asyncio
import functools
import json
import time
import warnings
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any, ParamSpec, cast

from bokeh.core.serialization import Serializer
from bokeh.document import Document
from bokeh.document.events import DocumentChangedEvent, DocumentPatchedEvent
from bokeh.events import Event
from bokeh.model import Model
from bokeh.protocol import Protocol
from bokeh.protocol import receiver as bokeh_receiver
from bokeh.protocol.message import Message
from support.outboxes import PlayedOutbox
from support.patience import run

from aperture.document.ids import IdSequence
from aperture.protocol.fragments import Assembler
from aperture.protocol.frames import FrameRun
from aperture.worker.app_threads import ON_LOOP, AppCode
from aperture.worker.document.loading import new_document
from aperture.worker.patch.inbound import receive
from aperture.worker.patch.viewer import Viewer
from aperture.worker.session.session import Session

__all__ = ["Mailbox", "Peer", "fragments_of", "holding", "in_loop", "make_session", "messages_of", "state_of"]

P = ParamSpec("P")

_TEXT = 0x81
_BINARY = 0x82
_MAX_MESSAGE = 20 * 1024 * 1024

_protocol = Protocol()


def in_loop(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Run a test that is a coroutine in an event loop of its own."""

    @functools.wraps(test)
    def sync(*args: P.args, **kwargs: P.kwargs) -> None:
        run(test(*args, **kwargs))

    return sync


def holding(session: Session, released: asyncio.Event) -> asyncio.Task[None]:
    """A task that holds the document, as an app's coroutine does, until the event."""

    async def wait() -> None:
        await released.wait()

    return asyncio.create_task(session.with_document_locked(wait))


def fragments_of(frames: bytes) -> Iterator[str | bytes]:
    """The websocket messages in a run of whole, final, unmasked, uncompressed frames."""
    while frames:
        first, size, head = frames[0], frames[1], 2
        if size > 125:
            head += 2 if size == 126 else 8
            size = int.from_bytes(frames[2:head], "big")
        payload = frames[head : head + size]
        assert len(payload) == size, "a run holds whole frames"
        assert first in (_TEXT, _BINARY)
        yield payload.decode() if first == _TEXT else payload
        frames = frames[head + size :]


def messages_of(run_of_frames: FrameRun) -> list[Message[Any]]:
    """The messages of a run as Bokeh's own receiver assembles them; nothing may be left over."""
    receiver = bokeh_receiver.Receiver(_protocol)
    found = []
    message: Message[Any] | None = None
    for fragment in fragments_of(run_of_frames.plain):
        message = _completed(receiver.consume(fragment))
        if message is not None:
            found.append(message)
    assert message is not None, "a run ends where a message ends"
    return found


def _completed(work: Coroutine[Any, Any, Any]) -> Any:
    """The result of a coroutine that waits for nothing."""
    try:
        work.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("it waited for something")


class Mailbox(PlayedOutbox):
    """An outbox that keeps what is sent: one list of messages for each write."""

    def __init__(self) -> None:
        self.writes: list[list[Message[Any]]] = []
        self.runs: list[bytes] = []
        """The bytes of each write."""
        self.closed: tuple[int, str] | None = None
        self._unread = 0

    def send(self, run_of_frames: FrameRun) -> None:
        if self.closed is None:
            self.runs.append(run_of_frames.plain)
            self.writes.append(messages_of(run_of_frames))

    def close(self, code: int, reason: str) -> None:
        if self.closed is None:
            self.closed = (code, reason)

    def unread(self) -> list[Message[Any]]:
        """The messages since the last call."""
        fresh = [message for write in self.writes[self._unread :] for message in write]
        self._unread = len(self.writes)
        return fresh


class Peer:
    """One simulated client: its connection, and the document it has pulled.

    Args:
        session: whom it is connected to.
        token: as it would come in the websocket's subprotocol.
        inline_pulls: what the connection handler has found out about the token.
    """

    def __init__(self, session: Session, *, token: str = "token", inline_pulls: bool = False) -> None:
        self.session = session
        self.mailbox = Mailbox()
        self.viewer = Viewer(self.mailbox, token, inline_pulls=inline_pulls)
        self.document = Document()
        self.changes: list[Message[Any]] = []
        """Messages of changes made here and not given to the session yet."""
        self._applying = False
        self._assembler = Assembler(_MAX_MESSAGE)
        self.document.on_change(self._on_change)
        session.attach(self.viewer)

    @classmethod
    def pulled(cls, session: Session, **options: Any) -> Peer:
        """A peer that has the document already."""
        peer = cls(session, **options)
        assert peer.pull() is None
        peer.read()
        return peer

    # To the session

    def send(self, message: Message[Any]) -> Awaitable[None] | None:
        """Give the session a message, as its bytes."""
        fragments = [message.header_json, message.metadata_json, message.content_json]
        found = None
        for fragment in fragments:
            found = self._assembler.feed(fragment)
        for buffer in message.buffers:
            self._assembler.feed(json.dumps(buffer.ref))
            found = self._assembler.feed(buffer.to_bytes())
        assert found is not None
        return receive(self.session, self.viewer, found)

    def pull(self) -> Awaitable[None] | None:
        return self.send(_protocol.create("PULL-DOC-REQ"))

    def push(self, document: Document) -> Awaitable[None] | None:
        return self.send(_protocol.create("PUSH-DOC", document))

    def ask(self, msgtype: str) -> Awaitable[None] | None:
        """Send a message without content, of whatever type."""
        return self.send_content(msgtype, {})

    def send_content(self, msgtype: str, content: Any) -> Awaitable[None] | None:
        """Send a message that no Bokeh would make."""
        return self._send_raw({"msgid": f"raw-{msgtype}", "msgtype": msgtype}, content)

    def send_events(self, *events: dict[str, Any]) -> Awaitable[None] | None:
        """Send the events of a patch as JSON."""
        return self.send_content("PATCH-DOC", {"events": list(events)})

    def send_event(self, event: Event) -> Awaitable[None] | None:
        """Tell of a UI event, such as a click."""
        rep = Serializer().encode(event)
        return self.send_events({"kind": "MessageSent", "msg_type": "bokeh_event", "msg_data": rep})

    def change(self, act: Callable[[], object]) -> None:
        """Change this peer's document and give the session the changes at once."""
        act()
        self.flush()

    def flush(self) -> None:
        """Give the session all changes made here."""
        changes, self.changes = self.changes, []
        for message in changes:
            self.send(message)

    # From the session

    def read(self) -> list[str]:
        """Apply all that has arrived; the types of the messages, in order."""
        return [self.take(message) for message in self.mailbox.unread()]

    def take(self, message: Message[Any]) -> str:
        """Apply one message as Bokeh's own client does; returns its type."""
        self._applying = True
        try:
            self._apply(message)
        finally:
            self._applying = False
        kind: str = message.msgtype
        return kind

    def _apply(self, message: Message[Any]) -> None:
        with warnings.catch_warnings():
            # A model may be sent in full to a peer that has it already, which only Python warns of it.
            warnings.filterwarnings("ignore", "reference already known")
            if message.msgtype == "PATCH-DOC":
                message.apply_to_document(self.document, setter=self)  # type: ignore[attr-defined]
            elif message.msgtype == "PULL-DOC-REPLY":
                message.push_to_document(self.document)  # type: ignore[attr-defined]

    def find(self, model: Model) -> Any:
        """This peer's copy of a model of the session's document."""
        found = self.document.get_model_by_id(model.id)
        assert found is not None, f"the peer has no {model!r}"
        return found

    def is_equal(self) -> bool:
        """Whether this peer's document is the session's."""
        return state_of(self.document) == state_of(self.session.document)

    def _on_change(self, event: DocumentChangedEvent) -> None:
        if not self._applying and cast("object", event.setter) is not self and isinstance(event, DocumentPatchedEvent):
            self.changes.append(_protocol.create("PATCH-DOC", [event]))

    def _send_raw(self, header: dict[str, Any], content: Any) -> Awaitable[None] | None:
        self._assembler.feed(json.dumps(header))
        self._assembler.feed("{}")
        message = self._assembler.feed(json.dumps(content))
        assert message is not None
        return receive(self.session, self.viewer, message)


def state_of(document: Document) -> dict[str, Any]:
    """All that matters of a document, to be compared. Unlike `Document.to_json` it changes nothing."""
    serializer = Serializer(deferred=False)
    return {"title": document.title, "roots": serializer.encode(document.roots)}


def make_session(
    *roots: Model,
    session_id: str = "session",
    document: Document | None = None,
    code: AppCode = ON_LOOP,
    clock: Callable[[], float] = time.monotonic,
) -> Session:
    """A session whose document has these roots. A loop must be running."""
    document = document or new_document()
    for root in roots:
        document.add_root(root)
    ids = IdSequence(session_id)
    return Session(session_id, document, ids=ids, issue_token=lambda name: f"token of {name}", code=code, clock=clock)
