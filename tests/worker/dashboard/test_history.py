"""Rates, quantiles and series, in made-up time."""

from __future__ import annotations

import math

from aperture.metrics import Distribution, Reading, families
from aperture.wire.node_figures import NodeFigures, ProcessFigures
from aperture.worker.dashboard.figures import values_of
from aperture.worker.dashboard.history import (
    APP_SLOTS,
    COLUMNS,
    FORGOTTEN_AFTER,
    POINTS,
    WORKER_SLOTS,
    History,
)
from aperture.worker.dashboard.rows import WorkerRow

NOW = 1_000_000.0


def worker(
    index: int = 0,
    at: float = NOW,
    *,
    out: int = 0,
    app: str = "/a",
    started: float | None = 1.0,
    generation: int = 1,
    lag: float = 0.001,
    callbacks: tuple[float, ...] = (),
    sessions: int = 1,
) -> ProcessFigures:
    """A worker; `started=None` is one that is dead."""
    callback = Distribution(families.CALLBACK.buckets)
    for seconds in callbacks:
        callback.observe(seconds)
    readings = [Reading(families.PATCHES, (app, "out"), out), Reading(families.CALLBACK, (app,), callback)]
    if started is not None:
        readings += [
            Reading(families.SESSIONS, (app,), sessions),
            Reading(families.CONNECTIONS, (app, "owner"), 2),
            Reading(families.CONNECTIONS, (app, "edge"), 1),
            Reading(families.LOOP_LAG, (str(index),), lag),
            Reading(families.MEMORY, (f"worker-{index}",), 50e6),
            Reading(families.STARTED, (f"worker-{index}",), started),
            Reading(families.GENERATION, (str(index),), generation),
        ]
    return ProcessFigures(f"worker-{index}", at, values_of(readings))


def node(*processes: ProcessFigures, name: str = "n") -> NodeFigures:
    return NodeFigures(name, processes)


def rows(history: History) -> dict[tuple[str, int], WorkerRow]:
    return {(row.node, row.worker): row for row in history.workers}


def out_rate(history: History) -> float:
    assert history.totals is not None
    return history.totals.rate_out


def test_a_rate_is_over_the_workers_own_time() -> None:
    """30 patches in the 3 s between two writings, however long we waited for them."""
    history = History("/admin")
    history.look([node(worker(at=NOW, out=100))], NOW)
    assert out_rate(history) == 0
    history.look([node(worker(at=NOW + 3, out=130))], NOW + 2)
    assert out_rate(history) == 10


def test_a_look_without_news_changes_no_rate() -> None:
    """A worker writes once a second at best; looking more often makes no waves."""
    history = History("/admin")
    history.look([node(worker(at=NOW, out=0))], NOW)
    history.look([node(worker(at=NOW + 1, out=10))], NOW + 1)
    history.look([node(worker(at=NOW + 1, out=10))], NOW + 2)
    assert out_rate(history) == 10


def test_counters_that_begin_anew_give_no_negative_rate() -> None:
    """Less than before counts from zero."""
    history = History("/admin")
    history.look([node(worker(at=NOW, out=1000))], NOW)
    history.look([node(worker(at=NOW + 2, out=6))], NOW + 2)
    assert out_rate(history) == 3


def test_a_worker_that_follows_a_dead_one_goes_on_from_its_counters() -> None:
    """Down, then new; its totals and rates are neither doubled nor lost."""
    history = History("/admin")
    history.look([node(worker(at=NOW, out=50))], NOW)
    history.look([node(worker(at=NOW, out=50, started=None))], NOW + 1)
    assert rows(history)["n", 0].state == "down"
    assert history.apps[0].patches_out == 50
    assert history.apps[0].sessions == 0
    history.look([node(worker(at=NOW + 2, out=54, started=NOW + 1, generation=2))], NOW + 2)
    row = rows(history)["n", 0]
    assert (row.state, row.rate_out, row.up_for) == ("new", 2, 1)
    history.look([node(worker(at=NOW + 70, out=54, started=NOW + 1, generation=2))], NOW + 70)
    assert rows(history)["n", 0].state == "up"


def test_the_first_look_knows_a_worker_that_took_anothers_place() -> None:
    """The page's worker may be the one that died, with its history; all workers of a new node are young."""
    history = History("/admin")
    history.look([node(worker(0, started=NOW - 1, generation=2), worker(1, started=NOW - 1))], NOW)
    assert [rows(history)["n", index].state for index in (0, 1)] == ["new", "up"]


def test_a_worker_that_was_replaced_while_nobody_looked_is_not_new() -> None:
    """Hours later it is one like the others, though this page has known its predecessor."""
    history = History("/admin")
    history.look([node(worker())], NOW)
    history.interrupt(NOW + 36_000)
    history.look([node(worker(at=NOW + 36_000, started=NOW + 60, generation=2))], NOW + 36_000)
    assert rows(history)["n", 0].state == "up"


def test_the_clock_of_another_node_may_be_wrong() -> None:
    """How long a worker has been there is counted by its own machine's clock alone."""
    history = History("/admin")
    history.look([node(worker(at=NOW - 900, started=NOW - 905, generation=3))], NOW)
    assert rows(history)["n", 0].state == "new"


def test_a_worker_that_says_nothing_is_shown_as_silent() -> None:
    """Its sessions and rates are not taken for present ones, and its totals stay."""
    history = History("/admin")
    for seconds in (0.0, 1.0, 9.0):
        history.look([node(worker(at=NOW + min(seconds, 1), out=int(seconds)))], NOW + seconds)
    totals = history.totals
    assert totals is not None
    assert rows(history)["n", 0].state == "silent"
    assert (totals.sessions, totals.rate_out, totals.silent_workers, totals.silent_nodes) == (0, 0, 1, 1)
    assert history.apps[0].patches_out == 1


def test_a_node_that_went_is_forgotten_after_a_minute() -> None:
    """Until then it is shown as silent, and so is one that never answered while it is expected to."""
    history = History("/admin")
    history.look([node(worker()), node(worker(), name="m")], NOW)
    history.look([node(worker(at=NOW + 10))], NOW + 10, missing=["m", "never"])
    assert history.totals is not None
    assert (history.totals.nodes, history.totals.silent_nodes) == (3, 2)
    history.look([node(worker(at=NOW + 90))], NOW + FORGOTTEN_AFTER + 30)
    assert (history.totals.nodes, history.totals.silent_nodes) == (1, 0)
    assert rows(history).keys() == {("n", 0)}


def test_the_dashboard_is_in_its_own_row_and_in_no_total() -> None:
    """Looking does not change what is looked at."""
    history = History("/admin")
    history.look([node(worker(0, app="/admin", out=0), worker(1, sessions=4))], NOW)
    history.look(
        [node(worker(0, NOW + 1, app="/admin", out=8, callbacks=(4.0,)), worker(1, NOW + 1, sessions=4))], NOW + 1
    )
    totals = history.totals
    assert totals is not None
    assert (totals.sessions, totals.connections, totals.rate_out) == (4, 3, 0)
    assert math.isnan(totals.callback_p95)
    own = next(row for row in history.apps if row.own)
    assert (own.app, own.sessions, own.rate_out) == ("/admin", 1, 8)
    assert own.callback_p95 > 1
    assert "/admin" not in history.app_slots


def test_totals_are_over_all_nodes() -> None:
    """Two nodes of two workers each: four of everything."""
    history = History("/admin")
    history.look([node(worker(0), worker(1), name=name) for name in "nm"], NOW)
    totals = history.totals
    assert totals is not None
    assert (totals.nodes, totals.workers, totals.sessions, totals.connections) == (2, 4, 4, 12)
    assert totals.memory == 200e6


def test_quantiles_are_of_the_last_looks_only() -> None:
    """A slow start is not held against an app for ever."""
    history = History("/admin")
    seen: tuple[float, ...] = ()
    for look in range(10):
        seen = (*seen, 4.0 if look == 1 else 0.003)
        history.look([node(worker(at=NOW + look, callbacks=seen))], NOW + look)
        if look == 1:
            assert history.apps[0].callback_p95 > 1
    assert history.apps[0].callback_p95 <= 0.005


def test_series_are_bounded_and_whole() -> None:
    """Ten minutes at most, and every column at every time."""
    history = History("/admin")
    for look in range(POINTS + 20):
        history.look([node(worker(at=NOW + look))], NOW + 2 * look)
    assert len(history.points) == POINTS
    assert all(set(point) == set(COLUMNS) for point in history.points)


def test_lines_keep_their_place_and_are_given_on_when_needed() -> None:
    """A line is one worker's until another one needs it and the first is gone."""
    history = History("/admin")
    history.look([node(*(worker(index) for index in range(WORKER_SLOTS)))], NOW)
    first = list(history.worker_slots)
    history.look([node(*(worker(index, NOW + 90) for index in range(1, WORKER_SLOTS + 3)))], NOW + 90)
    assert history.worker_slots[1:] == first[1:]
    assert history.worker_slots[0] == ("n", WORKER_SLOTS)
    assert math.isnan(history.points[-1]["app1_patches"])
    history.look([node(*(worker(index, NOW + 91, app=f"/{index}") for index in range(1, 9)))], NOW + 91)
    assert len(history.app_slots) == APP_SLOTS


def test_an_interruption_is_a_gap() -> None:
    """No line is drawn over the time in which no dashboard was open."""
    history = History("/admin")
    history.look([node(worker())], NOW)
    history.interrupt(NOW + 100)
    assert math.isnan(history.points[-1]["sessions"])
    assert history.points[-1]["t"] == (NOW + 100) * 1000


def test_any_other_nodes_labels_do_no_harm() -> None:
    """Another version, or a stranger, may send series of any shape."""
    odd = ProcessFigures(
        "worker-0",
        NOW,
        {
            ("aperture_sessions", ()): 1.0,
            ("aperture_callback_seconds_bucket", ("/a", "wide")): 2.0,
            ("aperture_patches_total", ("/a",)): 3.0,
            ("aperture_patches_total", ()): 3.0,
            ("aperture_patches_total", ("/a", "out")): -3.0,
        },
    )
    history = History("/admin")
    for look in range(2):
        moved = {key: value * (look + 1) for key, value in odd.values.items()}
        history.look([node(ProcessFigures("worker-0", NOW + look, moved))], NOW + look)
    assert out_rate(history) == 0
    assert history.apps[0].app == "/a"
