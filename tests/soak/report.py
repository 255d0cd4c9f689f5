"""What a run has shown: a table for people, JSON for the pages, and a folder for whoever mends what it has found."""

from __future__ import annotations

import datetime
import json
import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

from soak.calm import Footprint
from soak.run import Outcome
from soak.schedule import write_steps

__all__ = ["as_json", "keep", "table"]

LIVED = 60.0
"""Seconds of a process before its growth says anything."""


def as_json(outcome: Outcome) -> dict[str, Any]:
    """All figures of a run, and nothing that identifies the machine."""
    losses = sorted(outcome.losses.seconds)
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("bokeh", "bokeh-aperture", "tornado")},
        "plan": outcome.plan.as_json(),
        "seconds": round(outcome.seconds),
        **outcome.census.as_json(),
        "steps": len(outcome.played),
        "acknowledged_and_lost": {"times": len(losses), "oldest_seconds": round(losses[-1], 3) if losses else 0},
        "megabytes_per_minute": round(growth(outcome.footprints), 2),
        "violations": [str(violation) for violation in outcome.history.violations],
    }


def growth(footprints: list[list[Footprint]]) -> float:
    """Megabytes per minute by which the process grew that grew fastest, of those that lived for a while."""
    fastest = 0.0
    for node in footprints:
        for pid in {pid for footprint in node for pid in footprint.memory}:
            seen = [(footprint.at, footprint.memory[pid]) for footprint in node if footprint.memory.get(pid)]
            # The first look is at a process that has just begun.
            if len(seen) > 2 and seen[-1][0] - seen[1][0] >= LIVED:
                (begun, least), (ended, most) = seen[1], seen[-1]
                fastest = max(fastest, (most - least) / 2**20 / (ended - begun) * 60)
    return fastest


def table(outcome: Outcome) -> str:
    """For a terminal."""
    found = as_json(outcome)
    lines = [
        (
            f"seed {outcome.plan.seed}, {found['seconds']} s, durability {outcome.plan.durability}: "
            f"{found['operations']:,} operations, {found['patches_delivered']:,} patches delivered, "
            f"{found['steps']} steps, {found['comparisons']} comparisons, {found['connections']:,} connections, "
            f"{found['connections_refused']} refused, "
            f"{found['would_have_asked_the_user']} that would have asked the user"
        ),
        f"{'fault':24}{'count':>8}{'p50 s':>9}{'p99 s':>9}{'max s':>9}",
    ]
    for kind, row in found["faults"].items():
        times = "".join(f"{row[name]:9.2f}" if name in row else f"{'-':>9}" for name in ("p50", "p99", "max"))
        lines.append(f"{kind:24}{row['count']:8}{times}")
    lost = found["acknowledged_and_lost"]
    lines.append(
        f"acknowledged and lost: {lost['times']} times, the oldest {lost['oldest_seconds'] * 1000:.0f} ms before; "
        f"growth {found['megabytes_per_minute']} MB a minute; {len(found['violations'])} violations"
    )
    return "\n".join(lines + found["violations"])


def keep(outcome: Outcome, folder: Path) -> None:
    """Write down what is needed to understand a failed run, and to play it again."""
    outcome.history.write(folder)
    write_steps(folder / "steps.jsonl", outcome.played)
    (folder / "nodes.log").write_text(outcome.log)
    (folder / "report.json").write_text(json.dumps(as_json(outcome), indent=2) + "\n")
