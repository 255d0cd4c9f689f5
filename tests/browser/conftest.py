"""Fixtures of the browser tests: Chromium, and the nodes whose pages it loads."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from support.browser import chromium, tabs, trusting_tabs
from support.node import EXAMPLES, Node, StockNode

__all__ = ["chromium", "example_node", "flask_port", "tabs", "trusting_tabs"]

EXAMPLE_APPS = [
    EXAMPLES / "apps" / name for name in ("sliders.py", "dashboard.py", "selection.py", "notes.py", "weather")
]


@pytest.fixture(scope="module")
def flask_port() -> int:
    """A port for the Flask example, which the node must know before it starts."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(scope="module", params=["stock", "aperture"])
def example_node(request: pytest.FixtureRequest, flask_port: int) -> Iterator[StockNode]:
    """All examples on one node: stock Bokeh's, then ours on four workers."""
    origin = ["--allow-websocket-origin", f"localhost:{flask_port}"]
    if request.param == "stock":
        node = StockNode(*EXAMPLE_APPS, options=origin)
    else:
        node = Node(*EXAMPLE_APPS, options=["--num-procs", "4", *origin])
    with node:
        yield node
