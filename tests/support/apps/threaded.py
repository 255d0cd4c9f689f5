"""Changes from viewers, events, timers and threads of the app's own; some are slow."""

import random
import threading
import time
from functools import wraps

from bokeh.events import ButtonClick
from bokeh.io import curdoc
from bokeh.layouts import column
from bokeh.models import Button, ColumnDataSource, Div, Slider

document = curdoc()
first = Slider(start=0, end=1e9, value=0, name="first")
second = Slider(start=0, end=1e9, value=0, name="second")
total = Div(text="0", name="total")
button = Button(name="button")
clicks = Slider(start=0, end=1e9, value=0, name="clicks")
left = Slider(start=0, end=1e9, value=0, name="left")
done = Slider(start=0, end=1e9, value=0, name="done")
ticks = ColumnDataSource(data={"n": []}, name="ticks")
quiet = Slider(start=0, end=1, value=0, name="quiet")
inside = 0


def alone(func):
    """Nothing else of the session runs at the same time, and the session is its own."""

    @wraps(func)
    def checked(*args):
        global inside
        assert inside == 0, "two callbacks of one session at a time"
        assert curdoc() is document, "another session's document"
        inside += 1
        try:
            return func(*args)
        finally:
            inside -= 1

    return checked


@alone
def add(attr, old, new):
    if random.random() < 0.05:
        time.sleep(random.random() * 0.05)
    total.text = str(first.value + second.value)


@alone
def click(event):
    clicks.value += 1
    if clicks.value % 7 == 0:
        left.value += 1
        threading.Thread(target=lambda: document.add_next_tick_callback(come_back)).start()
    elif clicks.value % 11 == 0:
        document.add_timeout_callback(tick, random.randrange(20))


@alone
def come_back():
    done.value += 1


@alone
def tick():
    if not quiet.value:
        ticks.stream({"n": [clicks.value]}, rollover=20)


first.on_change("value", add)
second.on_change("value", add)
button.on_event(ButtonClick, click)
document.add_periodic_callback(tick, 1000)
document.add_root(column(first, second, total, button, clicks, left, done, quiet))
document.add_root(Div(name="holder", tags=[ticks]))
