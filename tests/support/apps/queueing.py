"""A slider whose callback takes 5 ms and notes in TURNS, a file, who moved it; at 1 it waits for the file GATE."""

import os
import time
from pathlib import Path

from bokeh.io import curdoc
from bokeh.models import Slider

who = curdoc().session_context.request.arguments["who"][0].decode()
slider = Slider(name="slider", start=0, end=1000, value=0)


def take_turn(attr, old, new):
    while new == 1 and not Path(os.environ["GATE"]).exists():
        time.sleep(0.001)
    time.sleep(0.005)
    with Path(os.environ["TURNS"]).open("a") as turns:
        turns.write(who)


slider.on_change("value", take_turn)
curdoc().add_root(slider)
