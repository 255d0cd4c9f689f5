"""The same task of stock Bokeh's, of ours, and as fast as it can be, timed in turn in one process."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from bokeh.document import Document
from bokeh.models import Column, ColumnDataSource
from bokeh.models.widgets import Slider

from rows.row import Result, Row, Target

__all__ = [
    "LIMIT",
    "SEED",
    "SIZES",
    "Contest",
    "Work",
    "columns",
    "contend",
    "joined",
    "source_in",
    "turns",
    "widgets",
    "with_sizes",
]

SEED = 20_260_101
LIMIT = "orjson"
SIZES = (50, 500, 5000)
"""Models of a document."""

SAMPLE_SECONDS = 0.01
"""Each sample repeats the work for about this long, so that the clock's grain and one hiccup do not show."""

SAMPLES_A_TURN = 3

Work = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Contest:
    """The same task three ways."""

    stock: Work
    ours: Work
    limit: Work


def turns(repeat: int) -> int:
    """How many samples a row has of each side."""
    return SAMPLES_A_TURN * repeat


def with_sizes(name: str, title: str, targets: Mapping[int, Target], sizes: Sequence[int] = SIZES) -> dict[int, Row]:
    """The rows of one task, by the models of the document."""
    return {
        models: Row(f"{name}-{models}", f"{title}, {models:,} models", "us", targets.get(models, Target()), limit=LIMIT)
        for models in sizes
    }


def contend(contests: Mapping[Row, Contest], samples: int) -> list[Result]:
    """Give each side of each row its turns, so that rows, too, are measured under the same load."""
    results = {row: Result(row) for row in contests}
    works = [
        (work, kept)
        for row, contest in contests.items()
        for work, kept in (
            (contest.stock, results[row].stock),
            (contest.ours, results[row].ours),
            (contest.limit, results[row].limit),
        )
    ]
    for work, _ in works:
        work()
    counts = [_repetitions(work) for work, _ in works]
    for _ in range(samples):
        for (work, kept), count in zip(works, counts, strict=True):
            kept.append(_sample(work, count))
    return list(results.values())


def _repetitions(work: Work) -> int:
    started = time.perf_counter()
    work()
    return max(1, int(SAMPLE_SECONDS / max(time.perf_counter() - started, 1e-7)))


def _sample(work: Work, count: int) -> float:
    """Microseconds for one, over a batch."""
    started = time.perf_counter()
    for _ in range(count):
        work()
    return (time.perf_counter() - started) / count * 1e6


def joined(content: bytes, buffers: Any = ()) -> Work:
    """The physical limit of what is sent: orjson on the finished content, and one join of the buffers."""
    ready = orjson.loads(content)
    arrays = [memoryview(bytes(buffer.data)) for buffer in buffers]
    return lambda: b"".join([orjson.dumps(ready), *arrays])


def widgets(count: int, doc: Document | None = None) -> tuple[Document, list[Slider]]:
    """A document of `count` models, all but one of them sliders.

    Args:
        count: of its models.
        doc: an empty one to fill; else it is a plain one.
    """
    sliders = [Slider(start=0, end=100, value=1, title=f"slider {index}") for index in range(count - 1)]
    doc = Document() if doc is None else doc
    doc.add_root(Column(children=list(sliders)))
    doc.models.flush_synced()
    return doc, sliders


def source_in(models: int, doc: Document | None = None) -> tuple[Document, ColumnDataSource]:
    """A document of so many models, one of them a source with two empty columns; see `widgets`."""
    doc, _ = widgets(models - 1, doc)
    source = ColumnDataSource(data={"x": [], "y": []})
    doc.add_root(source)
    doc.models.flush_synced()
    return doc, source


def columns(count: int) -> dict[str, list[float]]:
    """Two columns of so many rows."""
    draw = random.Random(SEED)
    return {name: [draw.uniform(-1e3, 1e3) for _ in range(count)] for name in ("x", "y")}
