"""Which faults strike, where and for how long: drawn from a seed, written down, and played again in part."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random

from soak.faults import FAULTS, Fault

__all__ = ["Step", "draw", "read_steps", "shrink", "write_steps"]

TOGETHER = 0.25
"""Share of steps in which a second fault strikes another node at the same time."""

MERCILESS = 0.4
"""Share of steps after which nobody waits until all people have recovered."""


@dataclass(frozen=True, slots=True)
class Step:
    """One fault, or two at once.

    Args:
        faults: by their names, each with the number of its node.
        lasts: seconds.
        rest: seconds after it.
        recover: whether everybody must have worked again before the next.
        seed: for what the faults draw.
    """

    faults: tuple[tuple[str, int], ...]
    lasts: float
    rest: float
    recover: bool
    seed: int

    @property
    def name(self) -> str:
        """For reports."""
        return " + ".join(name for name, _ in self.faults)


def draw(seed: int, kinds: Sequence[Fault], nodes: int) -> Iterator[Step]:
    """Steps without an end; the same for the same arguments."""
    chance = Random(seed)
    shares = [kind.share for kind in kinds]
    while True:
        (first,) = chance.choices(kinds, shares)
        faults, number = [first], chance.randrange(nodes)
        if nodes > 1 and not first.alone and chance.random() < TOGETHER:
            faults += [kind for kind in chance.choices(kinds, shares) if not kind.alone]
        lasts = max(chance.uniform(*fault.lasts) for fault in faults)
        yield Step(
            tuple((fault.name, (number + place) % nodes) for place, fault in enumerate(faults)),
            round(lasts, 2),
            round(chance.uniform(0.1, 1.5), 2),
            any(fault.alone for fault in faults) or chance.random() >= MERCILESS,
            chance.getrandbits(32),
        )


def is_alone(step: Step) -> bool:
    """Whether everybody must have recovered before it."""
    return any(FAULTS[name].alone for name, _ in step.faults)


def write_steps(path: Path, steps: Sequence[Step]) -> None:
    """One JSON object a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(asdict(step)) + "\n" for step in steps))


def read_steps(path: Path) -> list[Step]:
    """What was written."""
    rows = map(json.loads, path.read_text().splitlines())
    return [Step(**row | {"faults": tuple((name, node) for name, node in row["faults"])}) for row in rows]


def shrink(steps: list[Step], fails: Callable[[list[Step]], bool], tries: int) -> list[Step]:
    """Leave out halves, quarters and so on of a schedule, for as long as what is left still fails.

    Args:
        steps: that have failed.
        fails: plays some of them.
        tries: how often it may be asked.
    """
    size = len(steps) // 2
    while size and tries > 0:
        start, before = 0, len(steps)
        while start < len(steps) and tries > 0 and len(steps) > 1:
            rest = steps[:start] + steps[start + size :]
            tries -= 1
            if rest and fails(rest):
                steps = rest
            else:
                start += size
        size = size // 2 if len(steps) == before or size >= len(steps) else size
    return steps
