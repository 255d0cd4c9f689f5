"""What the gateway knows about its workers, from their messages and the supervisor's.

Runs in the gateway. The messages of one worker are processed in the order in which they were sent. Connections handed
back are only queued on the way: `on_hand_back` must not route them at once, because routing reads pending messages
itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from aperture.gateway.front.routing import RoutingTable
from aperture.gateway.front.worker_pairs import NodePairs
from aperture.wire.accounts import AccountPart, Command, Outcome, SessionRow, WorkerAccount
from aperture.wire.endpoint import RECEIVE_LIMIT
from aperture.wire.node_messages import (
    Adopt,
    Claimed,
    Crowded,
    Describe,
    Drain,
    Draining,
    Execute,
    Executed,
    Extensions,
    ExtensionsAre,
    HandBack,
    Hello,
    LoadReport,
    Moved,
    NodeMessage,
    Others,
    OthersAre,
    OthersEnd,
    Released,
    SessionsAre,
    WorkerDown,
)

__all__ = ["Elsewhere", "NodeWorkers", "Survey"]

log = logging.getLogger(__name__)

MAX_EXTENSIONS = 1024
"""Extension packages whose asset folders are remembered; an app imports a handful."""


MAX_ELSEWHERE = 1024
"""Workers of other nodes whose reports are collected for one request."""


@dataclass(slots=True, eq=False)
class Elsewhere:
    """What workers of other nodes report, by bus name; None for one that does not answer.

    `away` means that Redis cannot be reached, or that no worker of this node could ask.
    """

    accounts: dict[str, WorkerAccount | None] = field(default_factory=dict)
    away: bool = False
    done: asyncio.Event = field(default_factory=asyncio.Event)

    def hear(self, worker: str, part: AccountPart | None) -> None:
        """Add one part of the answer."""
        if part is None:
            self.accounts[worker] = None
        elif len(self.accounts) < MAX_ELSEWHERE or worker in self.accounts:
            account = self.accounts[worker] = self.accounts.get(worker) or WorkerAccount()
            account.add(part)

    def end(self, *, bus_up: bool) -> None:
        """The answer is complete, or will not become so."""
        self.away = self.away or not bus_up
        self.done.set()


@dataclass(slots=True, eq=False)
class Survey:
    """A request to several workers for their lists of sessions, and the answers so far."""

    request: int
    missing: set[int]
    done: asyncio.Event = field(default_factory=asyncio.Event)
    sessions: dict[int, list[SessionRow]] = field(default_factory=dict)

    def hear(self, worker: int, answer: SessionsAre) -> None:
        """Add one part of a worker's answer."""
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
    """The worker that was to execute the command has died."""


class NodeWorkers:
    """The workers of this node, as the gateway sees them.

    Args:
        loop: the gateway's event loop.
        generations: each worker's generation as of the gateway's start.
        open_pairs: makes the pairs with the workers and the supervisor; its argument is to be called when messages may
            have arrived.
        on_hand_back: gets a connection that is to be routed again, and owns its socket.
        on_change: called after a worker has come up, and when the node begins to drain.
        after_messages: called after a batch of messages has been processed.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        generations: Sequence[int],
        open_pairs: Callable[[Callable[[], None]], NodePairs],
        *,
        on_hand_back: Callable[[HandBack, socket.socket], None],
        on_change: Callable[[], None],
        after_messages: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._on_hand_back = on_hand_back
        self._on_change = on_change
        self._after_messages = after_messages
        self._pairs = open_pairs(self._on_readable)
        # A message of a generation below the floor comes from a worker that has died since.
        self._floor = list(generations)
        self._surveys: dict[int, Survey] = {}
        self._elsewhere: dict[int, Elsewhere] = {}
        self._commands: dict[int, tuple[int, asyncio.Future[Outcome]]] = {}
        # Answers to an earlier gateway's requests may still be in flight, so request numbers must not repeat.
        self._requests = itertools.count(int.from_bytes(os.urandom(4), "big") << 16)
        self._extensions: dict[str, bytes] = {}
        # An earlier gateway made fewer hand-overs than nanoseconds have passed, so these numbers are higher than all
        # of its.
        self.table = RoutingTable(len(generations), first=time.monotonic_ns())
        self.pids: dict[int, int] = {}
        self.draining = False
        """Whether the node is draining, and so not ready."""
        self.closing = asyncio.Event()
        """Set when the node accepts no more connections."""
        self.all_up = asyncio.Event()
        """Set once every worker has been up at the same time."""

    @property
    def workers(self) -> range:
        """The worker slots, whether or not a worker runs in them."""
        return range(len(self._floor))

    def is_full(self, worker: int) -> bool:
        """Whether the queue to a worker is at its high-water mark."""
        return self._pairs.workers[worker].full

    def send(self, worker: int, message: NodeMessage, passed: socket.socket | None = None) -> bool:
        """Send a message to a worker. False, and the socket is closed, when its queue is full.

        Raises:
            ValueError: the message is too large for a datagram; the socket is still the caller's.
        """
        sent = self._pairs.workers[worker].send(message, passed)
        if sent and isinstance(message, Adopt):
            self.table.sent(worker)
        return sent

    def tell_supervisor(self, message: NodeMessage) -> None:
        """Send a message to the supervisor."""
        self._pairs.supervisor.send(message)

    async def ask(self, workers: Iterable[int], deadline: float) -> Survey:
        """Ask workers for their sessions; return when all have answered, or after `deadline` seconds."""
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
        """Have one worker ask the workers of other nodes over the bus; return with its answer, or after `deadline`
        seconds.

        Args:
            prefix: only sessions whose ids begin with this.
            deadline: in seconds.
        """
        report = Elsewhere()
        worker = self._bus_worker()
        request = next(self._requests)
        if worker is None or not self.send(worker, Others(request, prefix)):
            report.away = True
            return report
        self._elsewhere[request] = report
        try:
            async with asyncio.timeout(deadline):
                await report.done.wait()
        except TimeoutError:
            report.away = True
        finally:
            del self._elsewhere[request]
        return report

    async def execute(self, worker: int | str, command: Command, deadline: float) -> Outcome | None:
        """Have an admin command executed by a worker; None if no answer came in time.

        Args:
            worker: the index of one of this node; of one elsewhere, its name on the bus.
            command: what to do.
            deadline: in seconds.
        """
        sent_to, name = (self._bus_worker(), worker) if isinstance(worker, str) else (worker, "")
        request = next(self._requests)
        if sent_to is None or not self.send(sent_to, Execute(request, name, command)):
            return None
        answer: asyncio.Future[Outcome] = self._loop.create_future()
        self._commands[request] = (sent_to, answer)
        try:
            async with asyncio.timeout(deadline):
                return await answer
        except (TimeoutError, _Dead):
            return None
        finally:
            del self._commands[request]

    def _bus_worker(self) -> int | None:
        """The worker with the least lag among those connected to the bus."""
        reports = {worker: self.table.last_report(worker) for worker in self.table.up}
        lags = {worker: said.load.lag_seconds for worker, said in reports.items() if said is not None and said.bus_up}
        return min(lags, key=lambda worker: lags[worker]) if lags else None

    def drain(self) -> None:
        """Process every message already received.

        A worker sends `Claimed` before the response that reveals the session id. So after this call, any id that a
        client can know is in the table.
        """
        workers, supervisor = self._pairs.readable()
        for worker in workers:
            self._read(worker)
        if supervisor:
            for message, passed in self._pairs.supervisor.receive():
                with _alone("the supervisor", message, passed):
                    self._handle_supervisor(message, passed)

    def overdue(self) -> dict[int, float]:
        """Seconds by which the report of each running worker is late. It is stuck, and cannot report that itself."""
        self._on_readable()  # if this process was the busy one, reports are waiting unread: they are not late
        now = self._loop.time()
        return {worker: self.table.overdue(worker, now) for worker in self.table.up}

    def close(self) -> None:
        """Stop listening to the workers and to the supervisor."""
        self._pairs.close()

    def _on_readable(self) -> None:
        self.drain()
        self._after_messages()

    def _read(self, worker: int) -> None:
        more = True
        while more:
            received = self._pairs.workers[worker].receive()
            more = len(received) == RECEIVE_LIMIT
            for message, passed in received:
                with _alone(f"worker {worker}", message, passed):
                    self._handle(worker, message, passed)

    def _handle(self, worker: int, message: NodeMessage, passed: socket.socket | None) -> None:
        match message:
            case HandBack():
                if passed is not None:  # None: out of descriptors, `receive` has answered it
                    self._on_hand_back(message, passed)
            case Hello():
                self._handle_hello(worker, message)
            case LoadReport():
                self.table.report(worker, message, self._loop.time())
            case Claimed():
                self.table.claim(worker, message.session_ids)
            case Released():
                self.table.release(worker, message.session_ids)
            case Crowded(session_id=session_id, crowded=crowded):
                self.table.crowd(worker, session_id, crowded)
            case SessionsAre() | OthersAre() | OthersEnd() | Executed():
                self._take_answer(worker, message)
            case Moved(session_id=session_id, to=to):
                self.table.move(worker, session_id, to, self._loop.time())
            case Extensions():
                self._handle_extensions(worker, message)
            case _:
                log.error("unexpected message from worker %d, dropped: %s", worker, type(message).__name__)
                if passed is not None:
                    passed.close()

    def _handle_hello(self, worker: int, hello: Hello) -> None:
        if hello.generation < self._floor[worker]:
            return  # sent by a generation that has died since
        if self.table.hello(worker, hello.generation, self._loop.time()):
            self.pids[worker] = hello.pid
            log.debug("worker %d (pid %d) is up", worker, hello.pid)
            if len(self.table.up) == len(self._floor):
                self.all_up.set()
            self._on_change()

    def _take_answer(self, worker: int, answer: SessionsAre | OthersAre | OthersEnd | Executed) -> None:
        """An answer to what the admin port has asked. One that comes late has no request to belong to."""
        match answer:
            case SessionsAre():
                self._take_sessions(worker, answer)
            case OthersAre(request=request, worker=name, part=part):
                if (report := self._elsewhere.get(request)) is not None:
                    report.hear(name, part)
            case OthersEnd(request=request, bus_up=bus_up):
                if (report := self._elsewhere.get(request)) is not None:
                    report.end(bus_up=bus_up)
            case Executed(request=request, outcome=outcome):
                if request in self._commands and not (executed := self._commands[request][1]).done():
                    executed.set_result(outcome)

    def _take_sessions(self, worker: int, answer: SessionsAre) -> None:
        self.table.claim(worker, [session.id for session in answer.sessions])
        if (survey := self._surveys.get(answer.request)) is not None:
            survey.hear(worker, answer)

    def _handle_extensions(self, worker: int, report: Extensions) -> None:
        for name, folder in report.dirs.items():
            if name in self._extensions or len(self._extensions) < MAX_EXTENSIONS:
                self._extensions[name] = folder
        try:
            self.send(worker, ExtensionsAre(report.request, dict(self._extensions)))
        except ValueError as problem:
            log.error("the list of extensions for worker %d is too large, only its own are sent: %s", worker, problem)
            # What fitted when it came: the worker waits for an answer.
            self.send(worker, ExtensionsAre(report.request, report.dirs))

    def _handle_supervisor(self, message: NodeMessage, passed: socket.socket | None) -> None:
        match message:
            case HandBack():
                if passed is not None:  # None: out of descriptors, `receive` has answered it
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
                log.error("unexpected message from the supervisor, dropped: %s", type(message).__name__)
                if passed is not None:
                    passed.close()

    def _handle_down(self, down: WorkerDown) -> None:
        self._read(down.worker)  # its last messages may hand connections back, or release sessions
        self._floor[down.worker] = max(self._floor[down.worker], down.generation + 1)
        if self.table.down(down.worker, down.generation):
            self.pids.pop(down.worker, None)
        if self.table.generation(down.worker) is None:
            for survey in tuple(self._surveys.values()):
                survey.give_up_on(down.worker)
            for asked, answer in tuple(self._commands.values()):
                if asked == down.worker and not answer.done():
                    answer.set_exception(_Dead())


@contextlib.contextmanager
def _alone(sender: str, message: NodeMessage, passed: socket.socket | None) -> Iterator[None]:
    """Limit a failure to this message: the batch behind it holds other clients' connections."""
    try:
        yield
    except Exception:
        log.exception("acting on a %s from %s failed", type(message).__name__, sender)
        if passed is not None:
            passed.close()
