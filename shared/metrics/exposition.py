"""From numbers to what Prometheus reads: of a whole node, out of its files, or of one process, out of its memory.

Nothing is registered with prometheus_client's own registry, which belongs to the apps and to the program that a server
may be part of. A program that wants these metrics among its own registers a `SourceCollector` where it likes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector

from aperture.metrics.families import Family, Kind
from aperture.metrics.tallies import Distribution, Reading, Source, bound_text

__all__ = ["MetricsCollector", "NodeCollector", "SourceCollector", "render"]


class MetricsCollector(Protocol):
    """What prometheus_client calls a collector."""

    def collect(self) -> Iterable[Metric]: ...


class NodeCollector:
    """All processes of a node, from their files.

    Args:
        path: of the node's directory.

    Raises:
        ValueError: it is gone.
    """

    def __init__(self, path: Path | str) -> None:
        self._files = MultiProcessCollector(None, path=str(path))  # type: ignore[no-untyped-call]

    def collect(self) -> Iterable[Metric]:
        """In the order of their names."""
        collected: Iterable[Metric] = self._files.collect()  # type: ignore[no-untyped-call]
        return sorted(collected, key=lambda metric: str(metric.name))


class SourceCollector:
    """One process, read when it is asked for.

    Args:
        sources: of its numbers.
    """

    def __init__(self, *sources: Source) -> None:
        self._sources = sources

    def collect(self) -> Iterator[Metric]:
        """In the order of their names."""
        by_family: dict[Family, list[Reading]] = {}
        for source in self._sources:
            for reading in source():
                by_family.setdefault(reading.family, []).append(reading)
        for family in sorted(by_family, key=lambda family: family.name):
            yield _metric(family, by_family[family])


def render(collector: MetricsCollector, accept: str = "") -> tuple[bytes, str]:
    """The exposition as text.

    Args:
        collector: what to show.
        accept: of the request; OpenMetrics if it says so, else Prometheus's own text format.

    Returns:
        The body and its content type.
    """
    encode, content_type = choose_encoder(accept)
    return encode(collector), content_type


def _metric(family: Family, readings: Iterable[Reading]) -> Metric:
    match family.kind:
        case Kind.HISTOGRAM:
            histogram = HistogramMetricFamily(family.name, family.help, labels=family.labels)
            for reading in readings:
                assert isinstance(reading.value, Distribution), "a histogram's readings are distributions"
                histogram.add_metric(reading.labels, _cumulated(reading.value), reading.value.total)
            return histogram
        case Kind.COUNTER:
            made: Metric = _filled(CounterMetricFamily(family.metric_name, family.help, labels=family.labels), readings)
            return made
        case Kind.GAUGE:
            return _filled(GaugeMetricFamily(family.name, family.help, labels=family.labels), readings)


def _filled(metric: CounterMetricFamily | GaugeMetricFamily, readings: Iterable[Reading]) -> Metric:
    for reading in readings:
        assert not isinstance(reading.value, Distribution), "only a histogram's readings are distributions"
        metric.add_metric(reading.labels, reading.value)
    return metric


def _cumulated(distribution: Distribution) -> list[tuple[str, float]]:
    buckets, sum_so_far = [], 0
    for bound, count in zip((*distribution.bounds, float("inf")), distribution.counts, strict=True):
        sum_so_far += count
        buckets.append((bound_text(bound), float(sum_so_far)))
    return buckets
