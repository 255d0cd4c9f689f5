"""A slider that a text follows through Python; counts the runs of its code in APP_RUNS, if that is set."""

import os
from pathlib import Path

from bokeh.io import curdoc
from bokeh.layouts import column
from bokeh.models import Div, Slider
from bokeh.plotting import figure

if runs := os.environ.get("APP_RUNS"):
    with Path(runs).open("a") as file:  # one write of one short line is atomic in append mode
        file.write(f"{os.getpid()} {curdoc().session_context.id}\n")

plot = figure(name="plot", title="untouched", width=300, height=200)
line = plot.line([0, 1], [0, 0])
line.data_source.name = "source"
slider = Slider(name="slider", start=0, end=1_000_000, value=0)
seen = Div(name="seen", text="0")


def follow(attr, old, new):
    seen.text = str(new)
    line.data_source.data = {"x": [0, 1], "y": [0, new]}


slider.on_change("value", follow)
curdoc().add_root(column(slider, seen, plot))
