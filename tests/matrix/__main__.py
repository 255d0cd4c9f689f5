"""Runs the tests on other versions of Python, Bokeh and Redis, and prints what passed: `python -m matrix` in `tests/`.

    python -m matrix --python python3.12 --python python3.14 --bokeh 3.9.2 --parts unit integration --jobs 4
    python -m matrix --redis "Valkey 9.1.2" --parts redis

Each row is an environment of its own in `build/matrix`, made at the first run. Its output is beside it, and its counts
are in `bench/results/matrix.json`, where a later run of the same row replaces them.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from matrix.environments import BOKEHS, REDISES, Environment, RedisKind, environment, redis_kind
from matrix.interpreters import ROOT

INSTALLED = "installed"

RESULTS = ROOT / "bench" / "results" / "matrix.json"

PARTS: Mapping[str, Sequence[str]] = {
    "unit": ["tests", *(f"--ignore=tests/{folder}" for folder in ("integration", "browser", "containers"))],
    "integration": ["tests/integration"],
    "protocol": [
        f"tests/integration/test_{name}.py"
        for name in (
            "apps_callbacks", "apps_hooks", "apps_routes", "client_sessions", "compat_client", "faults_input",
            "hostile_models", "server_compat", "server_page", "snapshots_model",
        )
    ],
    "redis": [
        f"tests/integration/test_{name}.py"
        for name in (
            "bus_conformance", "bus_outages", "registry_claims", "registry_model", "registry_stream",
            "snapshots_faults", "snapshots_model", "snapshots_storage", "sentinel_failover",
        )
    ],
    "examples": ["tests/browser/test_examples.py"],
}  # fmt: skip
"""What `--parts` names, as arguments of pytest."""

DEFAULT_PARTS = ("unit", "protocol")

_COUNT = re.compile(r"(\d+) (passed|failed|errors?|skipped)")
_FAULT = re.compile(r"^(?:FAILED|ERROR) (tests/\S+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one part ended in one row.

    Args:
        faults: the tests that have failed.
    """

    passed: int
    failed: int
    skipped: int
    faults: list[str]


def main() -> int:
    """The exit status: 1 if a test has failed, or none has passed."""
    parser = argparse.ArgumentParser(prog="matrix", description="Runs tests on other versions, and prints a table.")
    parser.add_argument("--python", action="append", help="an interpreter (default: this one); may be repeated")
    parser.add_argument("--bokeh", action="append", help=f"a version (default: {', '.join(BOKEHS)}); may be repeated")
    parser.add_argument("--redis", action="append", help=f"one of {', '.join(REDISES)}, or {INSTALLED} (the default)")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=DEFAULT_PARTS)
    parser.add_argument("--jobs", type=int, default=0, help="tests that run at once (default: one)")
    arguments = parser.parse_args()
    outcomes: list[Outcome] = []
    print("| Python | Bokeh | Redis | tests | passed | failed | skipped |\n|---|---|---|---|---|---|---|", flush=True)
    for environment_ in _environments(arguments.python or [sys.executable], arguments.bokeh or BOKEHS):
        for redis_name in arguments.redis or [INSTALLED]:
            kind = redis_kind(redis_name, environment_.base)
            for part in arguments.parts:
                outcome = _run(environment_, kind, part, arguments.jobs)
                outcomes.append(outcome)
                row = {"python": environment_.python, "bokeh": environment_.bokeh, "redis": kind.name, "tests": part}
                _record(row, outcome)
                figures = (*row.values(), f"{outcome.passed:,}", outcome.failed, outcome.skipped)
                print(f"| {' | '.join(map(str, figures))} |", flush=True)
    return int(any(outcome.failed or not outcome.passed for outcome in outcomes))


def _environments(pythons: Sequence[str], bokehs: Sequence[str]) -> Iterator[Environment]:
    return (environment(python, bokeh) for python in pythons for bokeh in bokehs)


def _run(made: Environment, kind: RedisKind, part: str, jobs: int) -> Outcome:
    at_once = ("--numprocesses", str(jobs), "--dist", "loadfile") if jobs else ()
    done = made.run_python(
        *("-m", "pytest", "-q", "-rfE", "-p", "no:cacheprovider", *at_once, *PARTS[part]),
        env={**os.environ, "CI": "true", **kind.variables},
        capture_output=True,
        check=False,
    )
    said = done.stdout + done.stderr
    made.folder.joinpath(f"{part}-{kind.name}.log").write_text(said)
    return _outcome(done.stdout)


def _outcome(said: str) -> Outcome:
    counts = {word.rstrip("s"): int(count) for count, word in _COUNT.findall(said.strip().rpartition("\n")[2])}
    failed = counts.get("failed", 0) + counts.get("error", 0)
    return Outcome(counts.get("passed", 0), failed, counts.get("skipped", 0), _FAULT.findall(said))


def _record(row: Mapping[str, str], outcome: Outcome) -> None:
    """In the place of what the file has of that row."""
    known = json.loads(RESULTS.read_text())["rows"] if RESULTS.exists() else []
    others = [old for old in known if any(old[name] != value for name, value in row.items())]
    rows = [*others, {**row, **asdict(outcome), "when": f"{datetime.now(UTC):%Y-%m-%d}"}]
    rows.sort(key=lambda one: (one["tests"], *(list(map(int, re.findall(r"\d+", one[name]))) for name in row)))
    RESULTS.write_text(json.dumps({"rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
