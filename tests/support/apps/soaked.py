"""What the soak's people change: a cell for each, and a log that the app writes of their changes.

All that the app needs is in the document, so that a rebuilt session goes on exactly where it was.
"""

import os
import sys
from pathlib import Path

from bokeh.io import curdoc
from bokeh.layouts import column
from bokeh.models import ColumnDataSource, Div, Slider

CELLS = 4
ROWS = 50
"""Of the log."""
MADE_EVERY = 16
"""Changes of a cell, after which a model is added."""
SHELF = 4


def epoch() -> int:
    """Of the claim that this run belongs to. Apps are not told: it is read from the worker's own frames."""
    frame = sys._getframe()
    while frame is not None and frame.f_code.co_name != "_make":
        frame = frame.f_back
    return 0 if frame is None else frame.f_locals["epoch"]


with Path(os.environ["APP_RUNS"]).open("a") as file:  # one write of one short line is atomic in append mode
    file.write(f"{curdoc().session_context.id} {epoch()} {os.getpid()}\n")

log = ColumnDataSource(name="log", data={"at": [0], "who": [-1], "n": [0]})
notes = ColumnDataSource(name="notes", data={"who": [], "n": []})
shelf = column(name="shelf")
tick = Div(name="tick", text="0")


def written_by(who):
    """The callback of one cell."""

    def write(attr, old, new):
        log.stream({"at": [log.data["at"][-1] + 1], "who": [who], "n": [new]}, rollover=ROWS)
        if new % MADE_EVERY == 0:
            shelf.children = [*shelf.children[1 - SHELF :], Div(name=f"made-{who}-{new}", text=str(new))]

    return write


def beat():
    """An owner that was fenced off would publish this by itself."""
    tick.text = str(int(tick.text) + 1)


cells = [Slider(name=f"cell-{who}", start=0, end=1_000_000_000, value=0) for who in range(CELLS)]
for who, cell in enumerate(cells):
    cell.on_change("value", written_by(who))
curdoc().add_root(column(*cells, tick, shelf))
# Roots of their own: BokehJS makes views of these two only where a glyph shows them.
curdoc().add_root(column(name="sources", tags=[log, notes]))
curdoc().add_periodic_callback(beat, 1000)
