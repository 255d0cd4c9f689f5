"""One callback of each timed kind; a slider removes the periodic one."""

from bokeh.io import curdoc
from bokeh.models import Div, Slider

doc = curdoc()
periodic, timeout, next_tick = Div(name="periodic", text="0"), Div(name="timeout"), Div(name="next_tick")
stop = Slider(name="stop", start=0, end=1, value=0)


def count():
    periodic.text = str(int(periodic.text) + 1)


def late():
    timeout.text = "came"


def soon():
    next_tick.text = "came"


def halt(attr, old, new):
    doc.remove_periodic_callback(counting)


counting = doc.add_periodic_callback(count, 30)
doc.add_timeout_callback(late, 60)
doc.add_next_tick_callback(soon)
stop.on_change("value", halt)
for model in (periodic, timeout, next_tick, stop):
    doc.add_root(model)
