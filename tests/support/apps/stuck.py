"""A slider that, moved to 1, keeps its worker's event loop until the file that the request names is there."""

import time
from pathlib import Path

from bokeh.io import curdoc
from bokeh.models import Slider

slider = Slider(name="slider", start=0, end=10, value=0)
until = curdoc().session_context.request.arguments.get("until", [b""])[0].decode()


def stick(attr, old, new):
    while not Path(until).exists():
        time.sleep(0.02)


slider.on_change("value", stick)
curdoc().add_root(slider)
