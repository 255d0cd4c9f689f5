"""Round trips: a slider moves, a Python callback runs, the changed text and the OK come back.

Interactive rows move each session's slider at a person's pace, or, with one session, back to back, too. Their sockets
are as the kernel makes them (Nagle's algorithm on, acknowledgements delayed), and a message takes three writes, as in
`bokeh.client`. Saturated rows move the sliders of 32 sessions as fast as they are answered, over sockets like a
browser's (TCP_NODELAY), and each change updates a curve's data, too; stock Bokeh takes part plain and with TCP_NODELAY
patched in.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from contextlib import ExitStack

import client
from client import Loader, Pace, Trips
from limits import bare
from servers import NODELAY, OURS, STOCK, Kind, Server, serve

from rows.row import Group, Plan, Result, Row, Target

__all__ = ["CURVES", "GROUP", "MESSAGE_SIZE", "SATURATING", "percentile"]

LIMIT = "uvloop echo"
MESSAGE_SIZE = 250
"""Bytes of an echo: about what a slider's change takes."""

PACES = {"trip-1": (1, 0.0), "trip-1-paced": (1, 0.03), "trip-20": (20, 0.1), "trip-200": (200, 0.5)}
"""Sessions, and seconds between an answer and the next move of the same slider. Without a pause nothing has time to
fall asleep; with one, waking up processors, and refilling their caches, is most of what a quick server takes."""

CURVES = 32
SATURATING = Pace(1.5, writes=1)


def _rows() -> Iterator[Row]:
    for name, (sessions, pause) in PACES.items():
        who = f"{sessions} session{'s' * (sessions > 1)}"
        title = f"{who}, paced" if sessions == 1 and pause else who
        target = Target(at_most=1) if name == "trip-1" else Target()
        yield Row(f"{name}-p50", f"slider round trip p50, {title}", "ms", target, limit=LIMIT)
        yield Row(f"{name}-p99", f"slider round trip p99, {title}", "ms", limit=LIMIT)


SATURATED = Row("trips", "saturated round trips with data update", "/s", Target(faster=2), stock=NODELAY, limit=LIMIT)
PLAIN = Row("trips-plain", "the same, stock as it comes", "/s", limit=LIMIT)
ROWS = (*_rows(), SATURATED, PLAIN)


def percentile(values: Sequence[float], percent: int) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1] if len(values) > 1 else values[0]


def measure(plan: Plan) -> Iterator[Result]:
    for name in PACES:
        if {f"{name}-p50", f"{name}-p99"} & plan.rows:
            yield from _interactive(name, plan)
    if {SATURATED.name, PLAIN.name} & plan.rows:
        yield from _saturated(plan)


def _interactive(name: str, plan: Plan) -> Iterator[Result]:
    sessions, pause = PACES[name]
    by_name = {row.name: row for row in ROWS}
    p50, p99 = (Result(by_name[f"{name}-{which}"]) for which in ("p50", "p99"))
    pace = Pace(plan.seconds(1.5), pause, writes=3, warmup=10)
    with ExitStack() as stack:
        loader = stack.enter_context(Loader())
        for kind in (STOCK, OURS):
            server = stack.enter_context(serve(kind, "slider"))
            loader.call(client.open_viewers, kind, server.port, "/slider", sessions)
        loader.call(client.open_plain, "bare", stack.enter_context(bare("echo")), sessions)
        for _ in range(plan.repeat):
            for kind in (STOCK, OURS):
                _keep(kind, loader.call(client.move_sliders, kind, sessions, pace), p50, p99)
            _keep("bare", loader.call(client.echo, "bare", MESSAGE_SIZE, pace), p50, p99)
    yield from (result for result in (p50, p99) if result.row.name in plan.rows)


def _keep(kind: Kind, trips: Trips, p50: Result, p99: Result) -> None:
    for result, percent in ((p50, 50), (p99, 99)):
        samples = {STOCK: result.stock, OURS: result.ours}.get(kind, result.limit)
        samples.append(percentile(trips.latencies, percent) * 1e3)


def _saturated(plan: Plan) -> Iterator[Result]:
    fair, plain = Result(SATURATED), Result(PLAIN)
    pace = Pace(plan.seconds(SATURATING.seconds), writes=SATURATING.writes)
    with ExitStack() as stack:
        loader = stack.enter_context(Loader())
        servers: list[Server] = [stack.enter_context(serve(kind, "curve")) for kind in (STOCK, NODELAY, OURS)]
        for server in servers:
            loader.call(client.open_viewers, server.kind, server.port, "/curve", CURVES, nodelay=True)
        loader.call(client.open_plain, "bare", stack.enter_context(bare("echo")), CURVES, nodelay=True)
        for _ in range(plan.repeat):
            rates = {
                server.kind: loader.call(client.move_sliders, server.kind, CURVES, pace).rate for server in servers
            }
            limit = loader.call(client.echo, "bare", MESSAGE_SIZE, pace).rate
            for result, peer in ((fair, NODELAY), (plain, STOCK)):
                result.stock.append(rates[peer])
                result.ours.append(rates[OURS])
                result.limit.append(limit)
    yield from (result for result in (fair, plain) if result.row.name in plan.rows)


GROUP = Group(ROWS, measure)
