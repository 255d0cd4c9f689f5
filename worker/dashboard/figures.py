"""Which metrics the dashboard shows, and their keys and values as the figures of a node hold them.

The keys are the names and labels of `/metrics`, so that the dashboard shows the same numbers. Metrics that the
dashboard does not show are left out.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from functools import lru_cache

from prometheus_client.utils import floatToGoString

from aperture.metrics import Distribution, Family, Reading, families
from aperture.wire.node_figures import Key

__all__ = ["SHOWN", "key_of", "parse_key", "values_of"]

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
        families.VIEWERS_BEHIND,
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
