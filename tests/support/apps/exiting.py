"""Leaves where its request, or a viewer, says so: what ends a program must not end the server."""

import asyncio
import sys

from bokeh.io import curdoc
from bokeh.models import Div, Slider
from tornado.ioloop import IOLoop

document = curdoc()
request = document.session_context.request
if request is None or "stay" not in request.arguments:
    sys.exit(3)

value = Slider(start=0, end=10, value=0, name="value")
value.on_change("value", lambda attr, old, new: sys.exit(4) if new == 9 else None)
leaving = []


async def leave():
    sys.exit(5)


async def begin_to_leave():
    leaving.append(asyncio.create_task(leave()))


def leave_later(attr, old, new):
    if new == 8:
        document.add_next_tick_callback(begin_to_leave)
    elif new == 7:
        IOLoop.current().add_callback(sys.exit, 6)
    elif new == 6:
        IOLoop.current().add_callback(IOLoop.current().stop)


value.on_change("value", leave_later)
document.add_root(value)
document.add_root(Div(name="said"))
