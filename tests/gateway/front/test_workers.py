"""What the gateway learns from its workers' messages, and what it asks of them, over pairs without sockets."""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Callable
from typing import TypeVar
from unittest.mock import create_autospec

import pytest
from support.clock import in_fake_time, now

from aperture.gateway.front.workers import MAX_ELSEWHERE, MAX_EXTENSIONS, Elsewhere, NodeWorkers
from aperture.wire.accounts import AccountPart, Command, Load, Outcome, SessionRow, WorkerAccount, WorkerRow
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
    NodeReady,
    Others,
    OthersAre,
    OthersEnd,
    Released,
    SessionsAre,
    WorkerDown,
)

M = TypeVar("M", bound=NodeMessage)

BACK = HandBack(b"GET / HTTP/1.1\r\n\r\n", None, False)
END = Command("end", "abcd", "/app", None)
DONE = Outcome(200, "done")


class MemoryPair:
    """A `Pair` in memory: `arrived` is what the other end has sent, `sent` what it gets."""

    def __init__(self) -> None:
        self.arrived: deque[NodeMessage] = deque()
        self.sent: list[NodeMessage] = []
        self.full = False
        self.passed: socket.socket | None = create_autospec(socket.socket, instance=True)
        """What comes with a message that carries a socket; None where the process was out of descriptors."""
        self.too_large: type[NodeMessage] | None = None
        """Messages of this type do not fit a datagram, once."""

    def send(self, message: NodeMessage, passed: socket.socket | None = None) -> bool:
        if self.too_large is type(message):
            self.too_large = None
            raise ValueError("does not fit one datagram")
        if not self.full:
            self.sent.append(message)
        return not self.full

    def receive(self) -> list[tuple[NodeMessage, socket.socket | None]]:
        received = [self.arrived.popleft() for _ in range(min(RECEIVE_LIMIT, len(self.arrived)))]
        return [(message, self.passed if message.carries_socket else None) for message in received]

    def last(self, kind: type[M]) -> M:
        """The last message of this type that was sent."""
        return [message for message in self.sent if isinstance(message, kind)][-1]


class MemoryPairs:
    """`NodePairs` in memory."""

    def __init__(self, workers: int) -> None:
        self.workers = [MemoryPair() for _ in range(workers)]
        self.supervisor = MemoryPair()
        self.unseen: set[int] = set()
        """Workers whose messages have arrived since the look."""
        self.closed = False

    def readable(self) -> tuple[list[int], bool]:
        found = [worker for worker, pair in enumerate(self.workers) if pair.arrived and worker not in self.unseen]
        return found, bool(self.supervisor.arrived)

    def close(self) -> None:
        self.closed = True


class Gateway:
    """`NodeWorkers` with two workers of generation 0, which both are up, and what it calls back."""

    def __init__(self, *, up: int = 2) -> None:
        self.pairs = MemoryPairs(2)
        self.changes = 0
        self.batches = 0
        self.returned: list[HandBack] = []
        self.node = NodeWorkers(
            asyncio.get_running_loop(),
            (0, 0),
            self._open,
            on_hand_back=lambda back, sock: self.returned.append(back),
            on_change=self._changed,
            after_messages=self._after,
        )
        for worker in range(up):
            self.say(worker, Hello(worker, 0, 70 + worker), LoadReport(Load(0, 0, 0.0, 0), 0))

    def say(self, worker: int, *messages: NodeMessage) -> None:
        """Messages of a worker arrive."""
        self.pairs.workers[worker].arrived.extend(messages)
        self.readable()

    def supervise(self, *messages: NodeMessage) -> None:
        """Messages of the supervisor arrive."""
        self.pairs.supervisor.arrived.extend(messages)
        self.readable()

    def sent(self, worker: int, kind: type[M]) -> M:
        """The last message of this type that a worker was sent."""
        return self.pairs.workers[worker].last(kind)

    def _open(self, on_readable: Callable[[], None]) -> MemoryPairs:
        self.readable = on_readable
        return self.pairs

    def _changed(self) -> None:
        self.changes += 1

    def _after(self) -> None:
        self.batches += 1


def info(name: str) -> SessionRow:
    return SessionRow(name, "/app", 1, 0, 0, 0.0)


def rows(*names: str) -> tuple[SessionRow, ...]:
    return tuple(map(info, names))


def account(name: str, *sessions: str) -> AccountPart:
    """The only part of a worker's account."""
    shown = [SessionRow(session, "/app", 1, 0, 0, 0.0) for session in sessions]
    [(part, last)] = WorkerAccount(WorkerRow(name, 9, Load(len(sessions), 0, 0.0, 0)), shown).parts()
    assert last
    return part


@in_fake_time
async def test_workers_come_up_once_each() -> None:
    """A second Hello of one generation changes nothing; the node is complete when all have been up at once."""
    gateway = Gateway(up=1)
    assert (gateway.node.pids, gateway.changes, gateway.node.all_up.is_set()) == ({0: 70}, 1, False)
    gateway.say(0, Hello(0, 0, 70))
    assert gateway.changes == 1
    gateway.say(1, Hello(1, 0, 71))
    assert (gateway.node.pids, gateway.changes, gateway.node.all_up.is_set()) == ({0: 70, 1: 71}, 2, True)


@in_fake_time
async def test_messages_of_a_dead_generation_come_too_late() -> None:
    """Its Hello may be read behind the news of its death, which was read from another pair."""
    gateway = Gateway(up=1)
    gateway.supervise(WorkerDown(1, 0))
    gateway.say(1, Hello(1, 0, 71))
    assert list(gateway.node.table.up) == [0]
    gateway.say(1, Hello(1, 1, 72))
    assert (list(gateway.node.table.up), gateway.node.pids[1]) == ([0, 1], 72)


@in_fake_time
async def test_the_news_of_a_death_finds_what_the_dead_had_sent() -> None:
    """Its last messages are acted on first: connections that it hands back are routed, and its claims end with it."""
    gateway = Gateway()
    gateway.pairs.workers[1].arrived.extend([Claimed(("a",)), BACK])
    gateway.pairs.unseen = {1}
    gateway.supervise(WorkerDown(1, 0))
    assert gateway.returned == [BACK]
    assert not gateway.node.table.knows("a")
    assert gateway.node.pids == {0: 70}


@in_fake_time
async def test_a_connection_handed_back_without_its_socket_is_passed_over() -> None:
    """The process was out of descriptors; one from the supervisor, of a dead worker, is as one from a worker."""
    gateway = Gateway()
    gateway.pairs.workers[0].passed = None
    gateway.say(0, BACK)
    assert gateway.returned == []
    gateway.supervise(BACK)
    assert gateway.returned == [BACK]


@in_fake_time
async def test_claims_are_known_before_a_request_is_routed() -> None:
    """`drain` reads all that has arrived, in more than one batch if need be."""
    gateway = Gateway()
    gateway.pairs.workers[1].arrived.extend(Claimed((f"s{number}",)) for number in range(2 * RECEIVE_LIMIT + 1))
    gateway.node.drain()
    assert gateway.node.table.choose(f"s{2 * RECEIVE_LIMIT}", now()) == 1
    gateway.say(1, Released(("s0",)))
    assert not gateway.node.table.knows("s0")


@in_fake_time
async def test_a_crowded_session_and_a_moved_one_are_routed_elsewhere() -> None:
    """Only further viewers of the one, and everything of the other."""
    gateway = Gateway()
    gateway.say(0, Claimed(("a", "b")), Crowded("a", True), Released(("b",)), Moved("b", 1))
    table = gateway.node.table
    assert (table.choose("a", now()), table.choose("a", now(), viewer=True)) == (0, 1)
    assert table.choose("b", now()) == 1


@in_fake_time
async def test_a_message_that_cannot_be_acted_on_costs_no_other(caplog: pytest.LogCaptureFixture) -> None:
    """One that does not belong there is logged, as is one that fails; those behind it hold other clients."""
    gateway = Gateway()
    gateway.say(0, Describe(1), SessionsAre(1, (None,), True), Claimed(("a",)))  # type: ignore[arg-type]
    gateway.supervise(Describe(1), Drain(closing=False))
    assert gateway.node.table.knows("a")
    assert gateway.node.draining
    assert [record.levelname for record in caplog.records] == ["ERROR"] * 3


@in_fake_time
async def test_draining_is_confirmed_to_the_supervisor() -> None:
    """Only then are workers stopped: by that time `/readyz` says no. Closing comes later, or at once."""
    gateway = Gateway()
    gateway.supervise(Drain(closing=False))
    assert (gateway.node.draining, gateway.node.closing.is_set()) == (True, False)
    assert gateway.pairs.supervisor.sent == [Draining()]
    gateway.supervise(Drain(closing=True))
    assert gateway.node.closing.is_set()
    gateway.node.tell_supervisor(NodeReady(5))
    assert gateway.pairs.supervisor.last(NodeReady) == NodeReady(5)


@in_fake_time
async def test_handed_over_connections_are_counted_when_sent() -> None:
    """Not those that a full queue refuses: they would count as in flight."""
    gateway = Gateway()
    adopt = Adopt(0, b"", None, False, None, gateway.node.table.next_number(0))
    assert gateway.node.send(0, adopt)
    assert gateway.node.table.next_number(0) == adopt.number + 1
    gateway.pairs.workers[0].full = True
    assert gateway.node.is_full(0)
    assert not gateway.node.send(0, adopt)
    assert gateway.node.table.next_number(0) == adopt.number + 1


@in_fake_time
async def test_a_survey_ends_with_the_last_answer() -> None:
    """Parts are put together, sessions in them count as claimed, and what comes of another survey is not taken."""
    gateway = Gateway()
    asking = asyncio.ensure_future(gateway.node.ask((0, 1), 1.0))
    await asyncio.sleep(0)
    request = gateway.sent(0, Describe).request
    gateway.say(0, SessionsAre(request, rows("a"), False), SessionsAre(request, rows("b"), True))
    gateway.say(1, SessionsAre(request + 1, rows("x"), True), SessionsAre(request, rows("c"), True))
    survey = await asking
    assert survey.sessions == {0: [info("a"), info("b")], 1: [info("c")]}
    assert now() == 0.0
    assert gateway.node.table.choose("x", now()) == 1


@in_fake_time
async def test_a_survey_waits_for_no_worker_that_cannot_answer() -> None:
    """Neither for one whose queue is full, nor for one that dies; half an answer is none."""
    gateway = Gateway()
    gateway.pairs.workers[0].full = True
    asking = asyncio.ensure_future(gateway.node.ask((0, 1), 1.0))
    await asyncio.sleep(0)
    gateway.say(1, SessionsAre(gateway.sent(1, Describe).request, rows("c"), False))
    gateway.supervise(WorkerDown(1, 0))
    assert (await asking).sessions == {}
    assert now() == 0.0


@in_fake_time
async def test_a_late_worker_is_missing_from_a_survey() -> None:
    """After the deadline; its answer then has nowhere to go."""
    gateway = Gateway()
    survey = await gateway.node.ask((0,), 1.0)
    assert (survey.missing, now()) == ({0}, 1.0)
    gateway.say(0, SessionsAre(survey.request, rows("a"), True))
    assert survey.sessions == {}


@in_fake_time
async def test_other_nodes_are_asked_through_the_least_busy_worker_with_a_bus() -> None:
    """Of those that the bus is up for."""
    gateway = Gateway()
    gateway.say(0, LoadReport(Load(0, 0, 0.0, 0), 0, bus_up=False))
    gateway.say(1, LoadReport(Load(0, 0, 9.0, 0), 0))
    asking = asyncio.ensure_future(gateway.node.ask_elsewhere("ab", 1.0))
    await asyncio.sleep(0)
    question = gateway.sent(1, Others)
    assert question.prefix == "ab"
    parts = [OthersAre(question.request, "n/0/x", account("n/0/x", "abcd"))]
    gateway.say(1, *parts, OthersAre(question.request, "n/1/y", None))
    gateway.say(1, OthersEnd(question.request, bus_up=True))
    report = await asking
    assert not report.away
    assert report.accounts["n/1/y"] is None
    assert (answered := report.accounts["n/0/x"]) is not None
    assert [row.id for row in answered.sessions] == ["abcd"]


@in_fake_time
async def test_other_nodes_cannot_be_asked_without_a_bus_or_in_time() -> None:
    """No worker has a bus, or the one that was asked says that Redis is down, or nothing."""
    gateway = Gateway()
    for worker in (0, 1):
        gateway.say(worker, LoadReport(Load(0, 0, 0.0, 0), 0, bus_up=False))
    assert (await gateway.node.ask_elsewhere("", 1.0)).away
    gateway.say(0, LoadReport(Load(0, 0, 0.0, 0), 0))
    assert (await gateway.node.ask_elsewhere("", 1.0)).away
    assert now() == 1.0
    asking = asyncio.ensure_future(gateway.node.ask_elsewhere("", 1.0))
    await asyncio.sleep(0)
    gateway.say(0, OthersEnd(gateway.sent(0, Others).request, bus_up=False))
    assert (await asking).away
    assert now() == 1.0


def test_reports_of_other_nodes_are_bounded() -> None:
    """They come over Redis, where others can write."""
    report = Elsewhere()
    for number in range(MAX_ELSEWHERE + 5):
        report.hear(f"n/{number}/y", account(f"n/{number}/y"))
    assert len(report.accounts) == MAX_ELSEWHERE


@in_fake_time
async def test_a_command_is_answered_by_its_worker() -> None:
    """With a number of its own, by which its answer is known; the first answer counts."""
    gateway = Gateway()
    executing = asyncio.ensure_future(gateway.node.execute(1, END, 5.0))
    await asyncio.sleep(0)
    asked = gateway.sent(1, Execute)
    assert (asked.worker, asked.command) == ("", END)
    gateway.say(1, Executed(asked.request, DONE), Executed(asked.request, Outcome(500, "again")))
    assert await executing == DONE
    gateway.say(1, Executed(asked.request, Outcome(500, "late")))


@in_fake_time
async def test_a_command_to_a_worker_elsewhere_goes_through_one_here() -> None:
    """Through one with a bus; without any there is no answer."""
    gateway = Gateway()
    gateway.say(0, LoadReport(Load(0, 0, 0.0, 0), 0, bus_up=False))
    executing = asyncio.ensure_future(gateway.node.execute("n/0/x", END, 5.0))
    await asyncio.sleep(0)
    gateway.say(1, Executed(gateway.sent(1, Execute).request, DONE))
    assert await executing is not None
    gateway.say(1, LoadReport(Load(0, 0, 0.0, 0), 0, bus_up=False))
    assert await gateway.node.execute("n/0/x", END, 5.0) is None


@in_fake_time
async def test_a_command_to_a_worker_that_dies_or_is_late_is_not_answered() -> None:
    """At once if it dies; what it has done is not known."""
    gateway = Gateway()
    assert await gateway.node.execute(0, END, 5.0) is None
    assert now() == 5.0
    executing = asyncio.ensure_future(gateway.node.execute(0, END, 5.0))
    await asyncio.sleep(0)
    gateway.supervise(WorkerDown(0, 0))
    assert await executing is None
    assert now() == 5.0
    gateway.pairs.workers[1].full = True
    assert await gateway.node.execute(1, END, 5.0) is None


@in_fake_time
async def test_the_death_of_an_older_generation_is_no_news_of_the_newer() -> None:
    """Commands and surveys go on: the worker in that place is another by now."""
    gateway = Gateway()
    gateway.say(0, Hello(0, 1, 80))
    executing = asyncio.ensure_future(gateway.node.execute(0, END, 5.0))
    await asyncio.sleep(0)
    gateway.supervise(WorkerDown(0, 0))
    gateway.say(0, Executed(gateway.sent(0, Execute).request, DONE))
    assert await executing is not None
    assert gateway.node.pids[0] == 80


@in_fake_time
async def test_extensions_of_one_worker_are_known_to_the_others() -> None:
    """Up to a bound; a list that does not fit a message is answered with the worker's own."""
    gateway = Gateway()
    gateway.say(0, Extensions(1, {"panel": b"/panel"}))
    gateway.say(1, Extensions(7, {"other": b"/other"}))
    assert gateway.sent(1, ExtensionsAre) == ExtensionsAre(7, {"panel": b"/panel", "other": b"/other"})
    gateway.pairs.workers[1].too_large = ExtensionsAre
    gateway.say(1, Extensions(8, {"other": b"/other"}))
    assert gateway.sent(1, ExtensionsAre) == ExtensionsAre(8, {"other": b"/other"})
    gateway.say(0, Extensions(2, {f"e{number}": b"/e" for number in range(MAX_EXTENSIONS)}))
    gateway.say(1, Extensions(9, {"panel": b"/newer"}))
    assert len(gateway.sent(1, ExtensionsAre).dirs) == MAX_EXTENSIONS
    assert gateway.sent(1, ExtensionsAre).dirs["panel"] == b"/newer"


@in_fake_time
async def test_a_report_is_not_overdue_because_it_was_not_read() -> None:
    """The gateway may have been the busy one."""
    gateway = Gateway()
    await asyncio.sleep(60.0)
    gateway.pairs.workers[0].arrived.append(LoadReport(Load(0, 0, 0.0, 0), 0))
    overdue = gateway.node.overdue()
    assert overdue[0] == 0.0
    assert overdue[1] > 50.0


@in_fake_time
async def test_each_batch_of_messages_is_followed_by_routing() -> None:
    """What was handed back is routed when all that came with it is known. Closing closes the pairs."""
    gateway = Gateway()
    before = gateway.batches
    gateway.say(0, Claimed(("a",)), Claimed(("b",)))
    assert gateway.batches == before + 1
    gateway.node.close()
    assert gateway.pairs.closed
