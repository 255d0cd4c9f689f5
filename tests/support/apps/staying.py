"""Callbacks that wait, and one that never comes back; a script that never ends where the request asks for it."""

import threading
import time

from bokeh.io import curdoc
from bokeh.layouts import column
from bokeh.models import Div, Slider

document = curdoc()
value = Slider(start=0, end=1000, value=0, name="value")
stay = Slider(start=0, end=1000, value=0, name="stay")
said = Div(text="", name="said")


def never_come_back():
    threading.Event().wait()


def compute_for_ever():
    while True:
        pass


def note(attr, old, new):
    said.text = f"{new} in {threading.current_thread().name}"


def wait(attr, old, new):
    said.text = "waiting"
    if new == 1:
        never_come_back()
    elif new == 2:
        compute_for_ever()
    else:
        time.sleep(new / 1000)


if "forever" in (document.session_context.request.arguments if document.session_context.request else {}):
    compute_for_ever()

value.on_change("value", note)
stay.on_change("value", wait)
document.add_root(column(value, stay, said))
document.on_session_destroyed(lambda context: print("destroyed", context.id[:8], flush=True))
