"""BokehJS itself reads what the codec writes: in Chromium, our messages and stock Bokeh's give the same values.

Each example makes a document from a pull reply and applies one patch to it, twice: from our frames, and from the
fragments of stock Bokeh's messages. No server is involved; the fragments go through BokehJS's own receiver.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import bokeh
import numpy as np
import pytest
from bokeh.core.serialization import SerializationError
from bokeh.document import Document
from bokeh.document.events import (
    ColumnDataChangedEvent,
    ColumnsPatchedEvent,
    ColumnsStreamedEvent,
    DocumentPatchedEvent,
    ModelChangedEvent,
    RootAddedEvent,
    TitleChangedEvent,
)
from bokeh.models import Column, ColumnDataSource, LinearAxis, Range1d
from bokeh.models.annotations import Title
from bokeh.models.widgets import Div
from bokeh.plotting import figure
from bokeh.protocol import Protocol
from hypothesis import HealthCheck, given, settings
from playwright.sync_api import Browser, Page
from support.events import Viewers
from support.frames import fragments_of
from support.patience import run
from support.peers import Peer, make_session
from support.values import columns, values

from aperture.protocol import messages
from aperture.protocol.codec import encode_document, join_events
from aperture.protocol.messages import FramedDocument

BOKEHJS = Path(bokeh.__file__).parent / "server" / "static" / "js" / "bokeh.js"

READER = """
window.received = fragments => {
  const receiver = new (Bokeh.require("protocol/receiver").Receiver)()
  for (const [text, packed] of fragments)
    receiver.consume(text ?? Uint8Array.from(atob(packed), (char) => char.charCodeAt(0)).buffer)
  if (receiver.message == null) throw new Error("no message was complete")
  return receiver.message
}
window.described = value => {
  const seen = new Map()
  const describe = value => {
    if (value === null || typeof value != "object") return typeof value + ":" + (Object.is(value, -0) ? "-0" : value)
    if (seen.has(value)) return "again:" + seen.get(value)
    seen.set(value, seen.size)
    const kind = value.constructor?.name ?? "bare"
    if (value.id != null && value.attributes != null)
      // Models that BokehJS made itself have random ids.
      return [kind, /^[0-9A-F]{32}$/.test(value.id) ? "random" : value.id,
              Object.entries(value.attributes).map(([name, item]) => [name, describe(item)])]
    if (value instanceof ArrayBuffer) return [kind, ...new Uint8Array(value)]
    if (ArrayBuffer.isView(value)) return [kind, value.dtype, value.shape, Array.from(value, describe)]
    if (Array.isArray(value)) return value.map(describe)
    if (value instanceof Map) return [kind, [...value].map(([key, item]) => [describe(key), describe(item)])]
    if (value instanceof Set) return [kind, [...value].map(describe)]
    return [kind, Object.entries(value).map(([name, item]) => [name, describe(item)])]
  }
  return JSON.stringify(describe(value))
}
window.patched = (pull, patches, id) => {
  const {Document} = Bokeh.require("document")
  const reply = received(pull)
  const doc = Document.from_json(reply.content.doc, [], reply.buffers)
  for (const patch of patches) {
    const message = received(patch)
    doc.apply_json_patch(message.content, message.buffers)
  }
  const model = doc.get_model_by_id(id)
  return [doc.title(), doc.roots().length, described(model.tags), described(model.data)]
}
"""

CHANGED = """([pull, runs, names]) => {
  const {Document} = Bokeh.require("document")
  const {Receiver} = Bokeh.require("protocol/receiver")
  const reply = received(pull)
  const doc = Document.from_json(reply.content.doc, [], reply.buffers)
  const receiver = new Receiver()
  for (const [text] of runs) {
    receiver.consume(text)
    if (receiver.message != null) doc.apply_json_patch(receiver.message.content, receiver.message.buffers)
  }
  const [div, source] = names.map((name) => doc.get_model_by_name(name))
  return [div.text, [...(source.data.x ?? source.data.get("x"))]]
}"""
"""What BokehJS ends with when it takes one message after the other, as from a websocket."""

ATTEMPT = """([pull, patches, id]) => {
  try { return patched(pull, patches, id) } catch (error) { return [`${error}`] }
}"""
"""What BokehJS refuses in stock Bokeh's message it must refuse in ours, and for the same reason."""


@pytest.fixture(scope="module")
def page(chromium: Browser) -> Iterator[Page]:
    """A blank page that knows BokehJS, and that is the same for all examples."""
    page = chromium.new_page()
    page.goto("about:blank")
    page.add_script_tag(path=BOKEHJS)
    page.add_script_tag(path=BOKEHJS.with_name("bokeh-widgets.js"))
    page.add_script_tag(content=READER)
    yield page
    page.close()


def _pull(content: bytes, buffers: Sequence[Any]) -> Any:
    reply = messages.pull_reply("r", FramedDocument.of(content, buffers), epoch=1, sequence=1)
    return _packed(fragments_of(reply.plain))


class Pair:
    """One document, and what a stock server and ours would send of it."""

    def __init__(self) -> None:
        self.doc = Document(title="before")
        self.source = ColumnDataSource(data={"x": [1, 2], "y": np.arange(2.0)})
        self.doc.add_root(self.source)
        self.doc.models.flush_synced()
        content, buffers = encode_document(self.doc, inline=False)
        self.pull = _pull(content, buffers)
        self.stock_pull = _stock("PULL-DOC-REPLY", "r", self.doc)
        self.viewers = Viewers(self.doc.models)

    def ours(self, *events: DocumentPatchedEvent) -> Any:
        content, buffers = join_events([self.viewers.encode(event) for event in events])
        return _packed(fragments_of(messages.patch(content, buffers, epoch=1, sequence=1).plain))

    def stock(self, *events: DocumentPatchedEvent) -> Any:
        return _stock("PATCH-DOC", list(events))


def _stock(*create: Any) -> Any:
    message = Protocol().create(*create)
    fragments: list[str | bytes] = [message.header_json, message.metadata_json, message.content_json]
    for buffer in message.buffers:
        fragments += [json.dumps(buffer.ref), buffer.to_bytes()]
    return _packed(fragments)


def _packed(fragments: list[str | bytes]) -> list[tuple[str | None, str]]:
    """Fragments in a form that crosses into the page: text, or base64 of bytes."""
    return [(part, "") if isinstance(part, str) else (None, base64.b64encode(part).decode()) for part in fragments]


def assert_same_in_browser(page: Page, pair: Pair, *events: DocumentPatchedEvent) -> list[Any]:
    try:
        stock = pair.stock(*events)
    except (SerializationError, OverflowError):
        return []  # What is never encoded is compared elsewhere.
    ours: list[Any] = page.evaluate(ATTEMPT, [pair.pull, [pair.ours(*events)], pair.source.id])
    assert ours == page.evaluate(ATTEMPT, [pair.stock_pull, [stock], pair.source.id])
    return ours


FEW = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
pytestmark = pytest.mark.filterwarnings("ignore")


@FEW
@given(values())
def test_any_value_arrives(page: Page, value: Any) -> None:
    """An attribute holds the same in the browser, whatever its value."""
    pair = Pair()
    assert_same_in_browser(page, pair, ModelChangedEvent(pair.doc, pair.source, "tags", [value]))


@FEW
@given(columns())
def test_any_columns_arrive(page: Page, data: dict[str, Any]) -> None:
    """A data source holds the same in the browser, whatever its columns."""
    pair = Pair()
    assert_same_in_browser(page, pair, ColumnDataChangedEvent(pair.doc, pair.source, "data", data))


def test_streams_and_column_patches_arrive(page: Page) -> None:
    """Rows are appended, rolled over and patched in the browser."""
    pair = Pair()
    got = assert_same_in_browser(
        page,
        pair,
        ColumnsStreamedEvent(pair.doc, pair.source, "data", {"x": [3, 4], "y": np.array([3.0, float("nan")])}, 3),
        ColumnsPatchedEvent(pair.doc, pair.source, "data", {"x": [(0, 9), (slice(1, 3), [7, 8])]}),
        TitleChangedEvent(pair.doc, "after ✓"),
    )
    assert got[0] == "after ✓"
    assert "number:9" in got[3]
    assert "number:NaN" in got[3]


def test_a_plot_introduced_by_a_patch_arrives(page: Page) -> None:
    """New models with arrays of their own are there, with references between them resolved."""
    pair = Pair()
    plot = figure(title=Title(text="new"))
    plot.scatter("x", "y", source=pair.source)
    plot.line(np.arange(5.0), cast("Any", np.arange(5) ** 2))
    plot.add_layout(LinearAxis(axis_label="more"), "right")
    events = (
        RootAddedEvent(pair.doc, plot),
        ModelChangedEvent(pair.doc, pair.source, "tags", [plot, Range1d(start=1, end=2)]),
    )
    got = assert_same_in_browser(page, pair, *events)
    assert got[1] == 2
    assert plot.id in got[2]


def test_an_inline_document_equals_one_with_buffers(page: Page) -> None:
    """A viewer that pulls again ends with the same arrays."""
    pair = Pair()
    content, buffers = encode_document(pair.doc, inline=True)
    again = _pull(content, buffers)
    assert len(again) == 3
    inline, beside = (page.evaluate(ATTEMPT, [pull, [], pair.source.id]) for pull in (again, pair.pull))
    assert inline == beside
    assert len(inline) == 4


def test_a_model_that_is_taken_away_and_brought_back_in_one_callback_is_as_it_was_left(page: Page) -> None:
    """BokehJS sets what is written out in full before it applies anything of the same patch."""

    async def observed() -> tuple[Any, Any]:
        div, source = Div(text="before", name="div"), ColumnDataSource({"x": [1, 2]}, name="source")
        column = Column(children=[div])
        session = make_session(column, Div(tags=[source]))
        peer = Peer(session)
        peer.pull()

        def act() -> None:
            div.text = "loading"
            column.children = []
            div.text = "done"
            column.children = [div]
            source.stream({"x": [3]})
            session.document.clear()
            session.document.add_root(column)
            session.document.add_root(Div(tags=[source]))

        await session.with_document_locked(act)
        runs = peer.mailbox.runs
        assert len(runs) == 2, "however many patches it takes, a viewer gets one write"
        return _packed(fragments_of(runs[0])), _packed(fragments_of(runs[1]))

    with ThreadPoolExecutor() as aside:  # Playwright's own loop runs in this thread
        pull, patches = aside.submit(run, observed()).result()
    assert page.evaluate(CHANGED, [pull, patches, ["div", "source"]]) == ["done", [1, 2, 3]]
