"""A soak of half a minute with every test run; `make soak` is the long one."""

from __future__ import annotations

from pathlib import Path

from soak.plan import Plan
from soak.run import soak
from soak.schedule import Step

STEPS = [
    Step((("kill a worker", 0),), 0.1, 0.2, recover=True, seed=1),
    Step((("cut from Redis", 1),), 4.0, 0.2, recover=True, seed=2),  # longer than a lease: sessions change hands
    Step((("freeze a worker", 0), ("move sessions", 1)), 1.0, 0.2, recover=True, seed=3),
]


def test_people_at_work_while_nodes_fail(tmp_path: Path) -> None:
    """What is promised holds on two nodes, of which a worker dies, one is cut off, and another stands still."""
    plan = Plan(seed=17, workers=1, sessions=3, seats=2, callers=0, counters=False, keep=tmp_path)
    outcome = soak(plan, STEPS)
    assert [str(violation) for violation in outcome.history.violations] == []
    # A node that is busy may not tell which worker there is to strike.
    census = outcome.census
    assert sum(census.faults.values()) + sum(census.skipped.values()) == 4
    assert census.faults.total() > 0
    assert census.answered > 0
    assert census.seen > 0
    assert census.read_along > 0
