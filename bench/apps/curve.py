"""A slider that bends a curve of 200 points and says so: a callback with a data update."""

# ruff: noqa: ARG001  Bokeh decides the arguments of callbacks and hooks

import numpy as np
from bokeh.io import curdoc
from bokeh.models import Column, ColumnDataSource, Div, Slider
from bokeh.plotting import figure

x = np.linspace(0, 4 * np.pi, 200)
source = ColumnDataSource(data={"x": x, "y": np.sin(x)})
plot = figure(height=300, width=400)
plot.line("x", "y", source=source)
slider = Slider(start=0, end=1e9, value=0, name="control")
shown = Div(text="value is 0")


def bend(attr, old, new):
    source.data = {"x": x, "y": np.sin(x + new / 100)}
    shown.text = f"value is {new}."


slider.on_change("value", bend)
curdoc().add_root(Column(slider, shown, plot))
