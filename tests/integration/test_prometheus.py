"""Every query that is shipped, against the metrics of two running nodes, by a real Prometheus.

The dashboard's panels, the recording rules, and the autoscaler's metric as prometheus-adapter asks for it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

import pytest
import yaml
from support.cluster import Cluster, session_of, steady_viewer
from support.patience import run, wait_until
from support.prometheus import CONFIGURATION, Prometheus
from support.wire import page_token

DEPLOY = Path(__file__).parents[2] / "deploy"
APP = "/relayed"
WINDOW = "5m"
"""In the place of $__rate_interval, for which Grafana takes a few scrapes: longer than these tests take."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Two nodes, whose sessions stay when their viewers have left."""
    with Cluster("relayed.py", options=["--unused-session-lifetime", "600000"]) as cluster:
        yield cluster


def namespace_and_pod(cluster: Cluster) -> list[dict[str, object]]:
    """The nodes as Prometheus' operator finds them in Kubernetes, where each is a pod."""
    return [
        {
            "targets": [node.admin_url.removeprefix("http://")],
            "labels": {"namespace": "apps", "pod": f"aperture-{number}"},
        }
        for number, node in enumerate(cluster.nodes)
    ]


@pytest.fixture(scope="module")
def prometheus(cluster: Cluster) -> Iterator[Prometheus]:
    scraped = {"job_name": "aperture", "static_configs": namespace_and_pod(cluster)}
    configuration = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": ["rules.yml"],
        "scrape_configs": [scraped],
    }
    files = {
        CONFIGURATION: json.dumps(configuration),
        "/etc/prometheus/rules.yml": (DEPLOY / "prometheus" / "rules.yml").read_text(),
    }
    with Prometheus(files) as prometheus:
        tokens = [page_token(cluster.nodes[number % 2].app_url(APP)) for number in range(4)]
        run(move_sliders(cluster, tokens, range(1, 6)))
        # A counter that is first seen as it is has not increased: what counts is what comes after that.
        seen = "sum(aperture_relay_messages_total) > 0 and sum(aperture_sessions) == 4"
        wait_until(lambda: prometheus.rows(seen), 30, "the sessions are not counted")
        run(move_sliders(cluster, tokens, range(6, 11)))
        counted = f"sum(increase(aperture_relay_messages_total[{WINDOW}])) > 0"
        wait_until(lambda: prometheus.rows(counted), 30, "the patches are not counted")
        yield prometheus


async def move_sliders(cluster: Cluster, tokens: Sequence[str], values: Iterable[int]) -> None:
    """Move the slider of each session, seen from both nodes, so that patches cross Redis."""
    for token in tokens:
        async with (
            steady_viewer(cluster.nodes[0].ws_url(APP), token) as one,
            steady_viewer(cluster.nodes[1].ws_url(APP), token) as other,
        ):
            for value in values:
                assert (await one.set("slider", "value", value)).msgtype == "OK"
                await other.wait_for_value("seen", "text", str(value))
        cluster.owner(session_of(token))  # there is one


def panels() -> Iterator[tuple[str, str]]:
    """The title and the query of each target of the dashboard."""

    def walk(found: list[dict]) -> Iterator[tuple[str, str]]:  # type: ignore[type-arg]
        for panel in found:
            yield from ((panel["title"], target["expr"]) for target in panel.get("targets", ()))
            yield from walk(panel.get("panels", []))

    return walk(json.loads((DEPLOY / "grafana" / "aperture.json").read_text())["panels"])


def filled_in(query: str) -> str:
    """The query as Grafana asks it, with all nodes and all apps chosen."""
    for name, value in (("$node", ".*"), ("$app", ".*"), ("$__rate_interval", WINDOW)):
        query = query.replace(name, value)
    assert "$" not in query, query
    return query


def test_there_are_panels() -> None:
    """The test below would hold of none."""
    assert len(list(panels())) > 20


def test_every_panel_has_values(prometheus: Prometheus) -> None:
    """Of running nodes, with sessions and viewers on both."""
    assert [title for title, query in panels() if not prometheus.rows(filled_in(query))] == []


def test_variables_have_values(prometheus: Prometheus) -> None:
    """The two lists to choose from: nodes and apps."""
    for variable in json.loads((DEPLOY / "grafana" / "aperture.json").read_text())["templating"]["list"]:
        asked = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["definition"])
        assert asked is not None
        values = {labels[asked[2]] for labels, _ in prometheus.rows(asked[1])}
        assert len(values) == {"node": 2, "app": 1}[variable["name"]]


def test_rules_record(prometheus: Prometheus) -> None:
    """Each recording rule has made a series."""
    groups = yaml.safe_load((DEPLOY / "prometheus" / "rules.yml").read_text())["groups"]
    recorded = [rule["record"] for group in groups for rule in group["rules"] if "record" in rule]
    assert recorded
    for name in recorded:
        wait_until(partial(prometheus.rows, name), 30, f"{name} records nothing")


def test_the_autoscalers_metric_is_what_the_adapter_is_told(cluster: Cluster, prometheus: Prometheus) -> None:
    """The adapter finds the series by its query, fills its template in for the pods, and each has its own value."""
    (rule,) = yaml.safe_load((DEPLOY / "kubernetes" / "components" / "autoscaling" / "adapter.yaml").read_text())
    pods = {"aperture-0", "aperture-1"}
    series = [labels for labels, _ in prometheus.rows(rule["seriesQuery"])]
    assert {labels["pod"] for labels in series} == pods
    assert {labels["namespace"] for labels in series} == {"apps"}
    query = rule["metricsQuery"]
    query = query.replace("<<.LabelMatchers>>", 'namespace="apps",pod=~"aperture-0|aperture-1"')
    query = query.replace("<<.GroupBy>>", "pod")
    assert "<<" not in query
    found = {labels["pod"]: value for labels, value in prometheus.rows(query)}
    assert found == {f"aperture-{number}": len(node.sessions()) / 2 for number, node in enumerate(cluster.nodes)}
