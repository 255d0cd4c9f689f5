"""Traces: what a collector gets of a request, a session, a callback and a hop to another worker."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.collector import Collector, attributes_of
from support.fetch import fetch
from support.node import Node
from support.patience import wait_until
from support.wire import Viewer, page_token, token_of

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE_ID}-{PARENT}-01"

SPREAD = ["--num-procs", "2", "--spread-viewers", "1"]


def traced(endpoint: str) -> dict[str, str | None]:
    """The environment of a node that sends its spans at once."""
    return {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_BSP_SCHEDULE_DELAY": "100"}


def linked(span: Any) -> list[bytes]:
    """The spans that one links to."""
    return [link.span_id for link in span.links]


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with Collector() as running:
        yield running


@pytest.fixture(scope="module")
def node(collector: Collector) -> Iterator[Node]:
    with Node("talking.py", options=SPREAD, env=traced(collector.url)) as running:
        yield running


def test_a_page_continues_the_trace_of_its_request(node: Node, collector: Collector) -> None:
    """What a proxy has begun goes on: the request is its child, and the making of the session the request's."""
    answer = fetch(node.app_url("/talking?secret=1"), headers={"traceparent": TRACEPARENT})
    assert answer.status == 200
    request = collector.wait_for("GET request", lambda span: span.trace_id.hex() == TRACE_ID)
    assert request.parent_span_id.hex() == PARENT
    known = attributes_of(request)
    assert (known["url.path"], known["http.response.status_code"]) == ("/talking", 200)
    created = collector.wait_for("session create", lambda span: span.trace_id.hex() == TRACE_ID)
    assert created.parent_span_id == request.span_id
    assert attributes_of(created)["aperture.app"] == "/talking"
    assert collector.services == {"aperture"}


def test_garbage_for_a_trace_begins_a_new_one(node: Node, collector: Collector) -> None:
    """A request with a wrong header gets its page all the same."""
    answer = fetch(
        node.app_url("/favicon.ico"), headers={"traceparent": "00-zz-" + "f" * 5000, "X-Request-ID": "garbled"}
    )
    assert answer.status == 200
    request = collector.wait_for("GET request", lambda s: attributes_of(s)["aperture.request"] == "garbled")
    assert request.parent_span_id == b""


def test_a_callback_links_to_its_websocket(node: Node, collector: Collector) -> None:
    """A message has a trace of its own, with a link to the websocket that it came over, and so has a later tick."""

    async def scenario() -> str:
        token = page_token(node.app_url("/talking"))
        async with Viewer.open(node.ws_url("/talking"), token, headers={"X-Request-ID": "one-socket"}) as viewer:
            await viewer.pull()
            await viewer.set("slider", "value", 7)
        return token

    asyncio.run(scenario())
    opening = collector.wait_for("GET request", lambda s: attributes_of(s)["aperture.request"] == "one-socket")
    assert attributes_of(opening)["http.response.status_code"] == 101
    entered = collector.wait_for("websocket open", lambda s: s.trace_id == opening.trace_id)
    assert entered.parent_span_id == opening.span_id
    patch = collector.wait_for("callback PATCH-DOC", lambda s: linked(s) == [opening.span_id])
    assert (patch.parent_span_id, patch.trace_id != opening.trace_id) == (b"", True)
    session = attributes_of(patch)["aperture.session"]
    assert len(session) == 8
    collector.wait_for("callback scheduled", lambda s: attributes_of(s)["aperture.session"] == session)


def test_a_message_carries_its_trace_to_the_owner(node: Node, collector: Collector) -> None:
    """A viewer on an edge: the owner's callback is the child of the hop, in the same trace, from another process."""

    async def scenario() -> None:
        page = fetch(node.app_url("/talking"))
        token = token_of(page.text)
        async with Viewer.open(node.ws_url("/talking"), token) as first:
            await first.pull()
            async with Viewer.open(node.ws_url("/talking"), token) as second:
                await second.pull()
                await asyncio.to_thread(
                    wait_until, lambda: any(row["connections"] >= 2 for row in node.sessions()), 10, "not counted"
                )
                async with Viewer.open(node.ws_url("/talking"), token) as third:
                    await third.pull()
                    await third.set("slider", "value", 9)
                    assert any(row["edges"] for row in node.sessions()), "no viewer was sent to an edge"

    asyncio.run(scenario())
    hop = collector.wait_for("relay PATCH-DOC")
    callback = collector.wait_for("callback PATCH-DOC", lambda s: s.trace_id == hop.trace_id)
    assert callback.parent_span_id == hop.span_id
    assert len(collector.instances) == 2


def test_a_dead_collector_holds_nobody_up() -> None:
    """No collector listens at the endpoint: apps are served, a few lines say so, and the node ends in time."""
    with Node("talking.py", env=traced("http://127.0.0.1:9") | {"OTEL_BSP_SCHEDULE_DELAY": "20"}) as node:
        for _ in range(30):
            assert fetch(node.app_url("/talking")).status == 200
        node.wait_for_log("/v1/traces", 2)
        assert node.stop() == 0
        assert node.log().count("/v1/traces") <= 3


def test_a_missing_package_is_named_once(tmp_path: Path) -> None:
    """The endpoint is set and OpenTelemetry is not installed: one line says what to install, and apps are served."""
    package = tmp_path / "opentelemetry"
    package.mkdir()
    (package / "__init__.py").write_text("# stands before the real one, and has no SDK\n")
    hidden = {"PYTHONPATH": str(tmp_path)} | traced("http://127.0.0.1:9")
    with Node("talking.py", options=["--num-procs", "2"], env=hidden) as node:
        assert fetch(node.app_url("/talking")).status == 200
        assert node.log().count("bokeh-aperture[otel]") == 1
