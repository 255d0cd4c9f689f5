"""The smallest interactive app: a slider and a text that follows it."""

# ruff: noqa: ARG001  Bokeh decides the arguments of callbacks and hooks

from bokeh.io import curdoc
from bokeh.models import Column, Div, Slider

slider = Slider(start=0, end=1e9, value=0, name="control")
shown = Div(text="value is 0")


def follow(attr, old, new):
    shown.text = f"value is {new}."


slider.on_change("value", follow)
curdoc().add_root(Column(slider, shown))
