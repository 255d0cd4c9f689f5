"""The counters of a node's processes at one moment, as the dashboards of other nodes show them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from msgspec import Meta

from aperture.metrics import families
from aperture.wire.records import MAX_NUMBER, Name, Record

__all__ = ["Key", "NodeFigures", "ProcessFigures"]

MAX_PROCESSES = 1100
MAX_VALUES = 100_000
"""Of one process: forty for each of its apps."""

Key = tuple[Name, Annotated[tuple[Name, ...], Meta(max_length=4)]]
"""A sample's name as in `/metrics`, and its labels' values in the order of the family; of a bucket, its bound last."""

Value = Annotated[float, Meta(ge=-MAX_NUMBER, le=MAX_NUMBER)]


class ProcessFigures(Record, frozen=True):
    """One process.

    Args:
        name: `worker-0`, `gateway`, `supervisor`.
        at: seconds since the epoch, by its own machine's clock, when it last wrote.
        values: counters, buckets and sums since the node's start, and gauges, which a dead process does not have.
    """

    name: Name
    at: Value
    values: Annotated[Mapping[Key, Value], Meta(max_length=MAX_VALUES)]

    @property
    def worker(self) -> int | None:
        """The worker's index in its node; None for another process."""
        kind, _, index = self.name.partition("-")
        return int(index) if kind == "worker" and index.isdecimal() and len(index) < 6 else None

    @property
    def alive(self) -> bool:
        """Whether the process ran when its files were read."""
        return any(name == families.LOOP_LAG.name for name, _ in self.values)

    def abridged(self) -> ProcessFigures:
        """Without the counters of 0, which say nothing."""
        # These two are sent at 0, too: the first marks a living process, the second a lost Redis.
        always = (families.LOOP_LAG.name, families.BUS_UP.name)
        values = {key: value for key, value in self.values.items() if value or key[0] in always}
        return ProcessFigures(self.name, self.at, values)


class NodeFigures(Record, frozen=True):
    """All processes of one node.

    Args:
        node: its name.
        processes: those that have counters.
    """

    node: Name
    processes: Annotated[tuple[ProcessFigures, ...], Meta(max_length=MAX_PROCESSES)]

    def abridged(self) -> NodeFigures:
        """As it is sent to other nodes."""
        return NodeFigures(self.node, tuple(process.abridged() for process in self.processes))
