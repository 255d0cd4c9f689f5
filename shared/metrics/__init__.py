"""Metrics for Prometheus: what is counted, where it is kept, how it is shown.

`families` is the table of all metrics, `tallies` what the paths of patches add to, `storage` the files through which
the processes of a node share their numbers, `exposition` the text.
"""

from __future__ import annotations

from aperture.metrics import families
from aperture.metrics.exposition import MetricsCollector, NodeCollector, SourceCollector, render
from aperture.metrics.families import FAMILIES, Family
from aperture.metrics.storage import MetricsDirectory, ProcessFiles, forget_gauges, worker_name
from aperture.metrics.tallies import AppTally, Distribution, Reading, RelayTally, Source, Tallies, ThreadTally
from aperture.metrics.writer import MetricsWriter

__all__ = [
    "FAMILIES",
    "AppTally",
    "Distribution",
    "Family",
    "MetricsCollector",
    "MetricsDirectory",
    "MetricsWriter",
    "NodeCollector",
    "ProcessFiles",
    "Reading",
    "RelayTally",
    "Source",
    "SourceCollector",
    "Tallies",
    "ThreadTally",
    "families",
    "forget_gauges",
    "render",
    "worker_name",
]
