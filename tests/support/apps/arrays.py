"""A data source of numpy columns, `?points=` long, that a slider scales: everything about binary buffers."""

import numpy as np
from bokeh.io import curdoc
from bokeh.layouts import column
from bokeh.models import ColumnDataSource, Slider
from bokeh.plotting import figure

points = int(curdoc().session_context.request.arguments.get("points", [b"1000"])[0])
x = np.linspace(0, 1, points)
y = np.sin(12 * x)
source = ColumnDataSource(name="source", data={"x": x, "y": y})

plot = figure(name="plot", width=500, height=300)
plot.line("x", "y", source=source)
slider = Slider(name="slider", start=0, end=10, value=1, step=1)


def scale(attr, old, new):
    source.data = {"x": x, "y": y * new}


slider.on_change("value", scale)
curdoc().add_root(column(slider, plot))
