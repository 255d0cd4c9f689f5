"""Workers with real clusters, stores and sessions on one made-up Redis, and clients that behave like BokehJS."""

from __future__ import annotations

import asyncio
import json
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, cast
from unittest import mock

from bokeh.application import Application
from bokeh.application.handlers import FunctionHandler
from bokeh.document import Document
from bokeh.document.events import DocumentChangedEvent, DocumentPatchedEvent
from bokeh.protocol import Protocol
from bokeh.protocol.message import Message as BokehMessage
from support.outboxes import PlayedOutbox
from support.peers import messages_of, state_of
from support.relay_bus import FakeBus, FakeRedis

from aperture.document import ids
from aperture.errors import BusDown, OwnerGone, ProtocolError, SessionGone
from aperture.metrics import RelayTally
from aperture.protocol.fragments import Assembler
from aperture.protocol.frames import FrameRun
from aperture.protocol.messages import Message
from aperture.registry.members import WorkerName
from aperture.registry.registry import Registry
from aperture.wire.envelopes import Hostile
from aperture.worker.collector import GarbageCollector
from aperture.worker.http.assets import Departures
from aperture.worker.http.render import ADDRESS, LOADED
from aperture.worker.http.resources import PageResources
from aperture.worker.patch import inbound
from aperture.worker.patch.viewer import Viewer
from aperture.worker.relay.claims import Claims
from aperture.worker.relay.cluster import Cluster
from aperture.worker.relay.edge_side import EdgeSide
from aperture.worker.relay.owner_side import OwnerSide
from aperture.worker.relay.post import Post
from aperture.worker.session.arrival import Arrival
from aperture.worker.session.attachment import Attachment
from aperture.worker.session.durability import NoRecovery
from aperture.worker.session.early import Making
from aperture.worker.session.host import AppHost, Origin
from aperture.worker.session.session import Session
from aperture.worker.session.store import SessionStore
from aperture.worker.session_access import SessionAccess

__all__ = ["Client", "Worker", "World", "world_of"]

APP = "/app"
SESSION = "a-session-of-some-length"

_MAX_MESSAGE = 20 * 1024 * 1024
_protocol = Protocol()


class Worker:
    """One worker, and its gateway."""

    def __init__(self, world: World, node: str, index: int) -> None:
        self.bus = FakeBus(world.redis)
        self.registry = Registry(self.bus, WorkerName(node, index, "life"))
        self.host = AppHost(
            APP,
            world.application,
            logout_url=None,
            issue_token=lambda name: f"token of {name}",
            clock=lambda: asyncio.get_running_loop().time(),
        )
        self.routes: list[str] = []
        self._world = world
        tally, hostile = RelayTally(), Hostile()
        post = Post(self.bus, self.registry, tally)
        self.claims = Claims(self.registry, self, NoRecovery())
        self.store = SessionStore({APP: self.host}, self.claims, GarbageCollector(), unused_lifetime=15)
        owners = OwnerSide(
            post,
            self.store,
            self._render,
            self._render_early,
            receive=self._receive,
            max_message_size=_MAX_MESSAGE,
            tally=tally,
        )
        self.edges = EdgeSide(
            post,
            self.registry,
            self,
            self.store,
            max_message_size=_MAX_MESSAGE,
            tallies={},
            relay_tally=tally,
            hostile=hostile,
        )
        self.cluster = Cluster(
            self.bus, self.registry, post, self.store, owners, self.edges, tally=tally, hostile=hostile
        )
        self.departures = Departures()
        """What is on its way out of this worker."""
        self.access = SessionAccess(self.store, self.claims, PageResources("", None), self.edges, self.departures)

    @property
    def name(self) -> str:
        return self.registry.me

    def arrival(self, session_id: str = SESSION, token: str = "token") -> Arrival:
        """A connection, or the request for a page, that has come to this worker."""
        return Arrival(self.host, session_id, lambda: Origin(None, {}), token=token)

    @property
    def session(self) -> Session | None:
        return self.host.sessions_by_id.get(SESSION)

    @property
    def is_idle(self) -> bool:
        """Whether nothing of any session elsewhere, and nothing under way, is left here."""
        listening = self.bus.subscriptions == [self.bus.names.inbox(self.name)]
        return self.cluster.idle and not self.claims.releasing and listening

    def _receive(self, session: Session, viewer: Viewer, message: Message) -> Any:
        self._world.handled[message.msgid] += 1
        return inbound.receive(session, viewer, message)

    def _render(self, session: Session, kind: str, arguments: dict[str, str]) -> str:
        return f"{kind} of {session.id}"

    def _render_early(self, making: Making, session_key: str, kind: str, arguments: dict[str, str]) -> str | None:
        if kind == LOADED:
            self.departures.when_gone(arguments[ADDRESS], making.go)
            return ""
        return None

    # Gateway

    async def announce(self, session_id: str) -> None:
        self.routes.append(f"+{session_id}")

    def retract(self, session_id: str) -> None:
        self.routes.append(f"-{session_id}")


class World:
    """Redis and the workers on it.

    Args:
        modify: fills a session's document.
        workers: how many; on two nodes in turn.
    """

    def __init__(self, modify: Callable[[Document], None], workers: int = 3, redis: FakeRedis | None = None) -> None:
        ids.install()
        self.redis = redis or FakeRedis()
        self.created = 0
        self.handled: Counter[str] = Counter()
        """Messages from elsewhere that were acted on, by their ids."""

        def counted(document: Document) -> None:
            self.created += 1
            modify(document)

        self.application = Application(FunctionHandler(counted))
        self.workers = [Worker(self, f"node-{index % 2}", index) for index in range(workers)]

    async def start(self) -> None:
        for worker in self.workers:
            await worker.cluster.start(wait=False)
        await asyncio.sleep(0.1)

    async def stop(self) -> None:
        for worker in self.workers:
            await worker.cluster.stop()

    @property
    def has_session(self) -> bool:
        return any(worker.session is not None for worker in self.workers)

    @property
    def owner(self) -> Worker:
        """The worker with the highest claim, if there is any."""
        owners = [worker for worker in self.workers if worker.session is not None]
        return max(owners, key=lambda worker: worker.session.fanout.epoch if worker.session else 0)

    @property
    def session(self) -> Session:
        session = self.owner.session
        assert session is not None
        return session

    def client(self, worker: int = 0, *, returning: bool = True) -> Client:
        return Client(self, self.workers[worker], returning=returning)


@contextmanager
def world_of(modify: Callable[[Document], None], workers: int = 3, redis: FakeRedis | None = None) -> Iterator[World]:
    """A world in the running loop, whose time leases go by. To be started."""
    clock = SimpleNamespace(monotonic=asyncio.get_running_loop().time)
    with mock.patch("aperture.registry.registry.time", clock):
        yield World(modify, workers, redis)


class _Mailbox(PlayedOutbox):
    """A connection's outbox."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.closed: tuple[int, str] | None = None

    def send(self, run: FrameRun) -> None:
        if self.closed is None:
            for message in messages_of(run):
                self._client.take(message)

    def close(self, code: int, reason: str) -> None:
        if self.closed is None:
            self.closed = (code, reason)
            self._client.on_closed()


class Client:
    """A browser tab, which pulls the document, and comes back when it is closed.

    Args:
        world: that it lives in.
        worker: that it connects to first.
        returning: whether it comes back.
    """

    def __init__(self, world: World, worker: Worker, *, returning: bool = True) -> None:
        self.world = world
        self.worker = worker
        """That it connects to next."""
        self.connected_to: Worker | None = None
        """That it connected to last: it may have to move while it connects."""
        self.document: Document | None = None
        self.mailbox = _Mailbox(self)
        self.types: list[str] = []
        self.sequences: list[tuple[int, int]] = []
        """Of the patches of this connection: epoch and sequence number."""
        self.closes: list[tuple[int, str]] = []
        self.answered: Counter[str] = Counter()
        """Replies by the message that they answer."""
        self.sent: list[str] = []
        """Messages of this connection."""
        self.attachment: Attachment | None = None
        self._token = f"token {id(self)}"
        self._returning = returning
        self._queue: asyncio.Queue[BokehMessage[Any]] = asyncio.Queue()
        self._pump: asyncio.Task[None] | None = None
        self._applying = False
        self._connecting = False
        self._over = False
        self._tasks: set[asyncio.Task[Any]] = set()

    # Connecting

    async def connect(self) -> None:
        """Open the connection, and ask for the document."""
        self._connecting = True
        try:
            await self._connect()
        finally:
            self._connecting = False

    async def _connect(self) -> None:
        while not self._over:
            self.mailbox = mailbox = _Mailbox(self)
            self.sent, self.sequences, self.document = [], [], None
            self._queue = asyncio.Queue()
            try:
                worker = self.worker
                attachment = await worker.access.enter(worker.arrival(token=self._token), mailbox)
            except (OwnerGone, BusDown, SessionGone):
                await asyncio.sleep(1)
                continue
            if mailbox.closed or self._over:
                attachment.leave()
                await asyncio.sleep(0.1)
                continue
            self.attachment, self.connected_to = attachment, worker
            self._pump = asyncio.ensure_future(self._run(attachment, mailbox, self._queue))
            self.pull()
            return

    async def _run(self, attachment: Attachment, mailbox: _Mailbox, queue: asyncio.Queue[BokehMessage[Any]]) -> None:
        """What the websocket's handler does: one message after the other."""
        assembler = Assembler(_MAX_MESSAGE)
        while True:
            message = await queue.get()
            try:
                fragments = _fragments(message)
                assembled: Message | None = None
                for fragment in fragments:
                    assembled = assembler.feed(fragment)
                assert assembled is not None
                work = attachment.receive(assembled, fragments)
                if work is not None:
                    await work
            except ProtocolError as problem:
                mailbox.close(problem.close_code, str(problem))
            except SessionGone:
                mailbox.close(1012, "gone")

    def on_closed(self) -> None:
        """The server has closed the connection."""
        assert self.mailbox.closed is not None
        self.closes.append(self.mailbox.closed)
        self.document = None
        self._end_connection()
        if self._returning and not self._over and not self._connecting:  # else it tries once more by itself
            self._spawn(self._come_back())

    async def _come_back(self) -> None:
        await asyncio.sleep(0.05)
        await self.connect()

    def move_to(self, worker: Worker) -> None:
        """Lose the connection, and come back by another worker."""
        self.worker = worker
        if self.mailbox.closed is None and self.attachment is not None:
            self.mailbox.close(1006, "lost")

    def leave(self) -> None:
        """Go away for good."""
        self._over = True
        self.document = None
        self.mailbox.closed = self.mailbox.closed or (1000, "")
        self._end_connection()

    def _end_connection(self) -> None:
        attachment, self.attachment = self.attachment, None
        if attachment is not None:
            # on_close comes a turn later, as Tornado's does
            asyncio.get_running_loop().call_soon(attachment.leave)
        if self._pump is not None:
            self._pump.cancel()
            self._pump = None

    # To the session

    def send(self, message: BokehMessage[Any]) -> None:
        self.sent.append(message.header["msgid"])
        self._queue.put_nowait(message)

    def pull(self) -> None:
        self.send(_protocol.create("PULL-DOC-REQ"))

    def push(self, document: Document) -> None:
        self.send(_protocol.create("PUSH-DOC", document))

    def change(self, act: Callable[[Document], object]) -> None:
        """Change this client's document, and send the change. Nothing happens while it has none."""
        if self.document is not None and self.attachment is not None:
            act(self.document)

    def _on_change(self, event: DocumentChangedEvent) -> None:
        if not self._applying and cast("object", event.setter) is not self and isinstance(event, DocumentPatchedEvent):
            self.send(_protocol.create("PATCH-DOC", [event]))

    # From the session

    def take(self, message: BokehMessage[Any]) -> None:
        """Apply a message as Bokeh's own client does."""
        self.types.append(message.msgtype)
        reply_to = message.header.get("reqid")
        if reply_to is not None:
            self.answered[reply_to] += 1
        self._applying = True
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "reference already known")
                self._apply(message)
        finally:
            self._applying = False

    def _apply(self, message: BokehMessage[Any]) -> None:
        if message.msgtype == "PULL-DOC-REPLY":
            self.document = Document()
            message.push_to_document(self.document)  # type: ignore[attr-defined]
            self.document.on_change(self._on_change)
        elif message.msgtype == "PATCH-DOC":
            assert self.document is not None, "a patch before the document"
            self.sequences.append((message.metadata["epoch"], message.metadata["seq"]))
            message.apply_to_document(self.document, setter=self)  # type: ignore[attr-defined]

    @property
    def is_equal(self) -> bool:
        """Whether this client's document is the owner's."""
        return self.document is not None and state_of(self.document) == state_of(self.world.session.document)

    def _spawn(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _fragments(message: BokehMessage[Any]) -> tuple[str | bytes, ...]:
    fragments: list[str | bytes] = [message.header_json, message.metadata_json, message.content_json]
    for buffer in message.buffers:
        fragments += [json.dumps(buffer.ref), buffer.to_bytes()]
    return tuple(fragments)
