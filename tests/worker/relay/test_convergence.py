"""Whatever the bus does, everybody ends with the owner's document: random edits and accidents, in made-up time."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

from bokeh.document import Document
from bokeh.models import Column, ColumnDataSource
from bokeh.models.widgets import Div, Slider
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.clock import FakeTimeLoop
from support.relay_bus import FakeBus, FakeRedis
from support.relay_world import Client, Worker, World, world_of

WORKERS = 4
CLIENTS = 5
QUIET = 60.0
"""Seconds, of no wall clock, in which everything must have healed: several heartbeats, leases and corrections."""


def app(document: Document) -> None:
    slider = Slider(start=0, end=1000, value=1, name="slider")
    shown = Div(text="", name="shown")
    source = ColumnDataSource({"x": [0, 1], "y": [0, 1]}, name="source")
    holder = Column(children=[Div(text="first")], name="holder")

    def moved(attr: str, old: int, new: int) -> None:
        shown.text = f"{new} after {old}"
        if new % 3 == 0:
            holder.children = [*holder.children[-2:], Div(text=f"made for {new}")]
        if new % 5 == 0:
            source.stream({"x": [new], "y": [new]})

    slider.on_change("value", moved)
    document.add_root(Column(children=[slider, shown, holder]))
    document.add_root(source)


def named(document: Document, name: str) -> Any:
    return document.get_model_by_name(name) or next(r for r in document.roots if r.name == name)


def slide(document: Document, value: int) -> None:
    named(document, "slider").value = value


def stream(document: Document, value: int) -> None:
    named(document, "source").stream({"x": [value], "y": [-value]})


def patch(document: Document, value: int) -> None:
    named(document, "source").patch({"y": [(value % 2, value)]})


def replace(document: Document, value: int) -> None:
    named(document, "source").data = {"x": [value, 1], "y": [2, value]}


def rename(document: Document, value: int) -> None:
    document.title = f"title {value}"


def grow(document: Document, value: int) -> None:
    holder = named(document, "holder")
    made = Column(children=[Div(text=f"new {value}"), Slider(start=0, end=9, value=value % 9)])
    holder.children = [*holder.children[:2], made]


def shrink(document: Document, value: int) -> None:
    named(document, "holder").children = named(document, "holder").children[-1:]


EDITS: dict[str, Callable[[Document, int], None]] = {
    edit.__name__: edit for edit in (slide, stream, patch, replace, rename)
}
APP_EDITS = {**EDITS, "grow": grow, "shrink": shrink}

clients = st.integers(0, CLIENTS - 1)
workers = st.integers(0, WORKERS - 1)
values = st.integers(2, 999)
moments = st.sampled_from([0.01, 0.3, 1.0, 4.0])

edits = st.tuples(st.just("edit"), clients, st.sampled_from(sorted(EDITS)), values)
app_edits = st.tuples(st.just("app"), st.sampled_from(sorted(APP_EDITS)), values)
accidents = st.one_of(
    st.tuples(st.just("hold"), moments),
    st.tuples(st.just("move"), clients, workers),
    st.tuples(st.just("cut"), workers, moments),
    st.tuples(st.just("drop"), st.integers(1, 4)),
    st.tuples(st.just("double"), st.integers(1, 4)),
    st.tuples(st.just("jam"), clients, moments),
    st.tuples(st.just("outage"), moments),
    st.tuples(st.just("empty"), moments),
    st.tuples(st.just("trim")),
    st.tuples(st.just("steal"), workers),
)
steps = st.one_of(edits, edits, edits, app_edits, accidents)
schedules = st.lists(st.tuples(steps, st.sampled_from([0.0, 0.0, 0.002, 0.02, 0.4])), min_size=5, max_size=40)


class Story:
    """One random course of events."""

    def __init__(self, world: World, chance: random.Random) -> None:
        self.world = world
        self.chance = chance
        self.clients = [world.client(index % WORKERS) for index in range(CLIENTS)]
        self.drops = 0
        self.doubles = 0
        self._tasks: list[asyncio.Task[Any]] = []

    def copies(self, bus: FakeBus, channel: str, payload: bytes) -> int:
        if self.drops:
            self.drops -= 1
            return 0
        if self.doubles:
            self.doubles -= 1
            return 2
        return 1

    async def play(self, schedule: list[tuple[tuple[Any, ...], float]]) -> None:
        for client in self.clients:
            await client.connect()
        await asyncio.sleep(self.chance.choice([0.0, 0.01, 2.0]))
        for (kind, *details), pause in schedule:
            await getattr(self, f"do_{kind}")(*details)
            await asyncio.sleep(pause)
        self.drops = self.doubles = 0
        await asyncio.gather(*self._tasks)
        await asyncio.sleep(QUIET)

    async def do_edit(self, client: int, edit: str, value: int) -> None:
        self.clients[client].change(lambda document: EDITS[edit](document, value))

    async def do_app(self, edit: str, value: int) -> None:
        if not self.world.has_session:
            return
        session = self.world.session
        self._spawn(session.with_document_locked(lambda: APP_EDITS[edit](session.document, value)))

    async def do_hold(self, seconds: float) -> None:
        if self.world.has_session:
            self._spawn(self.world.session.with_document_locked(lambda: asyncio.sleep(seconds)))

    async def do_move(self, client: int, worker: int) -> None:
        self.clients[client].move_to(self.world.workers[worker])

    async def do_cut(self, worker: int, seconds: float) -> None:
        self._spawn(self._away([self.world.workers[worker]], seconds))

    async def do_outage(self, seconds: float) -> None:
        self._spawn(self._away(self.world.workers, seconds))

    async def do_empty(self, seconds: float) -> None:
        for worker in self.world.workers:
            worker.bus.cut()
        self.world.redis.empty()
        await self.do_outage(seconds)

    async def do_drop(self, count: int) -> None:
        self.drops += count

    async def do_double(self, count: int) -> None:
        self.doubles += count

    async def do_jam(self, client: int, seconds: float) -> None:
        mailbox = self.clients[client].mailbox
        mailbox.fill()
        asyncio.get_running_loop().call_later(seconds, mailbox.drain)

    async def do_trim(self) -> None:
        self.world.redis.forget_streams()

    async def do_steal(self, thief: int) -> None:
        if self.world.has_session:
            self._spawn(steal(self.world, self.world.workers[thief]))

    async def _away(self, workers: list[Worker], seconds: float) -> None:
        for worker in workers:
            worker.bus.cut()
        await asyncio.sleep(seconds)
        for worker in workers:
            await asyncio.sleep(self.chance.uniform(0, 0.5))
            worker.bus.mend()

    def _spawn(self, work: Any) -> None:
        async def forgiving() -> None:
            try:
                await work
            except Exception as problem:  # a session that is gone, or a bus that is down
                assert type(problem).__module__.startswith("aperture"), problem

        self._tasks.append(asyncio.ensure_future(forgiving()))


async def steal(world: World, thief: Worker) -> None:
    """The owner's lease ends, and the thief claims the session."""
    owner = world.owner
    if owner is thief:
        return
    world.redis.workers.pop(owner.name, None)
    client = world.client(world.workers.index(thief), returning=False)
    await client.connect()
    client.leave()


def check(world: World, clients: list[Client]) -> None:
    """What must hold when all is quiet."""
    assert sum(worker.session is not None for worker in world.workers) == 1, "one owner"
    for client in clients:
        assert client.attachment is not None, "every client is back"
        assert client.is_equal, "every client has the owner's document"
        assert client.sequences == sorted(set(client.sequences)), "patches come once, and in order"
        for msgid in client.sent:
            assert client.answered[msgid] <= 1
            if client.connected_to is not world.owner:
                assert world.handled[msgid] == 1, "a message of an open connection is acted on once"
    assert max(world.handled.values(), default=0) <= 1, "no message is acted on twice"


def check_that_nothing_is_left(world: World) -> None:
    for worker in world.workers:
        assert worker.is_idle
        assert worker.session is None or worker.session.connection_count == 0


async def tell(schedule: list[tuple[tuple[Any, ...], float]], seed: int) -> None:
    chance = random.Random(seed)
    slowness = chance.choice([0.0, 0.001, 0.05])
    redis = FakeRedis(delay=lambda: chance.uniform(0, slowness))
    with world_of(app, WORKERS, redis) as world:
        await world.start()
        story = Story(world, chance)
        redis.copies = story.copies
        await story.play(schedule)
        check(world, story.clients)
        for client in story.clients:
            client.leave()
        await asyncio.sleep(1)
        check_that_nothing_is_left(world)
        await world.stop()


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(schedules, st.integers(0, 2**32))
def test_everybody_ends_with_the_owners_document(schedule: list[tuple[tuple[Any, ...], float]], seed: int) -> None:
    """Every patch at most once and in order, every message once or its connection closed, and nothing is left over."""
    with asyncio.Runner(loop_factory=FakeTimeLoop) as runner:
        runner.run(tell(schedule, seed))
