"""The document of a dashboard, and its texts."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest
from bokeh.document import Document
from support.patience import run

from aperture.metrics import Reading, families
from aperture.wire.node_figures import NodeFigures, ProcessFigures
from aperture.worker.dashboard import tables
from aperture.worker.dashboard.exchange import NoExchange
from aperture.worker.dashboard.figures import values_of
from aperture.worker.dashboard.history import COLUMNS
from aperture.worker.dashboard.page import Page
from aperture.worker.dashboard.sampler import Sampler

HOSTILE = "/<script>alert(1)</script>\"'"


class Read:
    def __init__(self) -> None:
        self.at = 0.0
        self.apps = ["/sliders"]

    async def read(self) -> NodeFigures:
        self.at += 1
        readings = [Reading(families.LOOP_LAG, ("0",), 0.002), Reading(families.STARTED, ("worker-0",), 1.0)]
        for app in self.apps:
            readings += [
                Reading(families.SESSIONS, (app,), 3),
                Reading(families.PATCHES, (app, "out"), 1234 * self.at),
            ]
        return NodeFigures(f"host-{HOSTILE}", (ProcessFigures("worker-0", self.at, values_of(readings)),))


def opened(sampler: Sampler) -> tuple[Page, Document]:
    page, document = Page(sampler), Document()
    page.fill(document)
    return page, document


def text(document: Document, name: str) -> str:
    model: Any = document.get_model_by_name(name)
    return str(model.text)


def test_a_page_shows_what_was_seen_and_then_what_is_new() -> None:
    """Texts are set, series are streamed, and a refresh without news sends nothing."""

    async def scenario() -> None:
        now = iter(range(100, 200))
        sampler = Sampler("/admin", Read(), NoExchange(), clock=lambda: float(next(now)))
        await sampler.look()
        page, document = opened(sampler)
        series: Any = document.get_model_by_name("series")
        assert len(series.data["t"]) == 1
        assert "1,234" in text(document, "apps")
        sent: list[Any] = []
        document.on_change(sent.append)
        page.refresh()
        assert sent == []
        await sampler.look()
        page.refresh()
        assert "2,468" in text(document, "apps")
        assert {len(series.data[name]) for name in COLUMNS} == {2}
        assert len(sent) < 10
        await asyncio.sleep(0)
        sampler.leave()

    run(scenario())


def test_every_model_is_there_from_the_start() -> None:
    """Two runs make the same document, whatever has been seen, so that another worker can build it again."""

    async def scenario() -> None:
        fresh, used = Sampler("/admin", Read(), NoExchange()), Sampler("/admin", Read(), NoExchange())
        await used.look()
        types = []
        for sampler in (fresh, used):
            page, document = opened(sampler)
            types.append(sorted(type(model).__name__ for model in document.models))
            await sampler.look()
            page.refresh()
            assert sorted(type(model).__name__ for model in document.models) == types[0]
            sampler.leave()
        assert types[0] == types[1]

    run(scenario())


def test_names_of_apps_and_nodes_are_escaped() -> None:
    """A route is a file's name, and a node's name comes from Redis."""

    async def scenario() -> None:
        reader = Read()
        reader.apps = [HOSTILE]
        sampler = Sampler("/admin", reader, NoExchange())
        await sampler.look()
        _, document = opened(sampler)
        texts = [model.text for model in document.models if hasattr(model, "text") and isinstance(model.text, str)]
        assert any("&lt;script&gt;" in shown for shown in texts)
        assert not any("<script" in shown for shown in texts)
        sampler.leave()

    run(scenario())


def test_the_sampler_rests_when_the_last_session_ends() -> None:
    """Bokeh's own hook tells of it."""

    async def scenario() -> None:
        sampler = Sampler("/admin", Read(), NoExchange())
        _, document = opened(sampler)
        assert sampler.running
        for callback in document.session_destroyed_callbacks:
            callback(None)  # type: ignore[arg-type]
        assert not sampler.running

    run(scenario())


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (math.nan, ("\N{EN DASH}", "")),
        (0.00002, ("20", "µs")),
        (0.0042, ("4.2", "ms")),
        (0.25, ("250", "ms")),
        (0.9496, ("950", "ms")),
        (2.0, ("2.0", "s")),
    ],
)
def test_durations_have_the_unit_that_people_use(seconds: float, shown: tuple[str, str]) -> None:
    """Three digits at most before the point."""
    assert tables.duration(seconds) == shown
