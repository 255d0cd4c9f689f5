"""Sessions: how fast they begin, what they weigh, and what their end costs the others."""

from __future__ import annotations

import gc
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import client
from bokeh.command.util import build_single_handler_application
from client import Loader, Probed, Until
from servers import APPS, OURS, STOCK, Kind, Server, serve

from rows.row import Group, Plan, Result, Row, Target

__all__ = ["ASKING", "GROUP"]

FIRST = {
    "slider": Row("first-small", "GET to first document, small app", "ms"),
    "points_lists": Row(
        "first-100k-lists",
        "GET to first document, 100,000 points, lists",
        "ms",
        Target(faster=5),
        limit="the app's code in stock Bokeh",
    ),
    "points_arrays": Row(
        "first-100k-numpy",
        "GET to first document, 100,000 points, numpy",
        "ms",
        Target(faster=5),
        limit="the app's code in stock Bokeh",
    ),
}
CREATED = Row("sessions", "sessions created", "/s", limit="the app's code in stock Bokeh")
MEMORY_SESSION = Row("memory-session", "memory of a session", "KB")
MEMORY_CONNECTION = Row("memory-connection", "memory of a further connection", "KB")
STALL = Row("stall", "longest stall while 300 sessions close", "ms", Target(at_most=50))
STALL_PAGE = Row("stall-page", "longest page load while 300 sessions close", "ms")

ASKING = 4
"""Browsers that ask for a page at the same time."""

LOADS_A_TURN = 5
WEIGHED = 200
CLOSING = 300
PROBE_EVERY = 0.005
PAGE_EVERY = 0.1
GONE_WITHIN = 180.0
"""Seconds in which the sessions must be gone: two or three times what stock Bokeh takes."""

AFTERWARDS = 6.0
"""Seconds that are probed on. What the sessions have left behind is collected when it is quiet: ours waits for two
seconds in which no page was asked for, which is why pages are not asked for then."""


def measure(plan: Plan) -> Iterator[Result]:
    for app, row in FIRST.items():
        if row.name in plan.rows:
            yield _first(app, row, plan)
    if CREATED.name in plan.rows:
        yield _created(plan)
    if {MEMORY_SESSION.name, MEMORY_CONNECTION.name} & plan.rows:
        yield from (result for result in _memory() if result.row.name in plan.rows)
    if {STALL.name, STALL_PAGE.name} & plan.rows:
        yield from (result for result in _stall(plan) if result.row.name in plan.rows)


def _first(app: str, row: Row, plan: Plan) -> Result:
    def load(loader: Loader, server: Server) -> float:
        return 1e3 * float(loader.call(client.first_document, server.port, f"/{app}"))

    result = _alternate(row, app, plan.repeat * LOADS_A_TURN, load)
    if row.limit:
        result.limit = [1e3 * seconds for seconds in _app_alone(app, plan.repeat * LOADS_A_TURN)]
    return result


def _created(plan: Plan) -> Result:
    def ask(loader: Loader, server: Server) -> float:
        return float(loader.call(client.get_pages, server.port, "/curve", ASKING, plan.seconds(1.5)))

    result = _alternate(CREATED, "curve", plan.repeat, ask)
    result.limit = [1 / seconds for seconds in _app_alone("curve", 50)]
    return result


def _alternate(row: Row, app: str, turns: int, measure_once: Callable[[Loader, Server], float]) -> Result:
    result = Result(row)
    with ExitStack() as stack:
        loader = stack.enter_context(Loader())
        servers = [stack.enter_context(serve(kind, app)) for kind in (STOCK, OURS)]
        for server in servers:
            measure_once(loader, server)
        for _ in range(turns):
            for server in servers:
                samples = result.ours if server.kind is OURS else result.stock
                samples.append(measure_once(loader, server))
    return result


def _app_alone(app: str, count: int) -> list[float]:
    """Seconds that the app's own code takes to fill a document, without a server around it."""
    application = build_single_handler_application(str(APPS / f"{app}.py"))
    taken = []
    for _ in range(count):
        started = time.perf_counter()
        application.create_document()
        taken.append(time.perf_counter() - started)
        gc.collect(1)
    return taken


def _memory() -> Iterator[Result]:
    """One session for each of 200 connections, then 200 more connections of a single one."""
    each, further = Result(MEMORY_SESSION), Result(MEMORY_CONNECTION)
    for kind in (STOCK, OURS):
        with Loader() as loader, serve(kind, "curve") as server:
            loader.call(client.open_viewers, "warm-up", server.port, "/curve", 10)
            start = server.resident()
            loader.call(client.open_viewers, "many", server.port, "/curve", WEIGHED)
            sessions = server.resident()
            loader.call(client.open_viewers, "one", server.port, "/curve", 1, session="one")
            one = server.resident()
            loader.call(client.open_viewers, "one", server.port, "/curve", 1 + WEIGHED, session="one")
            end = server.resident()
        for result, grown in ((each, sessions - start), (further, end - one)):
            (result.ours if kind is OURS else result.stock).append(grown / WEIGHED / 1024)
    yield each
    yield further


def _stall(plan: Plan) -> Iterator[Result]:
    stall, page = Result(STALL), Result(STALL_PAGE)
    closing = []
    for kind in [*([] if plan.quick else [STOCK]), *[OURS] * min(plan.repeat, 3)]:
        probed, pages = _stall_of(kind)
        if not (probed.gone and pages.gone):
            raise TimeoutError(f"{kind}: the sessions were not gone within {GONE_WITHIN:.0f} s")
        for result, longest in ((stall, probed.longest), (page, pages.longest)):
            (result.ours if kind is OURS else result.stock).append(1e3 * longest)
        if kind is OURS:
            closing.append(1e3 * probed.until_gone)
    stall.note = f"ours {statistics.median(closing):.1f} ms until the last was gone"
    yield stall
    yield page


LIFETIMES: Sequence[str] = ("--unused-session-lifetime", "1000", "--check-unused-sessions", "500")


def _stall_of(kind: Kind) -> tuple[Probed, Probed]:
    """Of the event loop, and of the pages of another app, whose sessions are not counted."""
    with ExitStack() as stack:
        gone = stack.enter_context(_counting_file())
        tabs, prober, reader = (stack.enter_context(Loader()) for _ in range(3))
        environment = {"BENCH_GONE_FILE": str(gone)}
        server = stack.enter_context(serve(kind, "closing", "slider", options=LIFETIMES, env=environment))
        tabs.call(client.open_viewers, "tabs", server.port, "/closing", CLOSING)
        until = partial(Until, str(gone), CLOSING, GONE_WITHIN)
        prober.start(client.probe, server.port, "/closing/metadata", PROBE_EVERY, until(AFTERWARDS))
        reader.start(client.probe_pages, server.port, "/slider", PAGE_EVERY, until(0.0))
        tabs.call(client.close_all, "tabs")
        return prober.result(), reader.result()


@contextmanager
def _counting_file() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "gone"
        path.touch()
        yield path


GROUP = Group((*FIRST.values(), CREATED, MEMORY_SESSION, MEMORY_CONNECTION, STALL, STALL_PAGE), measure)
