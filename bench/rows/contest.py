"""The same task of stock Bokeh's, of ours, and as fast as it can be, timed in turn.

Stock Bokeh has a process of its own: in ours, Bokeh's property system is patched, as it is in a worker.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Self

import orjson
from bokeh.document import Document
from bokeh.models import Column, ColumnDataSource
from bokeh.models.widgets import Slider

from aperture.document import current, ids
from aperture.worker.document import lean
from rows.row import Result, Row, Target

__all__ = [
    "LIMIT",
    "SEED",
    "SIZES",
    "Contest",
    "Make",
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
    """The same task three ways.

    Args:
        stock: as stock Bokeh does it.
        ours: as ours does it.
        limit: as fast as it can be, if anything says how fast that is.
        weighed: whether the work's value is what is measured, instead of its time.
    """

    stock: Work
    ours: Work
    limit: Work | None = None
    weighed: bool = False


Make = Callable[[], Contest]
"""Prepares a contest, in the process that takes part in it, inside of its event loop."""


def turns(repeat: int) -> int:
    """How many samples a row has of each side."""
    return SAMPLES_A_TURN * repeat


def with_sizes(name: str, title: str, targets: Mapping[int, Target], sizes: Sequence[int] = SIZES) -> dict[int, Row]:
    """The rows of one task, by the models of the document."""
    return {
        models: Row(f"{name}-{models}", f"{title}, {models:,} models", "us", targets.get(models, Target()), limit=LIMIT)
        for models in sizes
    }


def contend(contests: Mapping[Row, Make], samples: int) -> list[Result]:
    """Give each side of each row its turns, so that rows, too, are measured under the same load."""
    results = [Result(row) for row in contests]
    makes = list(contests.values())
    with _Process(makes, _as_stock) as stock, _Process(makes, _as_ours) as ours:
        for _ in range(samples):
            for place, result in enumerate(results):
                for process, side, kept in (
                    (stock, "stock", result.stock),
                    (ours, "ours", result.ours),
                    (ours, "limit", result.limit),
                ):
                    sample = process.sample(place, side)
                    if sample is not None:
                        kept.append(sample)
    return results


def _as_stock() -> None:
    """Bokeh stays as it is."""


def _as_ours() -> None:
    """As `WorkerService` has it."""
    ids.install()
    current.install()
    lean.install()


class _Process:
    """A fork of this process that prepares all contests and takes part in them when it is asked to.

    Args:
        makes: the contests.
        begin: called there, first of all.
    """

    def __init__(self, makes: Sequence[Make], begin: Callable[[], None]) -> None:
        context = multiprocessing.get_context("fork")
        self._pipe, self._theirs = context.Pipe()
        self._process = context.Process(target=_take_part, args=(self._theirs, makes, begin), daemon=True)

    def __enter__(self) -> Self:
        self._process.start()
        self._theirs.close()  # so that the end of the process is noticed
        return self

    def __exit__(self, *problem: object) -> None:
        with suppress(BrokenPipeError):
            self._pipe.send(None)
        self._process.join()

    def sample(self, place: int, side: str) -> float | None:
        """One sample of a contest's side; None if it has no such side.

        Raises:
            RuntimeError: it failed; the child has said why.
        """
        self._pipe.send((place, side))
        try:
            sample: float | None = self._pipe.recv()
        except EOFError:
            raise RuntimeError("a side of a contest has failed") from None
        return sample


def _take_part(pipe: Connection, makes: Sequence[Make], begin: Callable[[], None]) -> None:
    begin()
    asyncio.run(_answer(pipe, makes))


async def _answer(pipe: Connection, makes: Sequence[Make]) -> None:
    """In an event loop, whose futures and clock both servers use. Nothing runs on it while this waits."""
    contests = [make() for make in makes]
    counts: dict[tuple[int, str], int] = {}
    weights: dict[tuple[int, str], object] = {}
    while (asked := pipe.recv()) is not None:
        place, side = asked
        contest = contests[place]
        work: Work | None = getattr(contest, side)
        if work is None:
            pipe.send(None)
        elif contest.weighed:
            if asked not in weights:  # the same each time
                weights[asked] = work()
            pipe.send(weights[asked])
        else:
            if asked not in counts:
                work()
                counts[asked] = _repetitions(work)
            pipe.send(_sample(work, counts[asked]))


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
