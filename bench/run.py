"""Measure Aperture beside stock Bokeh, in one run and by turns, and record the results.

    python bench/run.py [--row NAME ...] [--repeat N] [--quick] [--list] [--json PATH] [--renew]

A complete run renews `bench/results/`. A partial one only prints, unless `--json` names a file, or `--renew` replaces
its rows in `bench/results/`, for example a row that another process on the machine has disturbed, which the limit's
samples show. Each row there says when, how often and on what it was measured.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path
from types import FrameType
from typing import NoReturn

import report
from rows import (
    cluster,
    codec,
    delivery,
    metrics,
    models,
    panel_apps,
    roundtrip,
    served,
    sessions,
    survival,
    threads,
    workers,
)
from rows.row import Group, Plan, Result, Row

RESULTS = Path(__file__).parent / "results"
GROUPS: Sequence[Group] = (
    codec.GROUP,
    served.GROUP,
    models.GROUP,
    delivery.GROUP,
    roundtrip.GROUP,
    sessions.GROUP,
    panel_apps.GROUP,
    workers.GROUP,
    cluster.GROUP,
    survival.GROUP,
    threads.GROUP,
    metrics.GROUP,
)


def every_row() -> list[Row]:
    return [row for group in GROUPS for row in group.rows]


def chosen(patterns: Sequence[str] | None) -> frozenset[str]:
    """The names of rows that one of the patterns matches: a name, its beginning, or a shell pattern.

    A row that must not take much longer than another is measured together with it.
    """
    if not patterns:
        return frozenset(row.name for row in every_row())
    found: set[str] = set()
    for pattern in patterns:
        names = {row.name for row in every_row() if fnmatch(row.name, pattern)}
        names = names or {row.name for row in every_row() if row.name.startswith(pattern)}
        if not names:
            raise SystemExit(f"there is no row {pattern!r}; --list shows them all")
        found |= names
    compared = {row.target.growth[0] for row in every_row() if row.name in found and row.target.growth is not None}
    return frozenset(found | compared)


def measure(plan: Plan) -> list[Result]:
    """All results, each printed at once. A row that fails ends its group, but not the others."""
    print(report.heading())
    results = []
    for group in GROUPS:
        if plan.rows.isdisjoint(row.name for row in group.rows):
            continue
        try:
            for result in group.measure(plan):
                results.append(result)
                print(report.line(result), flush=True)
        except Exception:
            traceback.print_exc()
    return results


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--row", action="append", help="only this row, or the rows that begin so; may be repeated")
    parser.add_argument("--repeat", type=int, default=0, help="turns of each server (default 3, with --quick 2)")
    parser.add_argument("--quick", action="store_true", help="short turns, for a look")
    parser.add_argument("--list", action="store_true", help="list the rows and measure nothing")
    parser.add_argument("--json", type=Path, help="write the results there, too")
    parser.add_argument("--renew", action="store_true", help="put the measured rows into bench/results/")
    return parser.parse_args()


def main() -> None:
    options = parse()
    if options.list:
        print("\n".join(f"{row.name:<26}{row.title} [{row.unit}]" for row in every_row()))
        return
    signal.signal(signal.SIGTERM, _end)
    started = time.monotonic()
    plan = Plan(chosen(options.row), options.repeat or (2 if options.quick else 3), options.quick)
    results = measure(plan)
    failed = plan.rows - {result.row.name for result in results}
    print("\n" + report.verdict(results))
    print(f"{time.monotonic() - started:.0f} s")
    if options.json:
        report.write_json(results, options.json, plan)
    if options.renew or not (options.row or options.quick):
        latest = RESULTS / "latest.json"
        report.write_json(results, latest, plan, keep=options.renew or bool(failed))
        (RESULTS / "latest.svg").write_text(report.draw(latest))
    if failed:
        sys.exit(f"failed: {', '.join(sorted(failed))}")


def _end(signum: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG001
    sys.exit(128 + signum)  # unwinds, so that every server and load generator is ended


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
