"""Runs the tests on other versions of Python, Bokeh and Redis, and prints what passed: `python -m matrix` in `tests/`.

    python -m matrix --python python3.12 --python python3.13 --bokeh 3.9.2
    python -m matrix --redis "Valkey 9.1.2" --parts redis

Each row is an environment of its own in `build/matrix`, made at the first run. Its output is beside it.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from matrix.environments import BOKEHS, REDISES, ROOT, Environment, RedisKind, environment, redis_kind

INSTALLED = "installed"

PARTS: Mapping[str, Sequence[str]] = {
    "unit": ["tests", *(f"--ignore=tests/{folder}" for folder in ("integration", "browser", "containers"))],
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

_COUNT = re.compile(r"(\d+) (passed|failed|error|skipped)")


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one part ended in one row."""

    passed: int
    failed: int
    skipped: int


def main() -> int:
    """The exit status: 1 if a test has failed, or none has passed."""
    parser = argparse.ArgumentParser(prog="matrix", description="Runs tests on other versions, and prints a table.")
    parser.add_argument("--python", action="append", help="an interpreter (default: this one); may be repeated")
    parser.add_argument("--bokeh", action="append", help=f"a version (default: {', '.join(BOKEHS)}); may be repeated")
    parser.add_argument("--redis", action="append", help=f"one of {', '.join(REDISES)}, or {INSTALLED} (the default)")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=DEFAULT_PARTS)
    arguments = parser.parse_args()
    outcomes: list[Outcome] = []
    print("| Python, Bokeh | Redis | tests | passed | failed | skipped |\n|---|---|---|---|---|---|", flush=True)
    for environment_ in _environments(arguments.python or [sys.executable], arguments.bokeh or BOKEHS):
        for redis_name in arguments.redis or [INSTALLED]:
            kind = redis_kind(redis_name)
            for part in arguments.parts:
                outcome = _run(environment_, kind, part)
                outcomes.append(outcome)
                figures = f"{outcome.passed:,} | {outcome.failed} | {outcome.skipped}"
                print(f"| {environment_.name} | {kind.name} | {part} | {figures} |", flush=True)
    return int(any(outcome.failed or not outcome.passed for outcome in outcomes))


def _environments(pythons: Sequence[str], bokehs: Sequence[str]) -> Iterator[Environment]:
    return (environment(python, bokeh) for python in pythons for bokeh in bokehs)


def _run(made: Environment, kind: RedisKind, part: str) -> Outcome:
    command = [str(made.python), "-m", "pytest", "-q", "-p", "no:cacheprovider", *PARTS[part]]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "CI": "true", **kind.variables},
        capture_output=True,
        text=True,
        check=False,
    )
    made.python.parents[1].joinpath(f"{part}-{kind.name}.log").write_text(done.stdout + done.stderr)
    counts = {word: int(count) for count, word in _COUNT.findall(done.stdout.strip().rpartition("\n")[2])}
    return Outcome(counts.get("passed", 0), counts.get("failed", 0) + counts.get("error", 0), counts.get("skipped", 0))


if __name__ == "__main__":
    sys.exit(main())
