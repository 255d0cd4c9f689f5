"""`docker compose up` of a clone: examples in Chromium, nodes added while it runs, and a node that is killed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.base_images import compose_plugin
from support.browser import BrowserTabs, Tab, move_and_see
from support.compose import services, variables
from support.compose_stack import Stack
from support.engine import docker
from support.fetch import fetch
from support.patience import wait_until


@pytest.fixture(scope="module")
def stack(clone: Path, image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    config = tmp_path_factory.mktemp("docker") / "config"
    compose_plugin(config)
    with Stack(clone, config, IMAGE=image) as stack:
        yield stack


def owner(stack: Stack, tab: Tab) -> str:
    """The node that has the session of a tab while a browser looks at it, or an empty string."""
    running = docker("ps", "--format", "{{.Names}}").stdout.split()
    for container in set(stack.containers("node")) & set(running):
        for row in stack.sessions(container):
            if tab.session_id().startswith(row["id"]) and row["connections"] == 1:
                return container
    return ""


def test_compose_takes_the_file_as_it_is(stack: Stack, clone: Path) -> None:
    """Without the override that leaves Grafana out, and with every variable set."""
    files = ["--file", str(clone / "docker-compose.yml")]
    every = dict.fromkeys(variables(), "9999") | {"APPS": "./docs", "REDIS_PASSWORD": "a$$b"}
    for given in ({}, every):
        said = docker("compose", *files, "config", "--format", "json", env=stack.config | given).stdout
        assert set(json.loads(said)["services"]) == services().keys()


def test_an_example_answers_through_nginx(stack: Stack, tabs: BrowserTabs) -> None:
    """Every example has a page, and in the browser a wave follows its slider."""
    for app in ("sliders", "dashboard", "selection", "notes", "weather"):
        assert fetch(f"{stack.url}/{app}").status == 200
    tab = tabs(f"{stack.url}/sliders")
    assert move_and_see(tab, 0.9) != move_and_see(tab, 0.2)


def test_nodes_are_added_and_nginx_and_prometheus_find_them(stack: Stack) -> None:
    """One command; nginx goes on as it is, and the new node gets its turn."""
    nginx = docker("inspect", "--format", "{{.State.StartedAt}}", *stack.containers("nginx")).stdout
    stack.up("--no-recreate", "--scale", "node=3")
    *_, added = stack.containers("node")
    assert added.endswith("node-3")

    def has_its_turn() -> bool:
        assert fetch(f"{stack.url}/sliders").status == 200
        return bool(stack.sessions(added))

    wait_until(has_its_turn, 60, "nginx never asks the node that was added")
    assert docker("inspect", "--format", "{{.State.StartedAt}}", *stack.containers("nginx")).stdout == nginx

    def healthy() -> list[str]:
        targets = fetch(f"{stack.prometheus}/api/v1/targets").json()["data"]["activeTargets"]
        return [target["labels"]["instance"] for target in targets if target["health"] == "up"]

    wait_until(lambda: len(set(healthy())) == 3, 60, "Prometheus does not scrape three nodes")


def test_a_killed_node_takes_no_session_with_it(stack: Stack, tabs: BrowserTabs) -> None:
    """The container of a session's owner dies; the page goes on at another node with what it showed, and answers."""
    tab = tabs(f"{stack.url}/sliders")
    shown = move_and_see(tab, 0.9)
    wave = tab.column("wave", "y")
    first = wait_until(lambda: owner(stack, tab), 30, "no node has the session")
    tab.mark_document()
    docker("kill", "--signal", "KILL", first)
    second = wait_until(lambda: owner(stack, tab), 60, "the page does not come back to its session")
    assert second != first
    tab.wait_back()
    assert tab.value("amplitude", "value") == shown
    assert tab.column("wave", "y") == wave
    assert move_and_see(tab, 0.2) != shown
