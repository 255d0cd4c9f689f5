"""What the codec costs beside stock Bokeh's, in one process and one run, without a socket and without a session.

Each row times three things in turn, again and again: what a stock `bokeh serve` does for one connection (build the
message, make its JSON, turn its buffers to bytes), what ours does for all connections together (encode, join, frame),
and the physical limit: orjson on the finished content, and one join of the buffers. What stands around the codec, on
either side, is in the rows of `served`.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
from bokeh.document import Document
from bokeh.document.events import (
    ColumnDataChangedEvent,
    ColumnsPatchedEvent,
    ColumnsStreamedEvent,
    DocumentPatchedEvent,
    ModelChangedEvent,
)
from bokeh.plotting import figure
from bokeh.protocol.messages.patch_doc import patch_doc
from bokeh.protocol.messages.pull_doc_reply import pull_doc_reply

from aperture.protocol import messages
from aperture.protocol.codec import EventEncoder, encode_document, join_events
from aperture.protocol.messages import FramedDocument
from rows.contest import LIMIT, SEED, Contest, columns, contend, joined, source_in, turns, widgets, with_sizes
from rows.row import Group, Plan, Result, Row, Target

__all__ = ["GROUP"]


def send_stock(events: list[DocumentPatchedEvent]) -> int:
    """All that a stock server computes for one connection before it writes."""
    message = patch_doc.create(events)
    return _written_by_stock(message)


def _written_by_stock(message: Any) -> int:
    size = len(message.header_json) + len(message.metadata_json) + len(message.content_json)
    for buffer in message.buffers:
        size += len(json.dumps(buffer.ref)) + len(buffer.to_bytes())
    return size


def outgoing(doc: Document, event: DocumentPatchedEvent) -> Contest:
    known = {model.id for model in doc.models}
    encoder = EventEncoder(lambda model: model.id in known, lambda model: known.add(model.id))

    def ours() -> object:
        content, buffers = join_events([encoder.encode(event)])
        return messages.patch(content, buffers, epoch=1, sequence=1)

    content, buffers = join_events([encoder.encode(event)])
    return Contest(lambda: send_stock([event]), ours, joined(content, buffers))


def slider_change(models: int) -> Contest:
    doc, sliders = widgets(models)
    return outgoing(doc, ModelChangedEvent(doc, sliders[0], "value", 42.5))


def stream_lists(models: int) -> Contest:
    doc, source = source_in(models)
    return outgoing(doc, ColumnsStreamedEvent(doc, source, "data", columns(1000), 10_000))


def stream_arrays(models: int) -> Contest:
    doc, source = source_in(models)
    arrays = {name: np.array(values) for name, values in columns(1000).items()}
    return outgoing(doc, ColumnsStreamedEvent(doc, source, "data", arrays, 10_000))


def patch_columns(models: int) -> Contest:
    doc, source = source_in(models)
    draw = random.Random(SEED)
    changes = [(index, draw.random()) for index in range(100)]
    return outgoing(doc, ColumnsPatchedEvent(doc, source, "data", {"x": changes, "y": changes}))


def replace_columns(models: int) -> Contest:
    doc, source = source_in(models)
    source.data = columns(1000)
    doc.models.flush_synced()
    return outgoing(doc, ColumnDataChangedEvent(doc, source, "data"))


def pull(doc: Document) -> Contest:
    def ours() -> object:
        document = FramedDocument.of(*encode_document(doc, inline=False))
        return messages.pull_reply("C1D6", document, epoch=1, sequence=1)

    content, buffers = encode_document(doc, inline=False)
    return Contest(
        lambda: _written_by_stock(pull_doc_reply.create("C1D6", doc)),  # type: ignore[arg-type]
        ours,
        joined(content, buffers),
    )


def pull_app() -> Contest:
    doc, _ = widgets(40)
    plot = figure()
    plot.line([1, 2, 3], [1, 2, 3])
    doc.add_root(plot)
    return pull(doc)


def pull_points(*, arrays: bool) -> Contest:
    draw = np.random.default_rng(SEED)
    x, y = draw.normal(size=100_000), draw.normal(size=100_000)
    plot = figure()
    plot.scatter(x if arrays else x.tolist(), y if arrays else y.tolist())
    doc = Document()
    doc.add_root(plot)
    return pull(doc)


KINDS: dict[str, tuple[str, Callable[[int], Contest], dict[int, Target]]] = {
    "encode-slider": (
        "encode a slider's value",
        slider_change,
        {50: Target(faster=12), 5000: Target(faster=400, growth=("encode-slider-50", 1.3))},
    ),
    "encode-stream-lists": ("encode a stream of 1,000 rows, lists", stream_lists, {50: Target(faster=10)}),
    "encode-stream-numpy": ("encode a stream of 1,000 rows, numpy", stream_arrays, {50: Target(faster=6)}),
    "encode-patch": ("encode a patch of 200 cells", patch_columns, {}),
    "encode-columns": ("encode two columns of 1,000, lists", replace_columns, {}),
}
SIZED = {name: with_sizes(name, title, targets) for name, (title, _, targets) in KINDS.items()}
PULLS: dict[Row, Callable[[], Contest]] = {
    Row("pull-app", "make a pull reply, small app", "us", limit=LIMIT): pull_app,
    Row("pull-100k-lists", "make a pull reply, 100,000 points, lists", "us", limit=LIMIT): partial(
        pull_points, arrays=False
    ),
    Row("pull-100k-numpy", "make a pull reply, 100,000 points, numpy", "us", limit=LIMIT): partial(
        pull_points, arrays=True
    ),
}


def measure(plan: Plan) -> Iterator[Result]:
    for name, rows in SIZED.items():
        make = KINDS[name][1]
        contests = {row: partial(make, models) for models, row in rows.items() if row.name in plan.rows}
        yield from contend(contests, turns(plan.repeat))
    for row, make_pull in PULLS.items():
        if row.name in plan.rows:
            yield from contend({row: make_pull}, turns(plan.repeat))


GROUP = Group((*(row for rows in SIZED.values() for row in rows.values()), *PULLS), measure)
