"""Apps of Panel: what a page and its session cost on `panel serve` and on ours, with one process each.

Most of either is Panel's own code, which the app runs: the physical limit is that code, in stock Bokeh and without a
server around it.
"""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack
from multiprocessing.connection import Connection

import client
from client import Loader
from servers import APPS, OUR_PANEL, PANEL, Server, serve

from rows.row import Group, Plan, Result, Row, Target
from rows.sessions import ASKING

__all__ = ["GROUP"]

ALONE = "the app's code in stock Bokeh"
FIRST = Row("panel-first", "GET to first document, Panel template", "ms", stock=PANEL, limit=ALONE)
CREATED = Row("panel-sessions", "sessions created, Panel template", "/s", Target(faster=1.6), stock=PANEL, limit=ALONE)
MEMORY = Row("panel-memory", "memory of a session, Panel template", "KB", Target(faster=1 / 0.72), stock=PANEL)

APP = "panel_form"
WARM_UP = 20
"""Pages before the clock starts: Panel fills caches of templates and styles with the first."""

LOADS_A_TURN = 5
WEIGHED = 100
ALONE_RUNS = 30


def measure(plan: Plan) -> Iterator[Result]:
    first, created, memory = Result(FIRST), Result(CREATED), Result(MEMORY)
    if {FIRST.name, CREATED.name} & plan.rows:
        with ExitStack() as stack:
            loader = stack.enter_context(Loader())
            servers = [stack.enter_context(serve(kind, APP)) for kind in (PANEL, OUR_PANEL)]
            for server in servers:
                loader.call(client.open_pages, f"warm-up of {server.kind}", server.port, f"/{APP}", WARM_UP)
            for _ in range(plan.repeat):
                for server in servers:
                    _take_turn(loader, server, plan, first, created)
        alone = _app_alone()
        first.limit, created.limit = [1e3 * alone], [1 / alone]
    if MEMORY.name in plan.rows:
        for kind in [PANEL, OUR_PANEL] * (1 if plan.quick else plan.repeat):
            _side(memory, kind).append(_weigh(kind))
    yield from (result for result in (first, created, memory) if result.row.name in plan.rows)


def _take_turn(loader: Loader, server: Server, plan: Plan, first: Result, created: Result) -> None:
    path = f"/{APP}"
    if FIRST.name in plan.rows:
        for _ in range(LOADS_A_TURN):
            _side(first, server.kind).append(1e3 * float(loader.call(client.first_document, server.port, path)))
    if CREATED.name in plan.rows:
        rate = loader.call(client.get_pages, server.port, path, ASKING, plan.seconds(6.0))
        _side(created, server.kind).append(float(rate))


def _side(result: Result, kind: str) -> list[float]:
    return result.stock if kind == PANEL else result.ours


def _weigh(kind: str) -> float:
    """KB that a session with its page's connection adds."""
    with Loader() as loader, serve(kind, APP) as server:
        loader.call(client.open_pages, "warm-up", server.port, f"/{APP}", WARM_UP)
        start = server.resident()
        loader.call(client.open_pages, "weighed", server.port, f"/{APP}", WEIGHED)
        return (server.resident() - start) / WEIGHED / 1024


def _app_alone() -> float:
    """Seconds that the app's code takes to fill a document. In a process of its own, as Panel changes Bokeh."""
    context = multiprocessing.get_context("spawn")
    mine, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_run_app, args=(theirs,), daemon=True)
    process.start()
    theirs.close()
    taken: float = mine.recv()
    process.join()
    return taken


def _run_app(pipe: Connection) -> None:
    from panel.io.application import build_single_handler_application

    application = build_single_handler_application(str(APPS / f"{APP}.py"))
    taken = []
    for _ in range(ALONE_RUNS):
        started = time.perf_counter()
        application.create_document()
        taken.append(time.perf_counter() - started)
    pipe.send(statistics.median(taken))


GROUP = Group((FIRST, CREATED, MEMORY), measure)
