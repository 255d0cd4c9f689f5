"""Streams one row every 50 ms, with rollover at 20."""

from bokeh.io import curdoc
from bokeh.models import ColumnDataSource
from bokeh.plotting import figure

source = ColumnDataSource(name="source", data={"n": [0], "square": [0]})
plot = figure(name="plot", width=300, height=200)
plot.line("n", "square", source=source)
count = 0


def tick():
    global count
    count += 1
    source.stream({"n": [count], "square": [count * count]}, rollover=20)


curdoc().add_root(plot)
curdoc().add_periodic_callback(tick, 50)
