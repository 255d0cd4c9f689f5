"""A callback without the document lock, which does slow work beside the session and comes back for the change."""

import asyncio
from functools import partial

from bokeh.document import without_document_lock
from bokeh.io import curdoc
from bokeh.models import Div, Slider

doc = curdoc()
start = Slider(name="start", start=0, end=10, value=0)
other = Slider(name="other", start=0, end=10, value=0)
status = Div(name="status", text="idle")
mirror = Div(name="mirror", text="")
released = asyncio.Event()


def show(text):
    status.text = text


@without_document_lock
async def work():
    # Waits for the other slider, whose callback can only run if no callback holds the lock meanwhile.
    doc.add_next_tick_callback(partial(show, "working"))
    await released.wait()
    doc.add_next_tick_callback(partial(show, "done"))


def begin(attr, old, new):
    doc.add_next_tick_callback(work)


def release(attr, old, new):
    mirror.text = str(new)
    released.set()


start.on_change("value", begin)
other.on_change("value", release)
for model in (start, other, status, mirror):
    doc.add_root(model)
