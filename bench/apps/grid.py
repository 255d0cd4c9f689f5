"""Four plots with sliders above them: 160 models or so."""

import numpy as np
from bokeh.io import curdoc
from bokeh.layouts import column, gridplot, row
from bokeh.models import ColumnDataSource, Slider
from bokeh.plotting import figure

x = np.linspace(0, 4 * np.pi, 200)
sliders = [Slider(start=0, end=10, value=number, title=f"factor {number}") for number in range(4)]
plots = []
for slider in sliders:
    source = ColumnDataSource(data={"x": x, "y": np.sin(x * slider.value)})
    plot = figure(height=200, width=300)
    plot.line("x", "y", source=source)
    plots.append(plot)
curdoc().add_root(column(row(sliders), gridplot(plots, ncols=2)))
