"""What a look at the cluster comes to: a row for each app and each worker, and one for all of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["AppRow", "Buckets", "Totals", "WorkerRow", "quantile"]

Buckets = dict[float, float]
"""Observations by the upper bound of their bucket, not added up."""


def quantile(buckets: Mapping[float, float], share: float) -> float:
    """The value below which this share of the observations is, estimated as Prometheus does; NaN without any."""
    total = sum(buckets.values())
    if total <= 0:
        return math.nan
    wanted, below, lower = share * total, 0.0, 0.0
    for bound in sorted(buckets):
        count = buckets[bound]
        if below + count >= wanted:
            return (
                lower if math.isinf(bound) else lower + (bound - lower) * (wanted - below) / count if count else bound
            )
        below += count
        lower = bound if not math.isinf(bound) else lower
    return lower


@dataclass(frozen=True, slots=True)
class AppRow:
    """An app, over all workers of all nodes. Rates per second, durations in seconds, totals since the nodes started."""

    app: str
    sessions: int
    connections: int
    patches_in: int
    patches_out: int
    rate_in: float
    rate_out: float
    bytes_out_rate: float
    callback_p95: float
    create_p95: float
    restores: int
    restores_fresh: int
    slow_closes: int
    own: bool
    """Whether it is the dashboard itself."""


@dataclass(frozen=True, slots=True)
class WorkerRow:
    """A worker of a node."""

    node: str
    worker: int
    state: str
    """`up`, `new` in the first minute after it replaced another, `silent`, or `down`."""
    sessions: int
    connections: int
    rate_out: float
    lag: float
    memory: float
    up_for: float
    silent_for: float


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over all apps but the dashboard itself."""

    nodes: int
    silent_nodes: int
    workers: int
    silent_workers: int
    sessions: int
    connections: int
    rate_in: float
    rate_out: float
    callback_p50: float
    callback_p95: float
    create_p95: float
    encode_p95: float
    lag: float
    relay_p95: float
    relay_rate: float
    memory: float
    restores: int
    restores_fresh: int
    restarts: int
    gaps_lost: int
    slow_closes: int
    behind: int
    """Viewers that get present values instead of patches, as their lines are slow."""
    bus: bool | None
    """Whether all workers are connected to Redis; None without one."""
