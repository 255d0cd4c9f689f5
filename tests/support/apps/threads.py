"""Threads that hand their results to the document with `add_next_tick_callback`, the one call that threads may make."""

import threading
from functools import partial

from bokeh.io import curdoc
from bokeh.models import Div, Slider

THREADS = 8

doc = curdoc()
start = Slider(name="start", start=0, end=10, value=0)
finished = Div(name="finished", text="0")


def one_more(thread):
    finished.text = str(int(finished.text) + 1)


def begin(attr, old, new):
    for number in range(THREADS):
        threading.Thread(target=lambda n=number: doc.add_next_tick_callback(partial(one_more, n))).start()


start.on_change("value", begin)
doc.add_root(start)
doc.add_root(finished)
