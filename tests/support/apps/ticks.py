"""Sixty next ticks from the app's code, a callback and threads of the app, each of which writes its number."""

import threading
from functools import partial

from bokeh.io import curdoc
from bokeh.models import Div, Slider

TICKS = 60

doc = curdoc()
start = Slider(name="start", start=0, end=10, value=0)


def shown(name):
    div = Div(name=name)
    doc.add_root(div)
    return div


def note(div, number):
    div.text = f"{div.text} {number}".strip()


def add(div):
    for number in range(TICKS):
        doc.add_next_tick_callback(partial(note, div, number))


callback, early, late = shown("callback"), shown("early"), shown("late")


def begin(attr, old, new):
    add(callback)
    threading.Thread(target=add, args=(late,)).start()


start.on_change("value", begin)
doc.add_root(start)
add(shown("code"))
threading.Thread(target=add, args=(early,)).start()
