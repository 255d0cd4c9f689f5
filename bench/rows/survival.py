"""The cost of storing sessions in Redis: deliveries, round trips and Redis's memory, by `--durability`.

Three nodes that differ in that option only, each with a namespace of its own in one Redis, by turns in one run. The
node with `none` uses the same Redis, so that nothing else differs.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from itertools import count

import client
from client import Delivery, Loader, Pace, Trips
from servers import KEEP_SESSIONS, OURS, Server, serve
from shared_redis import SharedRedis, shared_redis

from rows.roundtrip import CURVES, SATURATING
from rows.row import Group, Plan, Result, Row, Target

__all__ = ["GROUP"]

NONE, ASYNC, ACK = "none", "async", "ack"
STORED = (ASYNC, ACK)
SHARE = 0.9
"""Of the rate of `none` that `async` must reach."""

VIEWERS = (1, 100)
FIRST_PATCHES = 300
TURN_SECONDS = 1.0

WEIGHED = 100
MOVES = 100
SETTLE_SECONDS = 2.0
"""Longer than patches wait before they are stored, and longer than a heartbeat."""

_TARGETS = {ASYNC: Target(faster=SHARE)}


def _stored_row(name: str, title: str, durability: str) -> Row:
    return Row(f"{name}-{durability}", title, "/s", _TARGETS.get(durability, Target()), stock=NONE, ours=durability)


DELIVERED = {
    (viewers, durability): _stored_row(
        f"keep-deliver-{viewers}", f"small patches delivered, {viewers} viewer{'s' * (viewers > 1)}", durability
    )
    for viewers in VIEWERS
    for durability in STORED
}
TRIPS = {durability: _stored_row("keep-trips", "saturated round trips", durability) for durability in STORED}
FRESH = Row("keep-memory", "Redis memory of a session, moved once", "KB", stock=NONE, ours=ASYNC)
MOVED = Row("keep-memory-moved", f"Redis memory of a session, moved {MOVES} times", "KB", stock=NONE, ours=ASYNC)
ROWS = (*DELIVERED.values(), *TRIPS.values(), FRESH, MOVED)


def measure(plan: Plan) -> Iterator[Result]:
    for viewers in VIEWERS:
        rows = {durability: DELIVERED[viewers, durability] for durability in STORED}
        if any(row.name in plan.rows for row in rows.values()):
            yield from _alternate("fanout", rows, plan, _Deliveries(viewers, plan))
    if any(row.name in plan.rows for row in TRIPS.values()):
        yield from _alternate("curve", TRIPS, plan, _Saturated(plan))
    if {FRESH.name, MOVED.name} & plan.rows:
        yield from (result for result in _memory() if result.row.name in plan.rows)


@dataclass(frozen=True, slots=True)
class _Turn:
    """What one turn of a node gave.

    Args:
        rate: for the row.
        changes: that were made, by whom ever.
    """

    rate: float
    changes: int


class _Deliveries:
    """Patches of one session to all of its viewers, each as soon as the one before was written."""

    what = "patch"

    def __init__(self, viewers: int, plan: Plan) -> None:
        self._viewers = viewers
        self._seconds = plan.seconds(TURN_SECONDS)
        self._markers = map("END-{:05}".format, count())
        self._patches: dict[str, int] = {}

    def open(self, loader: Loader, durability: str, server: Server) -> None:
        loader.call(client.open_viewers, durability, server.port, "/fanout", self._viewers, session="stored")

    def measure(self, loader: Loader, durability: str) -> _Turn:
        patches = self._patches.get(durability, FIRST_PATCHES)
        marker = next(self._markers).encode()
        got: Delivery = loader.call(client.deliver, durability, "small", patches, marker)
        self._patches[durability] = max(FIRST_PATCHES, int(patches / got.seconds * self._seconds))
        return _Turn(got.rate, patches)


class _Saturated:
    """Sliders moved as fast as they are answered, each with a data update."""

    what = "round trip"

    def __init__(self, plan: Plan) -> None:
        self._pace = Pace(plan.seconds(SATURATING.seconds), writes=SATURATING.writes)

    def open(self, loader: Loader, durability: str, server: Server) -> None:
        loader.call(client.open_viewers, durability, server.port, "/curve", CURVES, nodelay=True)

    def measure(self, loader: Loader, durability: str) -> _Turn:
        trips: Trips = loader.call(client.move_sliders, durability, CURVES, self._pace)
        return _Turn(trips.rate, len(trips.latencies))


def _alternate(app: str, rows: dict[str, Row], plan: Plan, load: _Deliveries | _Saturated) -> Iterator[Result]:
    """Each node its turns, in an order that changes, so that none is always the one to come first."""
    results = {durability: Result(row) for durability, row in rows.items()}
    busy: dict[str, list[float]] = {durability: [] for durability in (NONE, *STORED)}
    with ExitStack() as stack:
        redis = stack.enter_context(shared_redis())
        loader = stack.enter_context(Loader())
        nodes = {durability: stack.enter_context(_node(app, redis, durability)) for durability in (NONE, *STORED)}
        for durability, node in nodes.items():
            load.open(loader, durability, node)
            load.measure(loader, durability)
        order = list(nodes)
        for _ in range(plan.repeat):
            rates = {}
            for durability in order:
                before = nodes[durability].busy()
                turn = load.measure(loader, durability)
                busy[durability].append((nodes[durability].busy() - before) / turn.changes * 1e6)
                rates[durability] = turn.rate
            order = order[1:] + order[:1]
            for durability, result in results.items():
                result.stock.append(rates[NONE])
                result.ours.append(rates[durability])
    for durability, result in results.items():
        without, having = (statistics.median(busy[which]) for which in (NONE, durability))
        result.note = f"CPU of the node per {load.what}: {without:.0f} us, {having:.0f} us"
    yield from (result for result in results.values() if result.row.name in plan.rows)


def _memory() -> Iterator[Result]:
    """Sessions with a connection each, after one move and after many."""
    fresh, moved = Result(FRESH), Result(MOVED)
    for durability in (NONE, ASYNC):
        with shared_redis() as redis, Loader() as loader, _node("curve", redis, durability) as node:
            _move(loader, node, "warm-up", 10, 1)
            start = redis.memory()
            for result, moves in ((fresh, 1), (moved, MOVES)):
                _move(loader, node, "weighed", WEIGHED, moves)
                samples = result.stock if durability == NONE else result.ours
                samples.append((redis.memory() - start) / WEIGHED / 1024)
    yield fresh
    yield moved


def _node(app: str, redis: SharedRedis, durability: str) -> AbstractContextManager[Server]:
    options = (*KEEP_SESSIONS, *redis.options(f"bench-{durability}", durability))
    return serve(OURS, app, options=options)


def _move(loader: Loader, node: Server, group: str, sessions: int, moves: int) -> None:
    """Move each slider of the group `moves` times, and wait until Redis has stored it."""
    loader.call(client.open_viewers, group, node.port, "/curve", sessions, nodelay=True)
    for _ in range(moves):
        loader.call(client.move_sliders, group, sessions, Pace(0, writes=1))
    time.sleep(SETTLE_SECONDS)


GROUP = Group(ROWS, measure)
