"""The table of `docs/soak.md`, from the published runs: `python -m soak.page` writes it between its two marks."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

__all__ = ["PAGE", "RESULTS", "published", "table", "write"]

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "soak.md"
RESULTS = ROOT / "bench" / "results" / "soak.json"
TOTALS = ("operations", "patches_sent", "patches_delivered", "seconds")
BEGIN, END = "<!-- soak -->\n", "<!-- end of soak -->\n"


def published() -> list[dict[str, Any]]:
    """The runs that the page tells of."""
    runs: list[dict[str, Any]] = json.loads(RESULTS.read_text())["runs"]
    return runs


def table(runs: list[dict[str, Any]]) -> str:
    """All runs together, and each kind of fault."""
    total = {name: sum(run[name] for run in runs) for name in TOTALS}
    found = sum(len(run["violations"]) for run in runs)
    struck = sum(row["count"] for run in runs for row in run["faults"].values())
    lost = [run["acknowledged_and_lost"]["oldest_seconds"] for run in runs if run["plan"]["durability"] == "async"]
    seeds = ", ".join(f"{run['plan']['seed']} (`{run['plan']['durability']}`)" for run in runs)
    kept = f" With `async` the oldest lost change was acknowledged {max(lost) * 1000:.0f} ms before." if lost else ""
    lines = [
        (
            f"{len(runs)} runs of {total['seconds'] / 60:.0f} minutes together, seeds {seeds}: "
            f"{total['operations']:,} operations in {total['patches_sent']:,} messages, "
            f"{total['patches_delivered']:,} patches delivered, {struck} faults, "
            f"{sum(run['comparisons'] for run in runs)} comparisons of everything, **{found} violations**.{kept}"
        ),
        "",
        "| fault | count | back after, median of the runs' p50 | longest of all people |",
        "|---|---|---|---|",
    ]
    for kind in sorted({kind for run in runs for kind in run["faults"]}):
        rows = [run["faults"][kind] for run in runs if kind in run["faults"]]
        timed = [row for row in rows if "p50" in row]
        middle = f"{statistics.median(row['p50'] for row in timed):.2f} s" if timed else ""
        longest = f"{max(row['max'] for row in timed):.2f} s" if timed else ""
        lines.append(f"| {kind} | {sum(row['count'] for row in rows) or ''} | {middle} | {longest} |")
    return "\n".join(lines) + "\n"


def write() -> None:
    """Put the table into the page."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(before + BEGIN + table(published()) + END + after)


if __name__ == "__main__":
    write()
