"""An app whose code takes two seconds, as one that loads its data does: a slider and a plot."""

import time

from bokeh.io import curdoc
from bokeh.models import Column, Slider
from bokeh.plotting import figure

time.sleep(2)
plot = figure(width=300, height=200)
plot.line([0, 1], [0, 1])
curdoc().add_root(Column(Slider(start=0, end=10, value=0), plot))
