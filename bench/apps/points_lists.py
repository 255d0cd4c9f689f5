"""A plot of 100,000 points in Python lists."""

import numpy as np
from bokeh.io import curdoc
from bokeh.plotting import figure

draw = np.random.default_rng(20_260_101)
x, y = draw.normal(size=100_000).tolist(), draw.normal(size=100_000).tolist()
plot = figure()
plot.scatter(x, y)
curdoc().add_root(plot)
