"""A slider whose callback adds models that no viewer has seen: renderers with their sources, and a text."""

from bokeh.io import curdoc
from bokeh.layouts import column
from bokeh.models import Div, Slider
from bokeh.plotting import figure

plot = figure(name="plot", width=400, height=250)
plot.line([0, 10], [0, 10])
slider = Slider(name="slider", start=0, end=10, value=0, step=1)
page = column(slider, plot, name="page")


def grow(attr, old, new):
    plot.line([0, 10], [new, new], name=f"line{new}")
    page.children.append(Div(name=f"text{new}", text=f"the slider was at {new}"))


slider.on_change("value", grow)
curdoc().add_root(page)
