"""Schedules: drawn the same again, written down, and made shorter."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from soak.faults import FAULTS
from soak.schedule import Step, draw, read_steps, shrink, write_steps

KINDS = list(FAULTS.values())


def drawn(seed: int, count: int) -> list[Step]:
    return list(islice(draw(seed, KINDS, 3), count))


def test_a_seed_draws_the_same_faults_again() -> None:
    """Or the one that is printed would be of no use."""
    assert drawn(7, 200) == drawn(7, 200) != drawn(8, 200)


def test_all_kinds_are_drawn_and_some_alone() -> None:
    """Two at once strike different nodes, and nothing strikes beside what must stand alone."""
    steps = drawn(1, 1000)
    assert {name for step in steps for name, _ in step.faults} == FAULTS.keys()
    together = [step for step in steps if len(step.faults) == 2]
    assert together
    for step in together:
        assert len({node for _, node in step.faults}) == 2
        assert not any(FAULTS[name].alone for name, _ in step.faults)


def test_steps_are_read_as_they_were_written(tmp_path: Path) -> None:
    """All of each."""
    steps = drawn(3, 50)
    write_steps(tmp_path / "steps.jsonl", steps)
    assert read_steps(tmp_path / "steps.jsonl") == steps


def test_a_schedule_shrinks_to_what_fails() -> None:
    """Two steps far apart, that fail only together."""
    steps = drawn(5, 40)
    needed = {steps[3], steps[31]}
    fewer = shrink(steps, lambda some: needed <= set(some), 200)
    assert set(fewer) == needed


def test_shrinking_ends_where_it_is_told_to() -> None:
    """Each try is a run of minutes."""
    tried: list[int] = []

    def never(some: list[Step]) -> bool:
        tried.append(len(some))
        return False

    steps = drawn(5, 40)
    assert shrink(steps, never, 3) == steps
    assert len(tried) == 3
