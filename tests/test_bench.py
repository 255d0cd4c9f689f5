"""The benchmarks: that figures say where they come from, and that no row can record what did not happen.

They are programs beside the package, so they are imported from their folder. No row is measured here.
"""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

BENCH = Path(__file__).resolve().parent.parent / "bench"
sys.path.insert(0, str(BENCH))
try:
    import client
    import limits
    import provenance
    import report
    import run as bench
    from rows import sessions
    from rows.row import Group, Plan, Result, Row, Target
finally:
    sys.path.remove(str(BENCH))

PLAN = Plan(frozenset({"a", "b"}), repeat=3, quick=False)


def result(name: str, ours: float = 1.0, target: Target | None = None) -> Result:
    return Result(Row(name, name.upper(), "ms", target or Target()), stock=[2.0], ours=[ours])


def measured(**differing: Any) -> dict[str, Any]:
    known = {"date": "2026-01-01", "repeat": 3, "quick": False, "cpus": 2, "cpu": "AMD", "python": "3.11.7"}
    return {**known, "versions": {"bokeh": "3.9.2"}, **differing}


# -- where figures come from


def test_a_row_that_is_not_measured_again_keeps_what_it_was_measured_on(tmp_path: Path) -> None:
    """A run of one row must not give today's date to all the others."""
    path = tmp_path / "latest.json"
    old = {"name": "a", "measured": measured()}
    path.write_text(json.dumps({"rows": [old, {"name": "b", "measured": measured()}]}))
    report.write_json([result("b")], path, replace(PLAN, repeat=5), keep=True)
    kept, renewed = json.loads(path.read_text())["rows"]
    assert kept == old
    assert renewed["name"] == "b"
    assert renewed["measured"]["repeat"] == 5
    assert renewed["measured"]["date"] != "2026-01-01"


def test_the_caption_names_the_rows_that_were_measured_otherwise() -> None:
    """In other turns, on another day, or elsewhere; where nothing differs it is one sentence."""
    rows = [{"name": name, "measured": measured()} for name in "ab"]
    same = "Measured on 2026-01-01 in 3 turns: 2 cores (AMD), Python 3.11.7, Bokeh 3.9.2, loopback; medians."
    assert provenance.caption(rows) == same
    rows += [{"name": "c", "measured": measured(repeat=5)}, {"name": "d", "measured": measured(cpu="Intel")}]
    assert provenance.caption(rows) == (
        f"{same} Measured on 2026-01-01 in 5 turns: `c`. "
        "Measured on 2026-01-01 in 3 turns, 2 cores (Intel), Python 3.11.7, Bokeh 3.9.2: `d`."
    )


def test_every_recorded_row_says_where_it_comes_from() -> None:
    """The table and the picture are made of these."""
    rows = json.loads(report.LATEST.read_text())["rows"]
    assert rows
    assert provenance.caption(rows).startswith("Measured on ")
    assert report.draw(report.LATEST).endswith("</svg>\n")


# -- what is compared with each other


def test_a_row_is_measured_together_with_the_one_it_is_compared_with() -> None:
    """How a cost grows cannot be seen from one of the two."""
    assert bench.chosen(["encode-slider-5000"]) == {"encode-slider-50", "encode-slider-5000"}


def test_a_row_that_fails_takes_no_other_group_along(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was measured for half an hour is not lost over one of them."""

    def fail(plan: Plan) -> Iterator[Result]:
        raise TimeoutError("the sessions were not gone")

    groups = (Group((result("a").row,), fail), Group((result("b").row,), lambda plan: iter([result("b")])))
    monkeypatch.setattr(bench, "GROUPS", groups)
    assert [found.row.name for found in bench.measure(PLAN)] == ["b"]


# -- the sessions that close


def test_a_stall_is_not_recorded_if_the_sessions_did_not_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be a stall of nothing."""
    still_there = client.Probed(0.001, 0.001, gone=False)
    monkeypatch.setattr(sessions, "_stall_of", lambda kind: (still_there, still_there))
    with pytest.raises(TimeoutError, match="were not gone"):
        list(sessions.measure(Plan(frozenset({"stall"}), repeat=1, quick=True)))


def test_what_comes_after_the_last_session_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The garbage is collected later; and whether all have gone in time is reported."""
    clock = _Clock()
    monkeypatch.setattr(client, "time", clock)
    gone = tmp_path / "gone"
    gone.write_bytes(b".")

    def ask(patience: float) -> None:
        gone.write_bytes(b"..")
        clock.now += 3.0 if clock.now > 14 else 0.5

    probed = client._ask_until(ask, 1.0, client.Until(str(gone), 2, 100.0, 6.0))
    assert probed == client.Probed(3.0, 0.5, gone=True)
    never = client._ask_until(ask, 1.0, client.Until(str(gone), 3, 5.0, 6.0))
    assert not never.gone


class _Clock:
    def __init__(self) -> None:
        self.now = 10.0

    def perf_counter(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


# -- the physical limit


def test_a_full_socket_gets_all_of_it_when_it_has_room_and_holds_up_nobody() -> None:
    """Each viewer has the same bytes in the same order, also one that reads only when the other has everything."""
    far, near = zip(*(socket.socketpair() for _ in range(2)), strict=True)
    payload, due = limits.TAG.ljust(1000, b"."), 3_000_000
    behind = limits._Behind(payload)
    behind.take(far[0], 300)
    behind.take(far[1], 1000)
    assert behind.catch_up(due, wait=True) == []
    got = [payload[:300], payload]
    for which in (1, 0):
        while len(got[which]) < due:
            got[which] += near[which].recv(1 << 20)
            behind.catch_up(due, wait=False)
    assert len(behind) == 0
    assert set(got) == {payload * (due // len(payload))}
    for end in (*far, *near):
        end.close()


@pytest.mark.parametrize(("page", "rows"), [(report.README, report.five), (report.PAGE, report.table)])
def test_pages_have_the_figures_that_were_measured(page: Path, rows: Callable[[Path], str]) -> None:
    """`python bench/report.py` puts in what is new; figures of long ago would be claims."""
    shown = page.read_text(encoding="utf-8").split(report.BEGIN)[1].split(report.END)[0]
    assert shown.strip() == rows(report.LATEST).strip()
