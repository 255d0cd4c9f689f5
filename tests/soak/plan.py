"""What one run of the soak is asked for."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

__all__ = ["Plan"]


@dataclass(frozen=True, slots=True)
class Plan:
    """All that decides what a run does, except the time that things take.

    Args:
        seed: draws the faults and what people do.
        minutes: from the first operation to the last check.
        nodes: over one Redis.
        workers: of each node.
        sessions: at any time.
        seats: people in each session.
        durability: `async` or `ack`.
        faults: the kinds to draw from; none for all that this machine allows.
        pause: seconds that people wait between two operations, at most.
        namespaces: whether nodes get network namespaces of their own, which needs root.
        callers: sessions that are also visited by `bokeh.client`.
        counters: whether `/metrics` is compared, too, which takes ten seconds each time.
        mistake: one of `soak.mistakes`, that the nodes make.
        keep: the folder for what a failed run leaves.
    """

    seed: int = 1
    minutes: float = 5.0
    nodes: int = 2
    workers: int = 2
    sessions: int = 8
    seats: int = 3
    durability: str = "ack"
    faults: tuple[str, ...] = ()
    pause: float = 0.02
    namespaces: bool = False
    callers: int = 1
    counters: bool = True
    mistake: str = ""
    keep: Path = Path("build/soak")

    def as_json(self) -> dict[str, Any]:
        """For a report."""
        return asdict(self) | {"keep": str(self.keep)}
