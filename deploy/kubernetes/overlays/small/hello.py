"""A slider and a curve, to see that everything works."""

import numpy as np
from bokeh.layouts import column
from bokeh.models import ColumnDataSource, Slider
from bokeh.plotting import curdoc, figure

x = np.linspace(0, 10, 200)
source = ColumnDataSource({"x": x, "y": np.sin(x)})
frequency = Slider(title="frequency", start=0.1, end=5, step=0.1, value=1)


def redraw(attr: str, old: float, new: float) -> None:  # noqa: ARG001 - Bokeh decides the arguments
    """Draw the curve of the frequency that the slider shows."""
    source.data = {"x": x, "y": np.sin(x * new)}


frequency.on_change("value", redraw)
plot = figure(height=300, sizing_mode="stretch_width")
plot.line("x", "y", source=source)
curdoc().add_root(column(frequency, plot, sizing_mode="stretch_width"))
curdoc().title = "Hello"
