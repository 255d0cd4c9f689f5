"""A directory app with a theme, a template that asks for its root by name, and a static file."""

from bokeh.io import curdoc
from bokeh.plotting import figure

plot = figure(name="plot", width=300, height=200)
plot.line([0, 1], [0, 1])
curdoc().add_root(plot)
curdoc().template_variables["greeting"] = "hello from main.py"
