"""The cost of metrics: the same server with them and with --disable-metrics, by turns; and the time of a scrape.

Most of the cost is on the path of patches, so the rows are patches delivered, and saturated round trips. Both servers
run all the time and have many pairs of turns, because the cost is less than the difference between two turns.

`/metrics` is asked for while many sessions are open, over several workers; stock Bokeh has none to compare with.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from http.client import HTTPConnection
from itertools import count

import client
from client import Delivery, Loader, Pace
from servers import KEEP_SESSIONS, OURS, Server, serve

from rows.row import Group, Plan, Result, Row, Target

__all__ = ["GROUP"]

WITHOUT, WITH = "without metrics", "with metrics"
TURNS = 4
"""Pairs of turns for each of the plan's."""

SESSIONS = 32
VIEWERS = (1, 100)
PATCHES = {1: 6000, 100: 800}

_AT_MOST = Target(faster=0.97)


def _row(name: str, title: str) -> Row:
    return Row(name, f"{title}, metrics on and off", "/s", _AT_MOST, stock=WITHOUT, ours=WITH)


DELIVER = {viewers: _row(f"metrics-deliver-{viewers}", f"small patches to {viewers}") for viewers in VIEWERS}
TRIPS = _row("metrics-trips", "saturated round trips")

OPEN = 1000
SCRAPE = Row(f"scrape-{OPEN}", f"GET /metrics with {OPEN:,} sessions, 4 workers", "ms", Target(at_most=50))
SCRAPES = 20
"""Of each of the plan's turns."""

COUNTED_AFTER = 30.0
"""Seconds in which all sessions must be in the numbers; workers write them down once a second."""


def measure(plan: Plan) -> Iterator[Result]:
    for viewers, row in DELIVER.items():
        if row.name in plan.rows:
            yield _delivered(row, viewers, plan)
    if TRIPS.name in plan.rows:
        yield _trips(plan)
    if SCRAPE.name in plan.rows:
        yield _scraped(plan)


def _delivered(row: Row, viewers: int, plan: Plan) -> Result:
    markers = map("END-{:05}".format, count())
    patches = PATCHES[viewers] // (2 if plan.quick else 1)

    def turn(loader: Loader, group: str) -> float:
        got: Delivery = loader.call(client.deliver, group, "small", patches, next(markers).encode())
        return got.rate

    with ExitStack() as stack:
        loader = stack.enter_context(Loader())
        for group, server in _servers(stack, "fanout").items():
            loader.call(client.open_viewers, group, server.port, "/fanout", viewers, session="one-session")
        return _by_turns(row, plan, lambda group: turn(loader, group))


def _trips(plan: Plan) -> Result:
    pace = Pace(plan.seconds(1.5), writes=1)
    with ExitStack() as stack:
        loader = stack.enter_context(Loader())
        for group, server in _servers(stack, "curve").items():
            loader.call(client.open_viewers, group, server.port, "/curve", SESSIONS, nodelay=True)
        return _by_turns(TRIPS, plan, lambda group: loader.call(client.move_sliders, group, SESSIONS, pace).rate)


def _scraped(plan: Plan) -> Result:
    result = Result(SCRAPE)
    port = _free_port()
    options = (*KEEP_SESSIONS, "--admin-port", str(port))
    with Loader() as loader, serve(OURS, "slider", options=options, workers=4) as server:
        loader.call(client.open_viewers, "open", server.port, "/slider", OPEN)
        deadline = time.monotonic() + COUNTED_AFTER
        while _scrape(port)[1] != OPEN:
            if time.monotonic() > deadline:
                raise RuntimeError(f"/metrics never showed {OPEN} sessions")
            time.sleep(0.2)
        result.ours = [1e3 * _scrape(port)[0] for _ in range(plan.repeat * SCRAPES)]
    return result


def _scrape(port: int) -> tuple[float, int]:
    """Seconds until the whole answer is there, and the number of sessions in it."""
    connection = HTTPConnection("127.0.0.1", port)
    started = time.perf_counter()
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    taken = time.perf_counter() - started
    connection.close()
    counts = [line.rpartition(" ")[2] for line in text.splitlines() if line.startswith("aperture_sessions{")]
    return taken, int(sum(map(float, counts)))


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def _servers(stack: ExitStack, app: str) -> Mapping[str, Server]:
    off = (*KEEP_SESSIONS, "--disable-metrics")
    return {
        WITHOUT: stack.enter_context(serve(OURS, app, options=off)),
        WITH: stack.enter_context(serve(OURS, app)),
    }


def _by_turns(row: Row, plan: Plan, turn: Callable[[str], float]) -> Result:
    """Measure by turns. The first pair warms up; each pair begins with the other side than the one before."""
    result = Result(row)
    for pair in range(plan.repeat * TURNS + 1):
        order = (WITHOUT, WITH) if pair % 2 else (WITH, WITHOUT)
        rates = {group: turn(group) for group in order}
        if pair:
            result.stock.append(rates[WITHOUT])
            result.ours.append(rates[WITH])
    return result


GROUP = Group((*DELIVER.values(), TRIPS, SCRAPE), measure)
