"""A slider whose callback keeps the worker's event loop for as many seconds as the slider says."""

import time

from bokeh.io import curdoc
from bokeh.models import Div, Slider

slider = Slider(name="slider", start=0, end=60, value=0)
seen = Div(name="seen", text="awake")


def sleep(attr, old, new):
    time.sleep(new)
    seen.text = f"slept {new}"


slider.on_change("value", sleep)
curdoc().add_root(slider)
curdoc().add_root(seen)
