"""What more workers bring: sessions and saturated round trips with 1, 2 and 4 of them.

Stock Bokeh is measured with one process in every row: with more it runs a page's app twice and loses sessions.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import client
from client import Loader, Pace
from servers import NODELAY, OURS, Server, serve

from rows.roundtrip import CURVES, SATURATING
from rows.row import Group, Plan, Result, Row
from rows.sessions import ASKING

__all__ = ["GROUP"]

COUNTS = (1, 2, 4)
GENERATORS = 2
"""Load generators at once: one alone would be the slower side."""

CREATED = {
    count: Row(f"workers-{count}-sessions", f"sessions created, {count} worker{'s' * (count > 1)}", "/s", stock=NODELAY)
    for count in COUNTS
}
TRIPS = {
    count: Row(
        f"workers-{count}-trips", f"saturated round trips, {count} worker{'s' * (count > 1)}", "/s", stock=NODELAY
    )
    for count in COUNTS
}


def measure(plan: Plan) -> Iterator[Result]:
    wanted = [count for count in COUNTS if {CREATED[count].name, TRIPS[count].name} & plan.rows]
    if not wanted:
        return
    trips = {count: Result(TRIPS[count]) for count in wanted}
    created = {count: Result(CREATED[count]) for count in wanted}
    with ExitStack() as stack:
        loaders = [stack.enter_context(Loader()) for _ in range(GENERATORS)]
        peer = stack.enter_context(serve(NODELAY, "curve"))
        ours = {count: stack.enter_context(serve(OURS, "curve", workers=count)) for count in wanted}
        for _ in range(plan.repeat):
            stock = _trips(loaders, peer, "stock", plan)
            for count, server in ours.items():
                trips[count].stock.append(stock)
                trips[count].ours.append(_trips(loaders, server, f"ours-{count}", plan))
        for _ in range(plan.repeat):
            stock = _created(loaders, peer, plan)
            for count, server in ours.items():
                created[count].stock.append(stock)
                created[count].ours.append(_created(loaders, server, plan))
    for count in wanted:
        yield from (result for result in (created[count], trips[count]) if result.row.name in plan.rows)


def _trips(loaders: list[Loader], server: Server, group: str, plan: Plan) -> float:
    """Round trips per second of all generators together, each with its share of the sessions."""
    share = CURVES // len(loaders)
    for loader in loaders:
        loader.call(client.open_viewers, group, server.port, "/curve", share, nodelay=True)
    pace = Pace(plan.seconds(SATURATING.seconds), writes=SATURATING.writes)
    for loader in loaders:
        loader.start(client.move_sliders, group, share, pace)
    return float(sum(loader.result().rate for loader in loaders))


def _created(loaders: list[Loader], server: Server, plan: Plan) -> float:
    for loader in loaders:
        loader.start(client.get_pages, server.port, "/curve", ASKING, plan.seconds(1.5))
    return float(sum(loader.result() for loader in loaders))


GROUP = Group((*CREATED.values(), *TRIPS.values()), measure)
