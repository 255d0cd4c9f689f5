"""What `docker compose up` starts, on loopback and without Docker: browsers, metrics, and a node that is killed.

`support/topology.py` says what is translated.
"""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Iterator
from functools import partial

import pytest
from support.browser import BrowserTabs, Tab, move_and_see
from support.fetch import fetch
from support.patience import wait_until
from support.topology import Topology

NODE_DOWN = "ApertureNodeDown"


@pytest.fixture(scope="module")
def topology() -> Iterator[Topology]:
    with Topology(BOKEH_SECRET_KEY="of-this-test-alone", REDIS_PASSWORD="likewise") as topology:
        yield topology


def owners(topology: Topology, tabs: list[Tab]) -> list[str]:
    """The node that has the session of each tab."""
    rows = [(name, row["id"]) for name, node in topology.nodes.items() for row in node.sessions()]
    found = [[name for name, short in rows if tab.session_id().startswith(short)] for tab in tabs]
    assert all(len(names) == 1 for names in found), found
    return [names[0] for names in found]


def is_viewed(topology: Topology, tab: Tab) -> bool:
    """Whether some node has the session of a tab, and the tab is connected to it."""
    rows = [row for node in topology.nodes.values() for row in node.sessions()]
    return any(row["connections"] == 1 for row in rows if tab.session_id().startswith(row["id"]))


def sessions_by_instance(topology: Topology) -> dict[str, float]:
    """What the nodes themselves say."""
    counted = Counter({name: len(node.sessions()) for name, node in topology.nodes.items()})
    return {topology.admin_address(name): float(count) for name, count in counted.items()}


def test_every_example_is_served_through_nginx(topology: Topology) -> None:
    """The folder that compose mounts is what the proxy answers with, on either node."""
    for app in ("sliders", "dashboard", "selection", "notes", "weather", "sliders"):
        assert fetch(f"{topology.url}/{app}").status == 200


def test_prometheus_has_both_nodes(topology: Topology) -> None:
    """Both targets are up, and no rule is broken."""
    instances = {topology.admin_address(name) for name in topology.nodes}
    prometheus = topology.prometheus
    wait_until(lambda: prometheus.targets() == dict.fromkeys(instances, "up"), 30, "a target is not up")
    wait_until(lambda: prometheus.query("aperture_workers_up") == dict.fromkeys(instances, 2.0), 30, "workers missing")
    assert prometheus.query("aperture_bus_up") == dict.fromkeys(instances, 1.0)


def test_pages_work_and_prometheus_counts_them_and_a_killed_node_loses_nothing(
    topology: Topology, tabs: BrowserTabs
) -> None:
    """Sliders move waves on both nodes, the count is right; one node is gone, its pages go on, and the alert fires."""
    prometheus = topology.prometheus
    opened: list[Tab] = []
    while len(opened) < 2 or len(set(owners(topology, opened))) < 2:
        assert len(opened) < 12, "the proxy sends everything to one node"
        # One request more between two pages: with as many files to each page, all pages might be one node's turn.
        fetch(f"{topology.url}/favicon.ico")
        opened.append(tabs(f"{topology.url}/sliders"))
    shown = [move_and_see(tab, 0.8 + 0.01 * number) for number, tab in enumerate(opened)]
    wait_until(
        lambda: prometheus.query("sum by (instance) (aperture_sessions)") == sessions_by_instance(topology),
        60,
        "aperture_sessions is not what the nodes say",
    )
    assert {state for (name, _), state in prometheus.alerts().items() if name == NODE_DOWN} == set()

    name, other = sorted(topology.nodes)
    instance = topology.admin_address(name)
    waves = [tab.column("wave", "y") for tab in opened]
    for tab in opened:
        tab.mark_document()
    dead = topology.nodes.pop(name)
    for pid in dead.processes():
        os.kill(pid, signal.SIGKILL)
    wait_until(
        lambda: prometheus.alerts().get((NODE_DOWN, instance)) == "firing", 60, f"{NODE_DOWN} does not fire for {name}"
    )
    assert (NODE_DOWN, topology.admin_address(other)) not in prometheus.alerts()

    for tab in opened:
        wait_until(partial(is_viewed, topology, tab), 60, "a page did not come back to its session")
    for tab, value, wave in zip(opened, shown, waves, strict=True):
        tab.wait_back()
        assert tab.value("amplitude", "value") == value
        assert tab.column("wave", "y") == wave
        assert move_and_see(tab, 0.2) != value
    assert set(owners(topology, opened)) == {other}
