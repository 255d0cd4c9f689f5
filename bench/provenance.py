"""The provenance of figures: when, how often and on what each row was measured, and the caption that says so.

Rows of one table may have been measured in several runs, so each has its own.
"""

from __future__ import annotations

import datetime
import os
import platform
from collections import defaultdict
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rows.row import Plan

__all__ = ["caption", "provenance"]

VERSIONS = ("bokeh", "bokeh-aperture", "tornado", "uvloop", "numpy", "orjson")


def provenance(plan: Plan) -> dict[str, Any]:
    """The facts that a comparison needs, and none that identifies the machine."""
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "repeat": plan.repeat,
        "quick": plan.quick,
        "cpus": os.cpu_count(),
        "cpu": _cpu_model(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {name: version(name) for name in VERSIONS},
    }


def _cpu_model() -> str:
    for text in Path("/proc/cpuinfo").read_text().splitlines():
        if text.startswith("model name"):
            return text.partition(":")[2].strip()
    return platform.processor()


def caption(rows: Iterable[dict[str, Any]]) -> str:
    """The caption: when and on what the rows were measured, with the names of those that differ from most."""
    names = defaultdict(list)
    for row in rows:
        names[_when(row["measured"]), _where(row["measured"])].append(row["name"])
    (when, where), *others = sorted(names, key=lambda measured: -len(names[measured]))
    parts = [f"Measured {when}: {where}, loopback; medians."]
    for other in others:
        elsewhere = "" if other[1] == where else f", {other[1]}"
        parts.append(f"Measured {other[0]}{elsewhere}: {', '.join(f'`{name}`' for name in names[other])}.")
    return " ".join(parts)


def _when(measured: dict[str, Any]) -> str:
    turns = f"{measured['repeat']} {'short ' * measured['quick']}turn{'s' * (measured['repeat'] != 1)}"
    return f"on {measured['date']} in {turns}"


def _where(measured: dict[str, Any]) -> str:
    return (
        f"{measured['cpus']} cores ({measured['cpu']}), Python {measured['python']}, "
        f"Bokeh {measured['versions']['bokeh']}"
    )
