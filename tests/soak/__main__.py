"""Lets people work on several nodes while these fail in every way that is known: `make soak MINUTES=10 SEED=7`.

A run that finds something prints what and the seed, keeps the histories in a folder, and plays ever fewer of the
faults again until hardly one can be left out.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from dataclasses import replace
from pathlib import Path

from soak.faults import FAULTS
from soak.mistakes import MISTAKES
from soak.namespaces import namespaces_work
from soak.plan import Plan
from soak.report import as_json, keep, table
from soak.run import Outcome, soak
from soak.schedule import Step, read_steps, shrink, write_steps
from support.signals import heed_signals


def main() -> int:
    """The exit status: 1 if a rule was broken."""
    heed_signals()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: no node outlives it
    arguments = _parser().parse_args()
    plan = _plan(arguments)
    steps = read_steps(arguments.steps) if arguments.steps else None
    outcome = soak(plan, steps)
    print(table(outcome), flush=True)
    if arguments.json:
        _add(arguments.json, outcome)
    if not outcome.has_failed():
        return 0
    folder = plan.keep / f"seed-{plan.seed}"
    keep(outcome, folder)
    print(f"Seed {plan.seed} has found something; the histories are in {folder}.", flush=True)
    _shrink(outcome, folder, arguments.shrink)
    print(f"Again, with these faults only: python -m soak --seed {plan.seed} --steps {folder}/steps.jsonl")
    return 1


def _add(path: Path, outcome: Outcome) -> None:
    """Put a run behind those that a file has already."""
    runs = json.loads(path.read_text())["runs"] if path.exists() else []
    path.write_text(json.dumps({"runs": [*runs, as_json(outcome)]}, indent=2) + "\n")


def _shrink(outcome: Outcome, folder: Path, tries: int) -> None:
    """Find fewer faults that break the same rule."""
    broken = {violation.check for violation in outcome.history.violations}

    def fails(steps: list[Step]) -> bool:
        again = soak(outcome.plan, steps)
        found = bool(broken & {violation.check for violation in again.history.violations})
        print(f"  {len(steps)} of {len(outcome.played)} steps: {'found again' if found else 'nothing'}", flush=True)
        return found

    fewer = shrink(outcome.played, fails, tries)
    write_steps(folder / "steps.jsonl", fewer)
    for step in fewer if len(fewer) < 10 else ():
        print(f"  {step}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="soak", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    plan = Plan()
    parser.add_argument("--minutes", type=float, default=plan.minutes, help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=plan.seed, help="draws all that is drawn (default: %(default)s)")
    parser.add_argument("--nodes", type=int, default=plan.nodes, help="over one Redis (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=plan.workers, help="of each node (default: %(default)s)")
    parser.add_argument("--sessions", type=int, default=plan.sessions, help="at any time (default: %(default)s)")
    parser.add_argument("--seats", type=int, default=plan.seats, choices=(1, 2, 3), help="people in each session")
    parser.add_argument("--durability", default=plan.durability, choices=("async", "ack"))
    parser.add_argument("--pause", type=float, default=plan.pause, help="seconds between operations, at most")
    parser.add_argument("--fault", action="append", choices=tuple(FAULTS), help="only this kind; may be repeated")
    parser.add_argument(
        "--mistake", default="", choices=MISTAKES, help="have the nodes make it, to see that it is found"
    )
    parser.add_argument("--ports", action="store_true", help="no network namespaces, even where they work")
    parser.add_argument("--steps", type=Path, help="a file of steps to play, as a failed run leaves it")
    parser.add_argument("--shrink", type=int, default=8, help="runs to spend on finding fewer faults that fail, too")
    parser.add_argument("--keep", type=Path, default=plan.keep, help="folder for what a failed run leaves")
    parser.add_argument("--json", type=Path, help="a file of runs, to add this one's figures to")
    return parser


def _plan(arguments: argparse.Namespace) -> Plan:
    names = ("minutes", "seed", "nodes", "workers", "sessions", "seats", "durability", "pause", "mistake", "keep")
    plan = Plan(**{name: getattr(arguments, name) for name in names})
    namespaces = not arguments.ports and namespaces_work()
    return replace(plan, faults=tuple(arguments.fault or ()), namespaces=namespaces)


if __name__ == "__main__":
    sys.exit(main())
