"""What metrics cost: the same server with them and with --disable-metrics, by turns.

Most of it would be on the paths of patches, so that is what is measured: patches delivered, and saturated round trips.
Both servers are alive all the time and have their turns in pairs, many of them, because the cost is less than what one
turn differs from the next.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
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


def measure(plan: Plan) -> Iterator[Result]:
    for viewers, row in DELIVER.items():
        if row.name in plan.rows:
            yield _delivered(row, viewers, plan)
    if TRIPS.name in plan.rows:
        yield _trips(plan)


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


def _servers(stack: ExitStack, app: str) -> Mapping[str, Server]:
    off = (*KEEP_SESSIONS, "--disable-metrics")
    return {
        WITHOUT: stack.enter_context(serve(OURS, app, options=off)),
        WITH: stack.enter_context(serve(OURS, app)),
    }


def _by_turns(row: Row, plan: Plan, turn: Callable[[str], float]) -> Result:
    """The first pair warms up; who begins changes with each pair."""
    result = Result(row)
    for pair in range(plan.repeat * TURNS + 1):
        order = (WITHOUT, WITH) if pair % 2 else (WITH, WITHOUT)
        rates = {group: turn(group) for group in order}
        if pair:
            result.stock.append(rates[WITHOUT])
            result.ours.append(rates[WITH])
    return result


GROUP = Group((*DELIVER.values(), TRIPS), measure)
