"""Takes two seconds to start, counts on, and says which request it sees."""

import time

from bokeh.io import curdoc
from bokeh.models import Div, Slider

time.sleep(2)
document = curdoc()
slider = Slider(name="slider", start=0, end=100, value=0)
seen = Div(name="seen", text="")
ticks = Div(name="ticks", text="0")


def moved(attr, old, new):
    request = document.session_context.request
    seen.text = f"{new} for {request.headers.get('User-Agent')}"


slider.on_change("value", moved)
document.add_periodic_callback(lambda: ticks.update(text=str(int(ticks.text) + 1)), 50)
for model in (slider, seen, ticks):
    document.add_root(model)
