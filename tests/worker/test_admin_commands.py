"""What a worker tells operators, and what it does for them: here, and through the bus for those of other nodes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from itertools import count

import pytest
from bokeh.application import Application
from bokeh.application.handlers import FunctionHandler
from bokeh.document import Document
from support.clock import in_fake_time, now
from support.relay_bus import FakeBus, FakeRedis

from aperture.errors import BusDown
from aperture.wire.accounts import AccountPart, Command, Load, Outcome, WorkerAccount, WorkerRow
from aperture.wire.envelopes import Account, CommandReply, CommandRequest, Envelope, Inquire, Joined
from aperture.worker.admin_commands import ACCOUNT_TIME, COMMAND_TIME, CommandChannel, NoCommandChannel, Operations
from aperture.worker.collector import GarbageCollector
from aperture.worker.handover import Handover
from aperture.worker.session.arrival import Arrival
from aperture.worker.session.durability import NoRecovery
from aperture.worker.session.host import AppHost, Origin
from aperture.worker.session.placement import LocalPlacement
from aperture.worker.session.session import Session
from aperture.worker.session.store import SessionStore


class Notes(Handover):
    """A hand-over that notes what it is asked for.

    Args:
        store: the sessions.
        keeps: whether sessions can go on in another worker.
    """

    def __init__(self, store: SessionStore, *, keeps: bool = True) -> None:
        super().__init__(store, NoRecovery())
        self.asked: list[str] = []
        self.problem: Exception | None = None
        self.moves = True
        """Whether a session that is to be moved is written down."""
        self._keeps = keeps

    @property
    def enabled(self) -> bool:
        return self._keeps

    async def end(self, session: Session) -> None:
        self.asked.append(f"end {session.id} of {session.app}")
        if self.problem is not None:
            raise self.problem

    async def move(self, session: Session, going: Callable[[], None]) -> bool:
        self.asked.append(f"move {session.id} of {session.app}")
        if self.problem is not None:
            raise self.problem
        if self.moves:
            going()
        return self.moves


class Worker:
    """A worker with the sessions "abcdefghij" and "abXX" of one app, and "abXX" of another.

    Args:
        redis: None for a worker without a bus.
        name: on the bus.
        workers: places in its node.
        keeps: whether its sessions can be moved.
    """

    def __init__(
        self, redis: FakeRedis | None = None, name: str = "north/0/one", *, workers: int = 2, keeps: bool = True
    ) -> None:
        application = Application(FunctionHandler(_empty))
        self.hosts = {url: AppHost(url, application, logout_url=None, issue_token=str) for url in ("/one", "/two")}
        self.store = SessionStore(self.hosts, LocalPlacement(), GarbageCollector(), unused_lifetime=9.0)
        self.handover = Notes(self.store, keeps=keeps)
        self.routes: list[tuple[str, int | None]] = []
        self.bus = None if redis is None else FakeBus(redis)
        self.name = name
        self.operations = Operations(
            self.store,
            self.handover,
            load=lambda: Load(len(self.store), 4, 0.5, 1000),
            index=0,
            workers=workers,
            move_to=lambda session_id, to: self.routes.append((session_id, to)),
            channel=NoCommandChannel("north/0/-") if self.bus is None else CommandChannel(self.bus, name),
        )

    async def ready(self) -> Worker:
        """With its sessions made, its lease running, and listening."""
        for url, session_id in (("/one", "abcdefghij"), ("/one", "abXX"), ("/two", "abXX")):
            await self.store.get_or_create(Arrival(self.hosts[url], session_id, lambda: Origin(None, {})))
        if self.bus is not None:
            await self.bus.start(wait=True)
            self.bus._redis.workers[self.name] = self.bus._redis.now + 60_000
        self.operations.start()
        await asyncio.sleep(0.01)
        return self


def _empty(document: Document) -> None:
    """An app without a document."""


def end(prefix: str, *, app: str = "/one") -> Command:
    return Command("end", prefix, app, None)


def move(prefix: str, *, to: int | None = None) -> Command:
    return Command("move", prefix, "/one", to)


def part_of(name: str) -> AccountPart:
    return AccountPart(WorkerRow(name, 1, Load(0, 0, 0.0, 1)), (), False)


class Stranger:
    """A worker of another node that is driven by hand.

    Args:
        redis: the cluster's.
        name: its name.
        answer: what it does with a letter.
    """

    def __init__(self, redis: FakeRedis, name: str, answer: Callable[[Stranger, Envelope], Awaitable[None]]) -> None:
        self.bus = FakeBus(redis)
        self.name = name
        self.letters: list[Envelope] = []
        self._redis = redis
        self._answer = answer
        self._tasks: list[asyncio.Future[None]] = []

    async def ready(self) -> Stranger:
        await self.bus.start(wait=True)
        self._redis.workers[self.name] = self._redis.now + 60_000
        await self.bus.subscribe(self.bus.names.orders(self.name), self._take)
        return self

    async def say(self, worker: str, envelope: Envelope) -> None:
        await self.bus.publish(self.bus.names.orders(worker), envelope.pack())

    def _take(self, payload: bytes) -> None:
        letter = Envelope.unpack(payload)
        self.letters.append(letter)
        self._tasks.append(asyncio.ensure_future(self._answer(self, letter)))


async def _silent(stranger: Stranger, letter: Envelope) -> None:
    """Answer nothing."""


async def _accounts(worker: Worker, prefix: str = "") -> dict[str, list[AccountPart | None]]:
    found: dict[str, list[AccountPart | None]] = {}
    async for name, part in worker.operations.others(prefix):
        found.setdefault(name, []).append(part)
    return found


@in_fake_time
async def test_an_account_shows_a_worker_and_its_sessions() -> None:
    """Those that begin as asked, by the part of their ids that anyone may see."""
    account = (await Worker().ready()).operations.account("abc")
    assert account.worker is not None
    assert (account.worker.name, account.worker.load.sessions, account.worker.load.lag_seconds) == ("north/0/-", 3, 0.5)
    assert [(row.id, row.app) for row in account.sessions] == [("abcdefgh", "/one")]


@in_fake_time
async def test_a_session_is_ended_or_moved_by_how_its_id_begins() -> None:
    """Of that app alone; the gateway learns who has a moved one next, before its viewers are sent away."""
    worker = await Worker().ready()
    assert (await worker.operations.execute("", end("abX", app="/two"))).status == 200
    assert (await worker.operations.execute("", move("abc", to=1))).status == 200
    assert worker.handover.asked == ["end abXX of /two", "move abcdefghij of /one"]
    assert worker.routes == [("abcdefghij", 1)]


@pytest.mark.parametrize(
    ("name", "wanted", "status"),
    [
        ("", end("ab"), 409),
        ("", end("xyz"), 404),
        ("", end("abc", app="/other"), 404),
        ("", move("abc", to=2), 409),
        ("", move("abc", to=0), 409),
        ("south/0/b", end("abc"), 404),
    ],
)
@in_fake_time
async def test_a_command_that_cannot_be_carried_out_is_refused(name: str, wanted: Command, status: int) -> None:
    """Several sessions, none, a worker that does not exist or has it already, and no bus."""
    worker = await Worker().ready()
    assert (await worker.operations.execute(name, wanted)).status == status
    assert (worker.handover.asked, worker.routes) == ([], [])


@in_fake_time
async def test_a_session_that_nothing_stores_is_not_moved() -> None:
    """It would lose its state; nor is one for which there is no other worker."""
    worker = await Worker(keeps=False).ready()
    assert "durability" in (await worker.operations.execute("", move("abc"))).text
    alone = await Worker(workers=1).ready()
    assert await alone.operations.act(move("abc")) == Outcome(409, "there is no other worker")


@in_fake_time
async def test_one_worker_of_a_node_can_move_a_session_to_another_node() -> None:
    """If there is one whose lease runs."""
    redis = FakeRedis()
    worker = await Worker(redis, workers=1).ready()
    assert (await worker.operations.execute("", move("abc"))).status == 409
    redis.workers["south/0/b"] = redis.now + 60_000
    assert (await worker.operations.execute("", move("abc"))).status == 200


@in_fake_time
async def test_what_goes_wrong_is_an_answer(caplog: pytest.LogCaptureFixture) -> None:
    """A session that cannot be written down, a Redis that is down, and a fault, which is logged with the id."""
    worker = await Worker().ready()
    worker.handover.moves = False
    assert (await worker.operations.execute("", move("abc"))).status == 409
    assert worker.routes == []
    worker.handover.problem = BusDown("down")
    assert (await worker.operations.execute("", move("abc"))).status == 503
    worker.handover.problem = RuntimeError("a fault")
    assert (await worker.operations.execute("", end("abc"))).status == 500
    assert "abcdefgh" in caplog.text


@in_fake_time
async def test_workers_of_other_nodes_are_asked_over_the_bus() -> None:
    """Not this worker, nor others of its node, which its gateway asks itself; names that are none are passed over."""
    redis = FakeRedis()
    here = await Worker(redis).ready()
    redis.workers |= {"north/1/x": redis.now + 60_000, "no name": redis.now + 60_000, "dead/0/z": redis.now - 5000}
    await Worker(redis, "south/0/b").ready()
    found = await _accounts(here, "abX")
    assert list(found) == ["south/0/b"]
    account = WorkerAccount()
    for part in found["south/0/b"]:
        assert part is not None
        account.add(part)
    assert account.worker is not None
    assert [row.app for row in account.sessions] == ["/one", "/two"]
    assert now() < ACCOUNT_TIME


@in_fake_time
async def test_a_worker_that_does_not_answer_in_time_is_named() -> None:
    """Behind those that do; what comes from one that was not asked is not passed on."""
    redis = FakeRedis()

    async def half(stranger: Stranger, letter: Envelope) -> None:
        assert isinstance(letter, Inquire)
        await stranger.say(letter.asker, Account(letter.call, part_of("nowhere/0/x"), True))
        await stranger.say(letter.asker, Account(letter.call, part_of(stranger.name), False))

    here = await Worker(redis).ready()
    await Worker(redis, "east/0/b").ready()
    await Stranger(redis, "south/0/b", half).ready()
    started = now()
    found = await _accounts(here)
    assert found["south/0/b"] == [part_of("south/0/b"), None]
    assert found["east/0/b"][-1] is not None
    assert set(found) == {"south/0/b", "east/0/b"}
    assert ACCOUNT_TIME <= now() - started < 1.0


@in_fake_time
async def test_others_cannot_be_asked_while_redis_is_down() -> None:
    """And there are none without a bus."""
    worker = await Worker(FakeRedis()).ready()
    assert worker.bus is not None
    worker.bus.cut()
    with pytest.raises(BusDown):
        await _accounts(worker)
    assert await _accounts(await Worker().ready()) == {}


@in_fake_time
async def test_a_command_reaches_a_worker_of_another_node() -> None:
    """And its answer comes back; the session's whole id stays there."""
    redis = FakeRedis()
    here, there = await Worker(redis).ready(), await Worker(redis, "south/0/b").ready()
    assert (await here.operations.execute("south/0/b", move("abc", to=1))).status == 200
    assert there.routes == [("abcdefghij", 1)]
    assert (await here.operations.execute("south/0/b", end("abX"))).status == 200
    assert here.handover.asked == []


@in_fake_time
async def test_a_command_without_an_answer_times_out() -> None:
    """At once if the worker does not listen; else when its time is over."""
    redis = FakeRedis()
    here = await Worker(redis).ready()
    assert (await here.operations.execute("south/0/b", end("abc"))).status == 504
    assert now() < 1.0
    await Stranger(redis, "south/0/b", _silent).ready()
    started = now()
    assert (await here.operations.execute("south/0/b", end("abc"))).status == 504
    assert now() - started == pytest.approx(COMMAND_TIME)


@in_fake_time
async def test_answers_of_other_nodes_are_bounded() -> None:
    """Anyone can write to Redis: a status that is none, a text of any length."""
    redis = FakeRedis()
    statuses = count(7)

    async def wild(stranger: Stranger, letter: Envelope) -> None:
        assert isinstance(letter, CommandRequest)
        await stranger.say(letter.asker, CommandReply(letter.call, Outcome(next(statuses), "x" * 9000)))

    here = await Worker(redis).ready()
    await Stranger(redis, "south/0/b", wild).ready()
    outcome = await here.operations.execute("south/0/b", end("abc"))
    assert (outcome.status, len(outcome.text)) == (502, 500)


@in_fake_time
async def test_what_does_not_belong_on_the_channel_is_dropped(caplog: pytest.LogCaptureFixture) -> None:
    """Garbage, envelopes of other channels, and answers to no request; what comes behind them is handled."""
    redis = FakeRedis()
    here = await Worker(redis).ready()
    stranger = await Stranger(redis, "south/0/b", _silent).ready()
    assert here.bus is not None
    await stranger.bus.publish(here.bus.names.orders(here.name), b"garbage")
    await stranger.say(here.name, Joined("/one\nabc", "south/0/b", "c", 1, 1, 0, 0))
    await stranger.say(here.name, Account(99, part_of("south/0/b"), True))
    await stranger.say(here.name, CommandReply(99, Outcome(200, "done")))
    await stranger.say(here.name, CommandRequest(stranger.name, 5, move("abc")))
    await asyncio.sleep(0.1)
    assert here.routes == [("abcdefghij", None)]
    assert [letter.outcome.status for letter in stranger.letters if isinstance(letter, CommandReply)] == [200]
    assert "dropped a message" in caplog.text


@in_fake_time
async def test_a_worker_that_stops_answers_no_more() -> None:
    """What it waits for ends at once."""
    redis = FakeRedis()
    here = await Worker(redis).ready()
    await Stranger(redis, "south/0/b", _silent).ready()
    ordering = asyncio.ensure_future(here.operations.execute("south/0/b", end("abc")))
    await asyncio.sleep(0.1)
    here.operations.stop()
    assert (await ordering).status == 504
    assert now() < 1.0
