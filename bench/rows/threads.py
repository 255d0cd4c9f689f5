"""App code off the event loop: what a thread adds to each round trip, and a page whose session was made ahead.

Aperture on both sides, by turns in one run: two nodes that differ in `--num-threads` or `--warm-sessions` only.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack

import client
from client import Loader, Pace, Trips
from servers import KEEP_SESSIONS, OURS, Server, serve

from rows.roundtrip import SATURATING, percentile
from rows.row import Group, Plan, Result, Row, Target

__all__ = ["GROUP"]

LOOP, THREADS = "on the loop", "in threads"
REQUEST, AHEAD = "on request", "made ahead"

PACES = {"threads-trip-1": (1, 0.0), "threads-trip-20": (20, 0.1)}
"""Sessions, and seconds between an answer and the next move of the same slider."""

BUSY_SESSIONS = 8

TRIPS = {
    name: Row(
        f"{name}-p50",
        f"slider round trip p50, {sessions} session{'s' * (sessions > 1)}",
        "ms",
        Target(adds=0.2),
        stock=LOOP,
        ours=THREADS,
    )
    for name, (sessions, _) in PACES.items()
}
CPU = Row("threads-cpu", "worker's CPU per round trip with a callback", "us", stock=LOOP, ours=THREADS)
PAGE = Row("warm-page", "page of an app that takes 2 s", "ms", Target(at_most=60), stock=REQUEST, ours=AHEAD)
ROWS = (*TRIPS.values(), CPU, PAGE)

MADE_WITHIN = 4.0
"""Seconds in which another session is made ahead: half of one without a visitor, and two of the app's code."""

PAGES_A_TURN = 4


def measure(plan: Plan) -> Iterator[Result]:
    for name, row in TRIPS.items():
        if row.name in plan.rows:
            yield _trips(name, row, plan)
    if CPU.name in plan.rows:
        yield _cpu(plan)
    if PAGE.name in plan.rows:
        yield _pages(plan)


def _nodes(stack: ExitStack) -> dict[str, Server]:
    threads = ("--num-threads", "8")
    return {
        how: stack.enter_context(serve(OURS, "slider", options=(*KEEP_SESSIONS, *options)))
        for how, options in ((LOOP, ()), (THREADS, threads))
    }


def _trips(name: str, row: Row, plan: Plan) -> Result:
    result, (sessions, pause) = Result(row), PACES[name]
    pace = Pace(plan.seconds(1.5), pause, writes=3, warmup=10)
    with ExitStack() as stack:
        loader = stack.enter_context(Loader())
        for how, node in _nodes(stack).items():
            loader.call(client.open_viewers, how, node.port, "/slider", sessions)
        for _ in range(plan.repeat):
            for how, samples in ((LOOP, result.stock), (THREADS, result.ours)):
                trips: Trips = loader.call(client.move_sliders, how, sessions, pace)
                samples.append(percentile(trips.latencies, 50) * 1e3)
    return result


def _cpu(plan: Plan) -> Result:
    """Of several sessions at once, so that nothing sleeps meanwhile."""
    result = Result(CPU)
    pace = Pace(plan.seconds(SATURATING.seconds), writes=SATURATING.writes)
    with ExitStack() as stack:
        loader = stack.enter_context(Loader())
        nodes = _nodes(stack)
        for how, node in nodes.items():
            loader.call(client.open_viewers, how, node.port, "/slider", BUSY_SESSIONS, nodelay=True)
            loader.call(client.move_sliders, how, BUSY_SESSIONS, pace)
        for _ in range(plan.repeat):
            for how, samples in ((LOOP, result.stock), (THREADS, result.ours)):
                before = nodes[how].busy()
                trips: Trips = loader.call(client.move_sliders, how, BUSY_SESSIONS, pace)
                samples.append((nodes[how].busy() - before) / len(trips.latencies) * 1e6)
    return result


def _pages(plan: Plan) -> Result:
    result = Result(PAGE)
    with ExitStack() as stack:
        loader = stack.enter_context(Loader())
        plain = stack.enter_context(serve(OURS, "slow"))
        warm = stack.enter_context(serve(OURS, "slow", options=(*KEEP_SESSIONS, "--warm-sessions", "1")))
        for _ in range(plan.repeat):
            result.stock.append(1e3 * float(loader.call(client.page, plain.port, "/slow")))
            for _ in range(PAGES_A_TURN):
                time.sleep(MADE_WITHIN)
                result.ours.append(1e3 * float(loader.call(client.page, warm.port, "/slow")))
    result.note = f"ours {max(result.ours):.1f} ms at most"
    return result


GROUP = Group(ROWS, measure)
