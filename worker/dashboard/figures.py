"""The counters of a node's processes at one moment: as values, and packed for another node.

The keys are the names and labels of `/metrics`, so that the dashboard shows the same numbers. Metrics that the
dashboard does not show are left out. Figures of other nodes come over Redis, which is not trusted, so every field is
checked.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import msgpack
from prometheus_client.utils import floatToGoString

from aperture.metrics import Distribution, Family, Reading, families

__all__ = ["SHOWN", "Key", "NodeFigures", "ProcessFigures", "key_of", "pack", "parse_key", "unpack", "values_of"]

Key = tuple[str, tuple[str, ...]]
"""A sample's name as in `/metrics`, and its labels' values in the order of the family; of a bucket, its bound last."""

SHOWN = {
    family.metric_name: family
    for family in (
        families.SESSIONS,
        families.CONNECTIONS,
        families.PATCHES,
        families.PATCH_BYTES,
        families.PATCH_ENCODE,
        families.SESSION_CREATE,
        families.CALLBACK,
        families.SLOW_CLOSES,
        families.RELAY_MESSAGES,
        families.RELAY_LAG,
        families.RELAY_GAPS,
        families.RESTORES,
        families.WORKER_RESTARTS,
        families.LOOP_LAG,
        families.BUS_UP,
        families.MEMORY,
        families.STARTED,
        families.GENERATION,
    )
}
"""The metrics that the dashboard shows, by their names without a counter's ending."""

MAX_TEXT = 300
"""Characters of a name that comes from another node; an app's route is the longest."""

MAX_PROCESSES = 1100
MAX_VALUES = 100_000
"""Of one process: forty for each of its apps."""


@dataclass(frozen=True, slots=True)
class ProcessFigures:
    """One process.

    Args:
        name: `worker-0`, `gateway`, `supervisor`.
        at: seconds since the epoch, by its own machine's clock, when it last wrote.
        values: counters, buckets and sums since the node's start, and gauges, which a dead process does not have.
    """

    name: str
    at: float
    values: Mapping[Key, float]

    @property
    def worker(self) -> int | None:
        """The worker's index in its node; None for another process."""
        kind, _, index = self.name.partition("-")
        return int(index) if kind == "worker" and index.isdecimal() and len(index) < 6 else None

    @property
    def alive(self) -> bool:
        """Whether the process ran when its files were read."""
        return any(name == families.LOOP_LAG.name for name, _ in self.values)


@dataclass(frozen=True, slots=True)
class NodeFigures:
    """All processes of one node.

    Args:
        node: its name.
        processes: those that have counters.
    """

    node: str
    processes: tuple[ProcessFigures, ...]


def key_of(family: Family, *labels: str) -> Key:
    """The key of a counter or gauge."""
    return family.name, labels


@lru_cache(maxsize=20_000)
def parse_key(text: str) -> Key | None:
    """Parse a key of prometheus_client's files, which is JSON; None for a metric that the dashboard does not show."""
    try:
        metric, name, labels, _ = json.loads(text)
        family = SHOWN.get(metric)
        if family is None:
            return None
        names = (*family.labels, "le") if "le" in labels else family.labels
        return str(name), tuple(str(labels[label]) for label in names)
    except (ValueError, TypeError, KeyError):
        return None


def values_of(readings: Iterable[Reading]) -> dict[Key, float]:
    """The values of a process that writes no files."""
    values: dict[Key, float] = {}
    for reading in readings:
        if reading.family.metric_name in SHOWN:
            values.update(_samples(reading))
    return values


def pack(figures: NodeFigures) -> bytes:
    """Encode figures for another node; counters of 0 are left out."""
    processes = [
        [process.name, process.at, [[name, labels, value] for (name, labels), value in _packed(process.values)]]
        for process in figures.processes
    ]
    packed: bytes = msgpack.packb([figures.node, processes], use_bin_type=True)
    return packed


def unpack(payload: bytes) -> NodeFigures:
    """Decode what `pack` has made.

    Raises:
        ValueError: the bytes are not figures. The text quotes none of them.
    """
    try:
        unpacked = msgpack.unpackb(payload, use_list=False, raw=False)
        node, processes = unpacked
    except Exception:  # hostile input provokes more exceptions in the decoder than its documentation lists
        raise ValueError("not the figures of a node") from None
    if not _is_text(node) or type(processes) is not tuple or len(processes) > MAX_PROCESSES:
        raise ValueError("not the figures of a node")
    return NodeFigures(node, tuple(_process(process) for process in processes))


def _packed(values: Mapping[Key, float]) -> Iterator[tuple[Key, float]]:
    for key, value in values.items():
        # These two are sent at 0, too: the first marks a living process, the second a lost Redis.
        if value or key[0] in (families.LOOP_LAG.name, families.BUS_UP.name):
            yield key, value


def _samples(reading: Reading) -> Iterator[tuple[Key, float]]:
    family, value = reading.family, reading.value
    if not isinstance(value, Distribution):
        yield (family.name, reading.labels), float(value)
        return
    yield (f"{family.name}_sum", reading.labels), value.total
    for bound, count in zip((*value.bounds, math.inf), value.counts, strict=True):
        yield (f"{family.name}_bucket", (*reading.labels, _text_of(bound))), float(count)


def _text_of(bound: float) -> str:
    return str(floatToGoString(bound))  # type: ignore[no-untyped-call]


def _process(packed: Any) -> ProcessFigures:
    if type(packed) is not tuple or len(packed) != 3:
        raise ValueError("not the figures of a process")
    name, at, rows = packed
    if not _is_text(name) or not _is_number(at) or type(rows) is not tuple or len(rows) > MAX_VALUES:
        raise ValueError("not the figures of a process")
    return ProcessFigures(name, float(at), dict(map(_row, rows)))


def _row(row: Any) -> tuple[Key, float]:
    if type(row) is not tuple or len(row) != 3:
        raise ValueError("not a value")
    name, labels, value = row
    if not _is_text(name) or type(labels) is not tuple or len(labels) > 4 or not all(map(_is_text, labels)):
        raise ValueError("not a value's name")
    if not _is_number(value):
        raise ValueError("not a value")
    return (name, labels), float(value)


def _is_text(value: Any) -> bool:
    return type(value) is str and len(value) <= MAX_TEXT


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and abs(value) < 2**63
