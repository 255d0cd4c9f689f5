"""Shows results: lines on the terminal, JSON, a picture, the tables of the pages.

python bench/report.py      renews the picture and these tables from bench/results/latest.json
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from picture import draw
from provenance import caption, provenance
from rows.row import Plan, Result, Target

__all__ = ["draw", "heading", "line", "verdict", "write_json"]

HERE = Path(__file__).parent
LATEST = HERE / "results" / "latest.json"
README = HERE.parent / "README.md"
PAGE = HERE.parent / "docs" / "benchmarks.md"
GUIDE = HERE.parent / "docs" / "operators-guide.md"
BEGIN, END = "<!-- benchmarks -->", "<!-- end of benchmarks -->"

FIVE = ("deliver-100", "change-slider-5000", "trip-200-p99", "trips", "stall-page")
"""The rows in the README: a fan-out, a large document, a tail, a throughput, and the wait of other viewers."""

STOCK_ROWS = (
    "encode-slider-50",
    "encode-slider-5000",
    "encode-stream-lists-50",
    "encode-stream-numpy-50",
    "change-slider-50",
    "change-slider-5000",
    "apply-slider-5000",
    "deliver-1",
    "deliver-100",
    "deliver-1000",
    "deliver-28k-50",
    "trip-1-p50",
    "trip-200-p99",
    "trips",
    "first-100k-lists",
    "first-100k-numpy",
    "sessions",
    "memory-session",
    "memory-connection",
    "stall",
    "stall-page",
)

PANEL_ROWS = ("panel-first", "panel-sessions", "panel-memory")
"""Beside `panel serve`."""

CLUSTER_ROWS = (
    "hop-1-p50",
    "hop-20-p50",
    "hop-20-p99",
    "owner-cpu-0",
    "owner-cpu-1",
    "owner-cpu-10",
    "owner-cpu-100",
    "redis-commands-0",
    "redis-commands-1",
    "keep-deliver-1-async",
    "keep-deliver-100-async",
    "keep-trips-async",
    "keep-deliver-1-ack",
    "keep-deliver-100-ack",
    "keep-trips-ack",
    "keep-memory",
    "keep-memory-moved",
)
"""Both sides are ours, so that they have a table of their own."""

THREAD_ROWS = ("threads-trip-1-p50", "threads-trip-20-p50", "threads-cpu", "warm-page")
"""Likewise."""

_PANEL_HEAD = (
    "An app of Panel on `panel serve` and on `aperture panel`, one process each:",
    "",
    "| | panel serve | ours | ratio | asked for |",
    "|---|---|---|---|---|",
)

_THREADS_HEAD = (
    "App code in threads, and sessions made ahead; Aperture on both sides:",
    "",
    "| | without | with | ratio | asked for |",
    "|---|---|---|---|---|",
)

_WIDTHS = "{:<47}{:>12}{:>12}{:>10}  {:<22}{:>12}{:>10}"


def heading() -> str:
    return _WIDTHS.format("row", "stock", "ours", "ratio", "target", "limit", "distance")


def line(result: Result) -> str:
    """One result for the terminal; targets that are missed are marked."""
    stock, ours, limit = result.medians
    row, unit = result.row, result.row.unit
    text = _WIDTHS.format(
        result.row.title,
        amount(stock, unit),
        amount(ours, unit),
        times(result.ratio),
        target_text(result.row.target, unit),
        amount(limit, unit),
        times(result.distance),
    )
    sides = "" if row.ours == "ours" else f"{row.stock} | {row.ours}" if result.stock else row.ours
    return "  ".join([text, *filter(None, (sides, result.note))]).rstrip()


def amount(value: float | None, unit: str) -> str:
    """A value with its unit, in three digits or so."""
    if value is None:
        return "-"
    if unit == "us" and value >= 10_000:
        value, unit = value / 1000, "ms"
    if unit == "ms" and value >= 10_000:
        value, unit = value / 1000, "s"
    digits = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:,.{digits}f}{unit if unit.startswith('/') else ' ' + unit}"


def times(value: float | None) -> str:
    return "-" if value is None else f"{value:,.{0 if value >= 100 else 1 if value >= 10 else 2}f}x"


def target_text(target: Target, unit: str) -> str:
    parts = []
    if target.faster is not None:
        parts.append(f">= {target.faster:g}x")
    if target.at_most is not None:
        parts.append(f"<= {target.at_most:g} {unit}")
    if target.of_limit is not None:
        parts.append(f"limit/{1 / target.of_limit:.0f}")
    if target.growth is not None:
        name, most = target.growth
        parts.append(f"<= {most:g}x at {name.rpartition('-')[2]}")
    if target.adds is not None:
        parts.append(f"<= {target.adds:g} {unit} more")
    return ", ".join(parts)


def misses(result: Result, others: Iterable[Result]) -> list[str]:
    """Which of a row's targets it does not meet, in words."""
    target, ours = result.row.target, result.medians[1]
    missed = []
    if target.faster is not None and result.ratio is not None and result.ratio < target.faster:
        missed.append(f"{times(result.ratio)} instead of {target.faster:g}x")
    if target.at_most is not None and ours > target.at_most:
        missed.append(f"{amount(ours, result.row.unit)} instead of {target.at_most:g}")
    if target.of_limit is not None and result.distance is not None and result.distance > 1 / target.of_limit:
        missed.append(f"1/{result.distance:.1f} of the limit instead of 1/{1 / target.of_limit:.0f}")
    if target.adds is not None and result.added is not None and result.added > target.adds:
        missed.append(f"{amount(result.added, result.row.unit)} more instead of {target.adds:g}")
    if target.growth is not None:
        missed.extend(_growth_missed(target.growth, ours, others))
    return missed


def _growth_missed(growth: tuple[str, float], ours: float, others: Iterable[Result]) -> Iterator[str]:
    name, most = growth
    for other in others:
        if other.row.name == name and ours > most * other.medians[1]:
            yield f"{ours / other.medians[1]:.2f} times {name} instead of {most:g}"


def verdict(results: Sequence[Result]) -> str:
    """What was asked for and is not there."""
    asked = [result for result in results if result.row.target != Target()]
    lines = [
        f"missed: {result.row.title}: {', '.join(missed)}" for result in asked if (missed := misses(result, results))
    ]
    return "\n".join([*lines, f"{len(asked) - len(lines)} of {len(asked)} targets met"])


# JSON


def write_json(results: Sequence[Result], path: Path, plan: Plan, *, keep: bool = False) -> None:
    """Write the results to a file.

    Args:
        results: of this run.
        path: the file.
        plan: that they were measured by.
        keep: leave rows in the file that this run did not measure, as they were measured then.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    measured = provenance(plan)
    fresh = {result.row.name: {**_row_json(result, results), "measured": measured} for result in results}
    old = json.loads(path.read_text())["rows"] if keep and path.exists() else []
    rows = [fresh.pop(row["name"], row) for row in old]
    path.write_text(json.dumps({"rows": [*rows, *fresh.values()]}, indent=1) + "\n")


def _row_json(result: Result, results: Sequence[Result]) -> dict[str, Any]:
    stock, ours, limit = result.medians
    row = asdict(result.row)
    return {
        **{key: row[key] for key in ("name", "title", "unit", "target")},
        "stock": {
            "what": result.row.stock,
            "median": _short(stock),
            "samples": [_short(value) for value in result.stock],
        },
        "ours": {"what": result.row.ours, "median": _short(ours), "samples": [_short(value) for value in result.ours]},
        "limit": {
            "what": result.row.limit,
            "median": _short(limit),
            "samples": [_short(value) for value in result.limit],
        },
        "ratio": _short(result.ratio),
        "distance": _short(result.distance),
        "missed": misses(result, results),
        "note": result.note,
    }


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")


# README and docs/benchmarks.md


def five(path: Path) -> str:
    """The README's rows, in Markdown."""
    rows = {row["name"]: row for row in json.loads(path.read_text())["rows"]}
    lines = [_markdown(rows[name]).rsplit(" | ", 1)[0] + " |" for name in FIVE if name in rows]
    return "\n".join(["| | stock | Aperture | ratio |", "|---|---|---|---|", *lines])


def table(path: Path) -> str:
    """All rows, in Markdown."""
    rows = {row["name"]: row for row in json.loads(path.read_text())["rows"]}
    shown = [rows[name] for name in (*STOCK_ROWS, *PANEL_ROWS, *CLUSTER_ROWS, *THREAD_ROWS) if name in rows]
    lines, panel = ([_markdown(rows[name]) for name in names if name in rows] for names in (STOCK_ROWS, PANEL_ROWS))
    own, threads = (
        [_markdown_own(rows[name]) for name in names if name in rows] for names in (CLUSTER_ROWS, THREAD_ROWS)
    )
    return "\n".join(
        [
            "| | stock | ours | ratio | asked for |",
            "|---|---|---|---|---|",
            *lines,
            "",
            *(_PANEL_HEAD if panel else ()),
            *panel,
            *([""] if panel else []),
            "Two nodes that share a Redis, and sessions stored in it; Aperture on both sides:",
            "",
            "| | without | with | ratio | asked for |",
            "|---|---|---|---|---|",
            *own,
            "",
            *(_THREADS_HEAD if threads else ()),
            *threads,
            *([""] if threads else []),
            caption(shown),
        ]
    )


def _markdown_own(row: dict[str, Any]) -> str:
    """A row whose sides are both ours; each says what it is."""
    unit, target = row["unit"], target_text(Target(**row["target"]), row["unit"])
    missed = " (missed)" if row["missed"] else ""
    stock, ours = row["stock"], row["ours"]
    without = "" if stock["median"] is None else f"{stock['what']}: {amount(stock['median'], unit)}"
    ratio = "" if row["ratio"] is None else times(row["ratio"])
    return (
        f"| {row['title']} | {without} | {ours['what']}: {amount(ours['median'], unit)} | {ratio} | {target}{missed} |"
    )


def _markdown(row: dict[str, Any]) -> str:
    unit, target = row["unit"], target_text(Target(**row["target"]), row["unit"])
    missed = " (missed)" if row["missed"] else ""
    stock, ours = amount(row["stock"]["median"], unit), amount(row["ours"]["median"], unit)
    return f"| {row['title']} | {stock} | {ours} | {times(row['ratio'])} | {target}{missed} |"


def renew_tables() -> None:
    """Put five rows into the README and all of them into `docs/benchmarks.md`, between their markers."""
    for page, rows in ((README, five(LATEST)), (PAGE, table(LATEST))):
        before, begin, rest = page.read_text().partition(BEGIN)
        _, end, after = rest.partition(END)
        if begin and end:
            page.write_text(f"{before}{BEGIN}\n{rows}\n{END}{after}")


# The operator's guide

_FIGURE = re.compile(r"(?m)^\| `([\w-]+)` \| [^|]* \|")
"""The name and the figure of a row there; what follows says how it was measured."""


def figures(text: str, path: Path) -> str:
    """The guide's text with each figure as it was last measured."""
    rows = {row["name"]: row for row in json.loads(path.read_text())["rows"]}

    def renewed(match: re.Match[str]) -> str:
        row = rows.get(match[1])
        return match[0] if row is None else f"| `{match[1]}` | {amount(row['ours']['median'], row['unit'])} |"

    return _FIGURE.sub(renewed, text)


def renew_guide() -> None:
    """Put the figures into the guide."""
    GUIDE.write_text(figures(GUIDE.read_text(), LATEST))


if __name__ == "__main__":
    LATEST.with_suffix(".svg").write_text(draw(LATEST))
    renew_tables()
    renew_guide()
