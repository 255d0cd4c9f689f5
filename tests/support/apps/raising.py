"""A slider whose callback changes the document and then raises when it reaches 5."""

from bokeh.io import curdoc
from bokeh.models import Div, Slider

slider = Slider(name="slider", start=0, end=10, value=0)
seen = Div(name="seen", text="nothing")


def follow(attr, old, new):
    seen.text = f"saw {new}"
    if new == 5:
        raise RuntimeError("five is right out")


slider.on_change("value", follow)
curdoc().add_root(slider)
curdoc().add_root(seen)
