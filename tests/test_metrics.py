"""Metrics without processes: what is counted, how it is shown, and what is written of it."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from prometheus_client import REGISTRY
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse
from support.exposition import samples

from aperture.metrics import (
    FAMILIES,
    NodeCollector,
    ProcessFiles,
    SourceCollector,
    Tallies,
    render,
)

ROOT = Path(__file__).parents[1]
OPENMETRICS = "application/openmetrics-text; version=1.0.0"


def shown(path: Path) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return samples(render(NodeCollector(path))[0].decode())


def test_one_process_is_shown_like_a_node(tmp_path: Path) -> None:
    """A server inside a program has the same metrics as a node with the same counts."""
    tallies = Tallies(["/a"])
    tallies.apps["/a"].callback.observe(0.02)
    tallies.apps["/a"].patches_in = 3
    ProcessFiles(tmp_path, "worker-0").write(tallies.read())
    assert samples(render(SourceCollector(tallies.read))[0].decode()) == shown(tmp_path)


@pytest.mark.parametrize("accept", ["", "*/*", "text/plain;version=0.0.4", OPENMETRICS, "\x00;;,,=", "q" * 10_000])
def test_every_accept_header_is_answered(accept: str) -> None:
    """With OpenMetrics if it says so, with Prometheus's own format if it says anything else."""
    body, content_type = render(SourceCollector(Tallies(["/a"]).read), accept)
    assert ("openmetrics" in content_type) == (accept == OPENMETRICS)
    families_shown = list((parse_openmetrics if accept == OPENMETRICS else parse)(body.decode()))
    assert "aperture_patches" in {family.name.removesuffix("_total") for family in families_shown}


def test_the_programs_own_registry_is_left_alone() -> None:
    """An app, or the program around a server, may use prometheus_client as it likes."""
    render(SourceCollector(Tallies(["/a"]).read))
    assert not [name for name in REGISTRY._names_to_collectors if name.startswith("aperture")]
    assert "PROMETHEUS_MULTIPROC_DIR" not in os.environ


def test_strangers_make_no_new_time_series() -> None:
    """Paths and statuses that are not served are counted together."""
    tallies = Tallies(["/a"])
    before = len(list(tallies.read()))
    for number in range(1000):
        tallies.answered(f"/{number}", number, 0.1)
    assert len(list(tallies.read())) == before


def test_every_metric_is_documented() -> None:
    """`docs/metrics.md` has a row for each, with its labels, and none for what is not there."""
    text = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"(?m)^\| `(aperture_\w+)` \| ([^|]*) \|", text))
    assert rows == {name: ", ".join(f"`{label}`" for label in family.labels) for name, family in FAMILIES.items()}


def test_rules_use_metrics_that_exist() -> None:
    """An alert about a metric that was renamed never fires."""
    text = (ROOT / "deploy" / "prometheus" / "rules.yml").read_text(encoding="utf-8")
    named = {re.sub(r"_(bucket|sum|count)$", "", name) for name in re.findall(r"(?<![\w:])aperture_\w+", text)}
    assert named
    assert named <= FAMILIES.keys()
