"""One open dashboard: its models, and their updates.

Every model is made at the start and none later, so that an update costs one small patch, and another worker can
rebuild the page when this one dies. The lines of a chart are fixed slots, assigned to apps and workers as they appear.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from bokeh.document import Document
from bokeh.layouts import column
from bokeh.models import (
    ColumnDataSource,
    DataRange1d,
    DatetimeTickFormatter,
    HoverTool,
    InlineStyleSheet,
    NumeralTickFormatter,
    Range1d,
)
from bokeh.models.ui import UIElement
from bokeh.models.widgets import Div
from bokeh.plotting import figure
from jinja2 import Template

from aperture.worker.dashboard import tables
from aperture.worker.dashboard.history import APP_SLOTS, COLUMNS, POINTS, WORKER_SLOTS, History
from aperture.worker.dashboard.look import AXIS, CSS, GRID, LINES
from aperture.worker.dashboard.sampler import Sampler

__all__ = ["Page"]

REFRESH = 500
"""Milliseconds between two checks for a new sample; a check without one takes microseconds."""

HEIGHT = 200
SPAN = 600_000
"""The time span of the charts, in milliseconds."""

LATENCIES = (0.01, 30_000)
"""Milliseconds: the ends of the axis for latencies, from the quickest encoding to the slowest app."""

_TEMPLATE = Path(__file__).parent / "templates" / "admin.html"


class _Chart:
    """A chart with its title.

    Args:
        name: of its root, by which the template places it.
        title: in words.
        unit: of its values.
        columns: one for each line.
        labels: of the lines; those of apps and workers are set later.
        filled: whether the area under the lines is tinted.
        log: whether the axis is logarithmic.
    """

    def __init__(
        self,
        source: ColumnDataSource,
        x_range: DataRange1d,
        name: str,
        title: str,
        unit: str,
        columns: list[str],
        labels: tuple[str, ...] = (),
        *,
        filled: bool = False,
        log: bool = False,
    ) -> None:
        self._title, self._unit, self._columns = title, unit, columns
        self._labels: tuple[str, ...] | None = None
        self._heading = _text("")
        self._hover = HoverTool(mode="vline", point_policy="snap_to_data", attachment="horizontal", show_arrow=False)
        self._plot = _plot(x_range, log=log)
        self._plot.add_tools(self._hover)
        lines = []
        for color, of in zip(LINES, columns, strict=False):
            if filled:
                self._plot.varea("t", y1=of, y2=0, source=source, fill_color=color, fill_alpha=0.13)
            lines.append(self._plot.line("t", of, source=source, line_color=color, line_width=2))
        self._hover.renderers = lines[:1]
        self.root: UIElement = column(self._heading, self._plot, sizing_mode="stretch_width", name=name)
        self.show(labels)

    def show(self, labels: tuple[str, ...]) -> None:
        """Set the labels of the lines, in the heading and the tooltip."""
        if labels == self._labels:
            return
        self._labels = labels
        self._heading.text = tables.title(self._title, self._unit, labels)
        values = [(label, f"@{of}{{0,0.0}}") for label, of in zip(labels, self._columns, strict=False)]
        self._hover.tooltips = [("", "@t{%H:%M:%S}"), *values]
        self._hover.formatters = {"@t": "datetime"}


class Page:
    """The document of one dashboard.

    Args:
        sampler: of the worker.
    """

    def __init__(self, sampler: Sampler) -> None:
        self._sampler = sampler
        self._shown = -1
        self._drawn: tuple[list[Any], list[Any]] = ([], [])
        self._source = ColumnDataSource(data=_empty(), name="series")
        x_range = DataRange1d(follow="end", follow_interval=SPAN, range_padding=0)
        self._head, self._tiles = _text(tables.waiting(), "head"), _text("", "tiles")
        self._apps, self._workers = _text("", "apps"), _text("", "workers")

        def chart(*args: Any, **kwargs: Any) -> _Chart:
            return _Chart(self._source, x_range, *args, **kwargs)

        by_app = [f"app{slot}_patches" for slot in range(APP_SLOTS)]
        lags, memories = ([f"worker{slot}_{what}" for slot in range(WORKER_SLOTS)] for what in ("lag", "memory"))
        self._by_app = chart("patches", "Patches to viewers", "a second, by app", by_app, filled=True)
        self._by_worker = [
            chart("lag", "Event loop lag", "ms, by worker", lags),
            chart("memory", "Memory", "MB, by worker", memories),
        ]
        self._charts = [
            chart("people", "Sessions and connections", "", ["sessions", "connections"],
                  ("sessions", "connections"), filled=True),
            self._by_app,
            chart("latency", "Latency", "ms, p95", ["callback_p95", "create_p95", "encode_p95"],
                  ("callback", "new session", "encode"), log=True),
            chart("relay", "Relay lag", "ms, p95", ["relay_p95"], ("owner to edge",)),
            *self._by_worker,
        ]  # fmt: skip

    def fill(self, document: Document) -> None:
        """Add all models, and update them while the session lives. Runs on the event loop."""
        document.title = "Aperture"
        document.template = Template(_TEMPLATE.read_text(encoding="utf-8"))
        for root in (self._head, self._tiles, *(chart.root for chart in self._charts), self._apps, self._workers):
            document.add_root(root)
        self._sampler.enter()
        document.on_session_destroyed(lambda context: self._sampler.leave())
        document.add_periodic_callback(self.refresh, REFRESH)
        self.refresh()

    def refresh(self) -> None:
        """Show the newest sample, if the page does not show it yet."""
        if self._shown == self._sampler.looks:
            return
        self._shown = self._sampler.looks
        history = self._sampler.history
        if history.totals is None:
            return
        _say(self._head, tables.header(history.totals, time.time()))
        _say(self._tiles, tables.tiles(history.totals))
        _say(self._apps, tables.apps_table(history.apps))
        _say(self._workers, tables.workers_table(history.workers))
        self._draw(history)

    def _draw(self, history: History) -> None:
        slots = (list(history.app_slots), list(history.worker_slots))
        moved = _moved(self._drawn[0], slots[0]) or _moved(self._drawn[1], slots[1])
        self._drawn = slots
        self._by_app.show(tuple(history.app_slots))
        several = len({node for node, _ in history.worker_slots}) > 1
        for chart in self._by_worker:
            chart.show(tuple(_worker_label(node, index, several) for node, index in history.worker_slots))
        drawn = self._source.data["t"]
        last = drawn[-1] if len(drawn) else 0.0
        new = [point for point in history.points if point["t"] > last]
        if moved:  # a line now belongs to another app or worker, so its old points must not be mixed with the new ones
            self._source.data = {name: [point[name] for point in history.points] for name in COLUMNS}
        elif new:
            self._source.stream({name: [point[name] for point in new] for name in COLUMNS}, rollover=POINTS)


def _moved(before: list[Any], now: list[Any]) -> bool:
    return before != now[: len(before)]


def _worker_label(node: str, index: int, several: bool) -> str:
    return f"{node[-4:]}/{index}" if several else f"worker {index}"


def _say(place: Div, text: str) -> None:
    if place.text != text:
        place.text = text


def _empty() -> dict[str, list[float]]:
    return {name: [] for name in COLUMNS}


def _text(text: str, name: str | None = None) -> Div:
    styles = InlineStyleSheet(css=CSS)
    return Div(text=text, name=name, sizing_mode="stretch_width", margin=0, stylesheets=[styles], disable_math=True)


def _plot(x_range: DataRange1d, *, log: bool) -> Any:
    y_range = (
        Range1d(start=LATENCIES[0], end=LATENCIES[1])
        if log
        else DataRange1d(start=0, range_padding=0.15, min_interval=1)
    )
    plot: Any = figure(
        height=HEIGHT,
        sizing_mode="stretch_width",
        x_axis_type="datetime",
        y_axis_type="log" if log else "linear",
        x_range=x_range,
        y_range=y_range,
        tools="",
        toolbar_location=None,
        background_fill_alpha=0,
        border_fill_alpha=0,
        outline_line_color=None,
        min_border_left=38,
        min_border_right=8,
        margin=0,
        output_backend="canvas",
    )
    plot.axis.axis_line_color = None
    plot.axis.major_tick_line_color = plot.axis.minor_tick_line_color = None
    plot.axis.major_label_text_color = AXIS
    plot.axis.major_label_text_font_size = "11px"
    plot.xgrid.grid_line_color = None
    plot.ygrid.grid_line_color = GRID
    plot.xaxis.formatter = DatetimeTickFormatter(
        seconds="%H:%M:%S", minsec="%H:%M:%S", minutes="%H:%M", hourmin="%H:%M", hours="%H:%M"
    )
    plot.xaxis.ticker.desired_num_ticks = 4
    plot.yaxis.ticker.desired_num_ticks = 4
    plot.yaxis.formatter = NumeralTickFormatter(format="0,0.[00]")
    return plot
