"""Appends a line to the file named in APP_RUNS each time its code runs: process id, session id."""

import os
from pathlib import Path

from bokeh.io import curdoc
from bokeh.models import Slider
from bokeh.plotting import figure

session_id = curdoc().session_context.id
with Path(os.environ["APP_RUNS"]).open("a") as runs:  # one write of one short line is atomic in append mode
    runs.write(f"{os.getpid()} {session_id}\n")

plot = figure(name="plot", title="untouched", width=300, height=200)
plot.line([0, 1], [0, 1])
curdoc().add_root(plot)
curdoc().add_root(Slider(name="slider", start=0, end=10, value=1))
