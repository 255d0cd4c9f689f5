"""What a second node costs: the hop from an edge to the session's owner, the owner's work, and Redis's.

Two nodes with a worker each share one Redis. The first node owns the session; viewers of the second are on an edge
there. Both sides of these rows are ours, by turns in one run. Sessions are not stored (`--durability none`): that has
rows of its own in `survival`.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import count

import client
from client import Loader, Pace, Trips
from servers import KEEP_SESSIONS, OURS, Server, serve
from shared_redis import SharedRedis, shared_redis

from rows.roundtrip import percentile
from rows.row import Group, Plan, Result, Row, Target

__all__ = ["GROUP"]

OWNER, EDGE = "on the owner", "over an edge"
PACES = {"hop-1": (1, 0.0), "hop-20": (20, 0.1)}
"""Sessions, and seconds between an answer and the next move of the same slider."""

ADDED_MS = 2.0
"""Milliseconds that the hop may add to a round trip."""

CPU_VIEWERS = (0, 1, 10, 100)
GROWTH = 1.1
"""Nothing should grow; the tolerance is for the clock of /proc, in steps of 10 ms, and for a shared processor."""

BURST = 100
"""Patches between two waits for the last viewer, which bounds the queue for an edge in turns of any length."""

BURSTS = 40
COUNTED_BURSTS = 20
IDLE_SECONDS = 4.0
"""Looked at for heartbeats, which come every second or two."""


def _hop_rows() -> Iterator[Row]:
    for name, (sessions, _) in PACES.items():
        who = f"{sessions} session{'s' * (sessions > 1)}"
        p50 = Target(adds=ADDED_MS)
        yield Row(f"{name}-p50", f"slider round trip p50, {who}", "ms", p50, stock=OWNER, ours=EDGE)
        yield Row(f"{name}-p99", f"slider round trip p99, {who}", "ms", stock=OWNER, ours=EDGE)


def _cpu_row(viewers: int) -> Row:
    title = f"owner's CPU per patch, {viewers or 'no'} further viewer{'s' * (viewers != 1)}"
    target = Target(growth=("owner-cpu-1", GROWTH)) if viewers > 1 else Target()
    ours = "on an edge" if viewers else "no edge"
    return Row(f"owner-cpu-{viewers}", title, "us", target, stock=OWNER, ours=ours)


CPU = {viewers: _cpu_row(viewers) for viewers in CPU_VIEWERS}
QUIET = Row("redis-commands-0", "Redis commands per patch, no edge", "calls", Target(at_most=0), ours="no edge")
RELAYED = Row("redis-commands-1", "Redis commands per patch, one edge", "calls", ours="one edge")
HOPS = {row.name: row for row in _hop_rows()}
ROWS = (*HOPS.values(), *CPU.values(), QUIET, RELAYED)


class _Pair:
    """Two nodes on one Redis, and the viewers of both."""

    def __init__(self, stack: ExitStack, app: str) -> None:
        self._app = app
        self._markers = map("END-{:05}".format, count())
        self.redis: SharedRedis = stack.enter_context(shared_redis())
        self.loader = stack.enter_context(Loader())
        options = (*KEEP_SESSIONS, *self.redis.options(f"bench-{app}"))
        self.owner, self.edge = [stack.enter_context(serve(OURS, app, options=options)) for _ in range(2)]

    def view(self, group: str, server: Server, viewers: int, session: str) -> None:
        """Connect viewers of one session to a node until the group has `count`."""
        self.loader.call(client.open_viewers, group, server.port, f"/{self._app}", viewers, session=session)

    def deliver(self, group: str, bursts: int) -> int:
        """Deliver patches to every viewer of the group; returns how many the owner made."""
        for _ in range(bursts):
            self.loader.call(client.deliver, group, "small", BURST, next(self._markers).encode())
        return bursts * (BURST + 1)


def measure(plan: Plan) -> Iterator[Result]:
    for name in PACES:
        if {f"{name}-p50", f"{name}-p99"} & plan.rows:
            yield from _hop(name, plan)
    if {row.name for row in CPU.values()} & plan.rows:
        yield from _cpu(plan)
    if {QUIET.name, RELAYED.name} & plan.rows:
        yield from (result for result in _commands(plan) if result.row.name in plan.rows)


def _hop(name: str, plan: Plan) -> Iterator[Result]:
    sessions, pause = PACES[name]
    p50, p99 = (Result(HOPS[f"{name}-{which}"]) for which in ("p50", "p99"))
    pace = Pace(plan.seconds(1.5), pause, writes=3, warmup=10)
    with ExitStack() as stack:
        pair = _Pair(stack, "slider")
        for index in range(sessions):
            pair.view(OWNER, pair.owner, index + 1, f"local-{index}")
            pair.view(f"begun-{index}", pair.owner, 1, f"relayed-{index}")
            pair.view(EDGE, pair.edge, index + 1, f"relayed-{index}")
            pair.loader.call(client.close_all, f"begun-{index}")
        for _ in range(plan.repeat):
            for group in (OWNER, EDGE):
                trips: Trips = pair.loader.call(client.move_sliders, group, sessions, pace)
                for result, percent in ((p50, 50), (p99, 99)):
                    samples = result.stock if group is OWNER else result.ours
                    samples.append(percentile(trips.latencies, percent) * 1e3)
    yield from (result for result in (p50, p99) if result.row.name in plan.rows)


def _cpu(plan: Plan) -> Iterator[Result]:
    wanted = {viewers: Result(row) for viewers, row in CPU.items() if row.name in plan.rows}
    with ExitStack() as stack:
        pair = _Pair(stack, "fanout")
        for viewers in wanted:
            for where, node in ((OWNER, pair.owner), (EDGE, pair.edge)):
                group = f"{where} {viewers}"
                session = f"{'owned' if where is OWNER else 'relayed'}-{viewers}"
                pair.view(group, pair.owner, 1, session)  # who asks for the patches
                pair.view(group, node, 1 + viewers, session)
                pair.deliver(group, 2)
        for _ in range(plan.repeat):
            for viewers, result in wanted.items():
                result.ours.append(_cpu_per_patch(pair, f"{EDGE} {viewers}", plan))
                if viewers:
                    result.stock.append(_cpu_per_patch(pair, f"{OWNER} {viewers}", plan))
    for result in wanted.values():
        result.note = "and one viewer that asks for the patches, on the owner"
        yield result


def _cpu_per_patch(pair: _Pair, group: str, plan: Plan) -> float:
    """Microseconds of the owner's node, all its processes."""
    before = pair.owner.busy()
    patches = pair.deliver(group, int(plan.seconds(BURSTS)))
    return (pair.owner.busy() - before) / patches * 1e6


def _commands(plan: Plan) -> Iterator[Result]:
    quiet, relayed = Result(QUIET), Result(RELAYED)
    with ExitStack() as stack:
        pair = _Pair(stack, "fanout")
        for result in (quiet, relayed):
            pair.view("one", pair.owner, 1, "one")
            if result is relayed:
                pair.view("one", pair.edge, 2, "one")
            pair.deliver("one", 2)
            calls: dict[str, float] = {}
            for _ in range(plan.repeat):
                calls = _commands_per_patch(pair, plan)
                result.ours.append(round(sum(calls.values()), 2))
            result.note = ", ".join(f"{name} {calls[name]:.2f}" for name in sorted(calls) if calls[name] >= 0.01)
            yield result


def _commands_per_patch(pair: _Pair, plan: Plan) -> dict[str, float]:
    """By command, without what two idle nodes send: their heartbeats."""
    before, started = pair.redis.commands(), time.perf_counter()
    time.sleep(plan.seconds(IDLE_SECONDS))
    idle, waited = pair.redis.commands() - before, time.perf_counter() - started
    before, started = pair.redis.commands(), time.perf_counter()
    patches = pair.deliver("one", COUNTED_BURSTS)
    sent: Counter[str] = pair.redis.commands() - before
    taken = time.perf_counter() - started
    return {name: max(0.0, (sent[name] - idle[name] / waited * taken) / patches) for name in sent}


GROUP = Group(ROWS, measure)
