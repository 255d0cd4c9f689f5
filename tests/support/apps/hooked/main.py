"""A directory app with a theme and hooks, which asks for nothing of its visitor; it notes each of its runs."""

import os
from pathlib import Path

from bokeh.io import curdoc
from bokeh.layouts import column
from bokeh.models import Slider
from bokeh.plotting import figure

plot = figure(name="plot", width=300, height=200)
plot.line([0, 1], [0, 1])
curdoc().add_root(column(plot, Slider(name="slider", start=0, end=100, value=0)))
with Path(os.environ["HOOKS"]).open("a") as hooks:
    hooks.write(f"made {curdoc().session_context.id} {os.getpid()}\n")
