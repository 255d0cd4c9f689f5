"""A plot whose code takes as many seconds as BENCH_SLEEP says, as code that queries a database does."""

import os
import time

from bokeh.io import curdoc
from bokeh.plotting import figure

time.sleep(float(os.environ.get("BENCH_SLEEP", "0")))
plot = figure(name="plot", title="drawn")
plot.line([0, 1, 2], [0, 1, 0])
curdoc().add_root(plot)
