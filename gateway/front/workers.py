"""What the gateway knows of its workers, learnt from what they and the supervisor say.

Runs in the gateway. Messages of one worker are heeded in the order in which they were sent. Connections handed back
are only collected on the way (`on_hand_back` must not route them there and then), because routing one asks in turn for
what else has arrived.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import select
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace

from aperture.gateway.front.routing import RoutingTable
from aperture.gateway.front.worker_pairs import Link
from aperture.wire.accounts import WorkerAccount
from aperture.wire.node_messages import (
    RECEIVE_LIMIT,
    Acted,
    Adopt,
    Claimed,
    Crowded,
    Describe,
    Drain,
    Draining,
    Extensions,
    ExtensionsAre,
    GatewaySeat,
    HandBack,
    Hello,
    Load,
    Message,
    Moved,
    Order,
    Others,
    OthersAre,
    Released,
    SessionInfo,
    SessionsAre,
    WorkerDown,
)

__all__ = ["Elsewhere", "NodeWorkers", "Survey"]

log = logging.getLogger(__name__)

MAX_EXTENSIONS = 1024
"""Extension packages whose asset folders are remembered; an app imports a handful."""


MAX_ELSEWHERE = 1024
"""Workers of other nodes of which accounts are kept while somebody asks for them."""


@dataclass(slots=True, eq=False)
class Elsewhere:
    """What workers of other nodes say of themselves, by their names; None for one that does not answer.

    `away` says that Redis is, or that nobody of this node could ask.
    """

    accounts: dict[str, WorkerAccount | None] = field(default_factory=dict)
    away: bool = False
    done: asyncio.Event = field(default_factory=asyncio.Event)

    def hear(self, told: OthersAre) -> None:
        """One part of it."""
        if told.last:
            self.away = self.away or told.part is None
            self.done.set()
        elif told.part is None:
            self.accounts[told.worker] = None
        elif len(self.accounts) < MAX_ELSEWHERE or told.worker in self.accounts:
            account = self.accounts.get(told.worker) or WorkerAccount()
            try:
                account.add(told.part)
            except ValueError as problem:
                log.warning("a worker elsewhere says what cannot be: %s", problem)
                self.accounts[told.worker] = None
            else:
                self.accounts[told.worker] = account


@dataclass(slots=True, eq=False)
class Survey:
    """A question to several workers for all their sessions, and what they have answered so far."""

    request: int
    missing: set[int]
    done: asyncio.Event = field(default_factory=asyncio.Event)
    sessions: dict[int, list[SessionInfo]] = field(default_factory=dict)

    def hear(self, worker: int, answer: SessionsAre) -> None:
        """One part of a worker's answer."""
        if worker in self.missing:
            self.sessions.setdefault(worker, []).extend(answer.sessions)
            if answer.last:
                self.give_up_on(worker, answered=True)

    def give_up_on(self, worker: int, *, answered: bool = False) -> None:
        """The worker has answered, or never will."""
        if not answered:
            self.sessions.pop(worker, None)
        self.missing.discard(worker)
        if not self.missing:
            self.done.set()


class _Dead(Exception):
    """The worker that something was asked of has died."""


class NodeWorkers:
    """The workers of this node as the gateway sees them.

    Args:
        loop: the gateway's event loop.
        seat: what the supervisor gave the gateway.
        on_hand_back: gets a connection that is to be routed again, and owns its socket.
        on_change: called after a worker has come up, and when the node begins to drain.
        after_messages: called after messages have been heeded.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        seat: GatewaySeat,
        *,
        on_hand_back: Callable[[HandBack, socket.socket], None],
        on_change: Callable[[], None],
        after_messages: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._on_hand_back = on_hand_back
        self._on_change = on_change
        self._after_messages = after_messages
        self._links = [Link(loop, end, self._on_readable) for end in seat.links]
        self._control = Link(loop, seat.control, self._on_readable)
        self._poll = select.poll()  # one system call for all links, where a read of each costs one a link
        for link in (*self._links, self._control):
            self._poll.register(link.fileno(), select.POLLIN)
        self._floor = list(seat.generations)
        self._surveys: dict[int, Survey] = {}
        self._elsewhere: dict[int, Elsewhere] = {}
        self._orders: dict[int, tuple[int, asyncio.Future[Acted]]] = {}
        # Answers to an earlier gateway's questions may still be on their way, so numbers must not repeat.
        self._requests = itertools.count(int.from_bytes(os.urandom(4), "big") << 16)
        self._extensions: dict[str, str] = {}
        # No gateway hands over a connection in each nanosecond, so the numbers of the next are higher.
        self.table = RoutingTable(len(seat.links), first=time.monotonic_ns())
        self.pids: dict[int, int] = {}
        self.draining = False
        """Whether the node is going down, and so is not ready."""
        self.closing = asyncio.Event()
        """Set when it takes no more connections."""
        self.all_up = asyncio.Event()
        """Set when every worker has been up at the same time, once."""

    @property
    def workers(self) -> range:
        """The places for workers, whether or not one sits there."""
        return range(len(self._links))

    def is_full(self, worker: int) -> bool:
        """Whether so much is queued for a worker that it takes no more."""
        return self._links[worker].full

    def send(self, worker: int, message: Message, passed: socket.socket | None = None) -> bool:
        """Send a message to a worker. False, and the socket is closed, when its queue is full.

        Raises:
            ValueError: the message is too large for a datagram; the socket is still the caller's.
        """
        sent = self._links[worker].send(message, passed)
        if sent and isinstance(message, Adopt):
            self.table.sent(worker)
        return sent

    def tell_supervisor(self, message: Message) -> None:
        """Send a message to the supervisor."""
        self._control.send(message)

    async def ask(self, workers: Iterable[int], deadline: float) -> Survey:
        """Ask workers to describe themselves, and wait until all have, or for `deadline` seconds."""
        asked = set(workers)
        survey = Survey(next(self._requests), asked)
        self._surveys[survey.request] = survey
        for worker in tuple(asked):
            if not self.send(worker, Describe(survey.request)):
                survey.give_up_on(worker)
        try:
            if asked:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(survey.done.wait(), deadline)
        finally:
            del self._surveys[survey.request]
        return survey

    async def ask_elsewhere(self, prefix: str, deadline: float) -> Elsewhere:
        """Have a worker ask those of other nodes what they have, and wait until it has told, or for `deadline` seconds.

        Args:
            prefix: how the ids begin of the sessions that are wanted.
            deadline: in seconds.
        """
        told = Elsewhere()
        worker = self._bus_worker()
        request = next(self._requests)
        if worker is None or not self.send(worker, Others(request, prefix)):
            told.away = True
            return told
        self._elsewhere[request] = told
        try:
            async with asyncio.timeout(deadline):
                await told.done.wait()
        except TimeoutError:
            told.away = True
        finally:
            del self._elsewhere[request]
        return told

    async def order(self, worker: int | None, order: Order, deadline: float) -> Acted | None:
        """Have something done by a worker, or, where that is None, by one elsewhere; None if nobody says that it was.

        Args:
            worker: of this node.
            order: its number is given here.
            deadline: in seconds.
        """
        sent_to = self._bus_worker() if worker is None else worker
        request = next(self._requests)
        if sent_to is None or not self.send(sent_to, replace(order, request=request)):
            return None
        answer: asyncio.Future[Acted] = self._loop.create_future()
        self._orders[request] = (sent_to, answer)
        try:
            async with asyncio.timeout(deadline):
                return await answer
        except (TimeoutError, _Dead):
            return None
        finally:
            del self._orders[request]

    def _bus_worker(self) -> int | None:
        """The worker that is soonest heard over the bus."""
        loads = {worker: self.table.load(worker) for worker in self.table.up}
        able = {worker: load.lag_seconds for worker, load in loads.items() if load is not None and load.bus_up}
        return min(able, key=lambda worker: able[worker]) if able else None

    def drain(self) -> None:
        """Heed everything that has arrived by now.

        A worker sends `Claimed` before the response that tells anybody the id, so after this an id that somebody can
        know is known here.
        """
        readable = {descriptor for descriptor, _ in self._poll.poll(0)}
        for worker, link in enumerate(self._links):
            if link.fileno() in readable:
                self._read(worker)
        if self._control.fileno() in readable:
            for message, passed in self._control.receive():
                with _alone("the supervisor", message, passed):
                    self._handle_supervisor(message, passed)

    def overdue(self) -> dict[int, float]:
        """Seconds for which each worker that is up has owed its report: it is stuck, and cannot say so itself."""
        self._on_readable()  # what was said while this process was busy is not held against who said it
        now = self._loop.time()
        return {worker: self.table.overdue(worker, now) for worker in self.table.up}

    def close(self) -> None:
        """Stop listening to anybody."""
        for link in (*self._links, self._control):
            link.close()

    def _on_readable(self) -> None:
        self.drain()
        self._after_messages()

    def _read(self, worker: int) -> None:
        more = True
        while more:
            received = self._links[worker].receive()
            more = len(received) == RECEIVE_LIMIT
            for message, passed in received:
                with _alone(f"worker {worker}", message, passed):
                    self._handle(worker, message, passed)

    def _handle(self, worker: int, message: Message, passed: socket.socket | None) -> None:
        match message:
            case HandBack():
                if passed is not None:  # otherwise it was turned away
                    self._on_hand_back(message, passed)
            case Hello():
                self._handle_hello(worker, message)
            case Load():
                self.table.report(worker, message, self._loop.time())
            case Claimed():
                self.table.claim(worker, message.session_ids)
            case Released():
                self.table.release(worker, message.session_ids)
            case Crowded(session_id=session_id, crowded=crowded):
                self.table.crowd(worker, session_id, crowded)
            case SessionsAre() | OthersAre() | Acted():
                self._take_answer(worker, message)
            case Moved(session_id=session_id, to=to):
                self.table.move(worker, session_id, to, self._loop.time())
            case Extensions():
                self._handle_extensions(worker, message)
            case _:
                log.error("worker %d said what only others say: %s", worker, type(message).__name__)
                if passed is not None:
                    passed.close()

    def _handle_hello(self, worker: int, hello: Hello) -> None:
        if hello.generation < self._floor[worker]:
            return  # said by one that has died since
        if self.table.hello(worker, hello.generation, self._loop.time()):
            self.pids[worker] = hello.pid
            log.debug("worker %d (pid %d) is up", worker, hello.pid)
            if len(self.table.up) == len(self._links):
                self.all_up.set()
            self._on_change()

    def _take_answer(self, worker: int, answer: SessionsAre | OthersAre | Acted) -> None:
        """An answer to what the admin port has asked. One that comes late has no request to belong to."""
        match answer:
            case SessionsAre():
                self._take_sessions(worker, answer)
            case OthersAre(request=request):
                if (survey := self._elsewhere.get(request)) is not None:
                    survey.hear(answer)
            case Acted(request=request):
                if request in self._orders and not (acted := self._orders[request][1]).done():
                    acted.set_result(answer)

    def _take_sessions(self, worker: int, answer: SessionsAre) -> None:
        self.table.claim(worker, [row[0] for row in answer.rows])
        if (survey := self._surveys.get(answer.request)) is not None:
            survey.hear(worker, answer)

    def _handle_extensions(self, worker: int, told: Extensions) -> None:
        for name, folder in told.dirs.items():
            if name in self._extensions or len(self._extensions) < MAX_EXTENSIONS:
                self._extensions[name] = folder
        try:
            self.send(worker, ExtensionsAre(told.request, dict(self._extensions)))
        except ValueError as problem:
            log.error("cannot tell worker %d all extensions: %s", worker, problem)
            self.send(worker, ExtensionsAre(told.request, told.dirs))  # which fitted when it came; it waits for this

    def _handle_supervisor(self, message: Message, passed: socket.socket | None) -> None:
        match message:
            case HandBack():
                if passed is not None:  # otherwise it was turned away
                    self._on_hand_back(message, passed)
            case WorkerDown():
                self._handle_down(message)
            case Drain(closing=closing):
                self.draining = True
                if closing:
                    self.closing.set()
                self.tell_supervisor(Draining())
                self._on_change()
            case _:
                log.error("the supervisor said what only others say: %s", type(message).__name__)
                if passed is not None:
                    passed.close()

    def _handle_down(self, down: WorkerDown) -> None:
        self._read(down.worker)  # its last words, among which may be connections handed back
        self._floor[down.worker] = max(self._floor[down.worker], down.generation + 1)
        if self.table.down(down.worker, down.generation):
            self.pids.pop(down.worker, None)
        if self.table.generation(down.worker) is None:
            for survey in tuple(self._surveys.values()):
                survey.give_up_on(down.worker)
            for asked, answer in tuple(self._orders.values()):
                if asked == down.worker and not answer.done():
                    answer.set_exception(_Dead())


@contextlib.contextmanager
def _alone(sender: str, message: Message, passed: socket.socket | None) -> Iterator[None]:
    """Keep a failure to this message: behind it in the batch are other people's connections."""
    try:
        yield
    except Exception:
        log.exception("acting on a %s from %s failed", type(message).__name__, sender)
        if passed is not None:
            passed.close()
