"""What the codec costs beside stock Bokeh's, in one process and one run, without a socket.

Each row times three things in turn, again and again: what a stock `bokeh serve` does for one connection (build the
message, make its JSON, turn its buffers to bytes), what ours does for all connections together (encode, join, frame),
and the physical limit: orjson on the finished content, and one join of the buffers.
"""

from __future__ import annotations

import itertools
import json
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import orjson
from bokeh.document import Document
from bokeh.document.events import (
    ColumnDataChangedEvent,
    ColumnsPatchedEvent,
    ColumnsStreamedEvent,
    DocumentPatchedEvent,
    ModelChangedEvent,
)
from bokeh.models import Column, ColumnDataSource, Slider
from bokeh.plotting import figure
from bokeh.protocol import Protocol
from bokeh.protocol.messages.patch_doc import patch_doc
from bokeh.protocol.messages.pull_doc_reply import pull_doc_reply

from aperture.protocol import messages
from aperture.protocol.codec import EventEncoder, decode_patch, encode_document, join_events
from aperture.protocol.fragments import Assembler
from rows.row import Group, Plan, Result, Row, Target

__all__ = ["GROUP"]

SEED = 20_260_101
BATCH_SECONDS = 0.02
"""Each sample repeats the work for about this long, so that the clock's grain and one hiccup do not show."""

MAX_MESSAGE = 1 << 30

Work = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Contest:
    """The same task three ways."""

    stock: Work
    ours: Work
    limit: Work


def widgets(count: int) -> tuple[Document, list[Slider]]:
    """A document of `count` models, all but one of them sliders."""
    sliders = [Slider(start=0, end=100, value=1, title=f"slider {index}") for index in range(count - 1)]
    doc = Document()
    doc.add_root(Column(children=list(sliders)))
    doc.models.flush_synced()
    return doc, sliders


def source_in(models: int) -> tuple[Document, ColumnDataSource]:
    doc, _ = widgets(models - 1)
    source = ColumnDataSource(data={"x": [], "y": []})
    doc.add_root(source)
    doc.models.flush_synced()
    return doc, source


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
    return Contest(lambda: send_stock([event]), ours, _limit(content, buffers))


def _limit(content: bytes, buffers: Any) -> Work:
    ready = orjson.loads(content)
    arrays = [memoryview(bytes(buffer.data)) for buffer in buffers]
    return lambda: b"".join([orjson.dumps(ready), *arrays])


def slider_change(models: int) -> Contest:
    doc, sliders = widgets(models)
    return outgoing(doc, ModelChangedEvent(doc, sliders[0], "value", 42.5))


def _rows(count: int) -> dict[str, list[float]]:
    draw = random.Random(SEED)
    return {name: [draw.uniform(-1e3, 1e3) for _ in range(count)] for name in ("x", "y")}


def stream_lists(models: int) -> Contest:
    doc, source = source_in(models)
    return outgoing(doc, ColumnsStreamedEvent(doc, source, "data", _rows(1000), 10_000))


def stream_arrays(models: int) -> Contest:
    doc, source = source_in(models)
    arrays = {name: np.array(values) for name, values in _rows(1000).items()}
    return outgoing(doc, ColumnsStreamedEvent(doc, source, "data", arrays, 10_000))


def patch_columns(models: int) -> Contest:
    doc, source = source_in(models)
    draw = random.Random(SEED)
    changes = [(index, draw.random()) for index in range(100)]
    return outgoing(doc, ColumnsPatchedEvent(doc, source, "data", {"x": changes, "y": changes}))


def replace_columns(models: int) -> Contest:
    doc, source = source_in(models)
    source.data = _rows(1000)
    doc.models.flush_synced()
    return outgoing(doc, ColumnDataChangedEvent(doc, source, "data"))


Fragments = Iterator[tuple[str, str, str]]
"""Endless messages, as BokehJS writes them."""

_HEADER = '{"msgid":"C1D6","msgtype":"PATCH-DOC"}'


def _messages(*events: str) -> Fragments:
    return itertools.cycle([(_HEADER, "{}", f'{{"events":[{event}]}}') for event in events])


def apply_slider(models: int) -> Contest:
    """A slider goes back and forth."""

    def make() -> tuple[Document, Fragments]:
        doc, sliders = widgets(models)
        change = {"kind": "ModelChanged", "model": {"id": sliders[0].id}, "attr": "value"}
        return doc, _messages(*(json.dumps({**change, "new": value}) for value in (7, 8)))

    return incoming(make)


def apply_stream(models: int) -> Contest:
    """A browser streams 100 rows into a source that keeps 1,000."""

    def make() -> tuple[Document, Fragments]:
        doc, source = source_in(models)
        rep = {"type": "map", "entries": [[name, values[:100]] for name, values in _rows(100).items()]}
        event = {"kind": "ColumnsStreamed", "model": {"id": source.id}, "attr": "data", "data": rep, "rollover": 1000}
        return doc, _messages(json.dumps(event))

    return incoming(make)


def apply_columns(models: int) -> Contest:
    """A browser replaces two columns of 1,000 rows."""

    def make() -> tuple[Document, Fragments]:
        doc, source = source_in(models)
        rep = {"type": "map", "entries": [[name, values] for name, values in _rows(1000).items()]}
        event = {"kind": "ModelChanged", "model": {"id": source.id}, "attr": "data", "new": rep}
        return doc, _messages(json.dumps(event))

    return incoming(make)


def incoming(make: Callable[[], tuple[Document, Fragments]]) -> Contest:
    """From fragments to a changed document; the limit only parses them."""
    doc, fragments = make()
    return Contest(
        _apply_stock(*make()), _apply_ours(doc, fragments), lambda: [orjson.loads(part) for part in next(fragments)]
    )


def _apply_stock(doc: Document, fragments: Fragments) -> Work:
    protocol = Protocol()
    setter: Any = object()

    def work() -> object:
        message: Any = protocol.assemble(*next(fragments))
        message.apply_to_document(doc, setter)
        return message

    return work


def _apply_ours(doc: Document, fragments: Fragments) -> Work:
    assembler = Assembler(MAX_MESSAGE)
    setter: Any = object()

    def work() -> object:
        message = None
        for fragment in next(fragments):
            message = assembler.feed(fragment)
        assert message is not None
        for event in decode_patch(message, find=doc.models.get_by_id, seen=doc.models.seen, setter=setter) or ():
            DocumentPatchedEvent.handle_event(doc, event, setter)  # type: ignore[arg-type]
        return message

    return work


def pull(doc: Document) -> Contest:
    def ours() -> object:
        content, buffers = encode_document(doc, inline=False)
        return messages.pull_reply("C1D6", content, buffers)

    content, buffers = encode_document(doc, inline=False)
    return Contest(
        lambda: _written_by_stock(pull_doc_reply.create("C1D6", doc)),  # type: ignore[arg-type]
        ours,
        _limit(content, buffers),
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


SIZES = (50, 500, 5000)
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
    "apply-slider": ("apply a slider's value", apply_slider, {5000: Target(faster=15)}),
    "apply-stream": ("apply a stream of 100 rows", apply_stream, {}),
    "apply-columns": ("apply two columns of 1,000", apply_columns, {}),
}
PULLS: dict[str, tuple[str, Callable[[], Contest]]] = {
    "pull-app": ("make a pull reply, small app", pull_app),
    "pull-100k-lists": ("make a pull reply, 100,000 points, lists", partial(pull_points, arrays=False)),
    "pull-100k-numpy": ("make a pull reply, 100,000 points, numpy", partial(pull_points, arrays=True)),
}
LIMIT = "orjson"


def _contests() -> Iterator[tuple[Row, Callable[[], Contest]]]:
    for kind, (title, make, targets) in KINDS.items():
        for models in SIZES:
            target = targets.get(models, Target())
            yield (
                Row(f"{kind}-{models}", f"{title}, {models:,} models", "us", target, limit=LIMIT),
                partial(make, models),
            )
    for name, (title, make_pull) in PULLS.items():
        yield Row(name, title, "us", limit=LIMIT), make_pull


CONTESTS = dict(_contests())


def batch_size(work: Work) -> int:
    started = time.perf_counter()
    work()
    return max(1, int(BATCH_SECONDS / max(time.perf_counter() - started, 1e-7) / 2))


def sample(work: Work, count: int) -> float:
    """Microseconds for one, over a batch."""
    started = time.perf_counter()
    for _ in range(count):
        work()
    return (time.perf_counter() - started) / count * 1e6


def contend(row: Row, contest: Contest, turns: int) -> Result:
    result = Result(row)
    works = ((contest.stock, result.stock), (contest.ours, result.ours), (contest.limit, result.limit))
    for work, _ in works:
        work()
    counts = [batch_size(work) for work, _ in works]
    for _ in range(turns):
        for (work, samples), count in zip(works, counts, strict=True):
            samples.append(sample(work, count))
    return result


def measure(plan: Plan) -> Iterator[Result]:
    for row, make in CONTESTS.items():
        if row.name in plan.rows:
            yield contend(row, make(), 3 * plan.repeat)


GROUP = Group(tuple(CONTESTS), measure)
