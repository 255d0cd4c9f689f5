"""A producer in the server: changes a document again and again, each change under a hold of the lock of its own.

A viewer writes "KIND:COUNT:MARKER" into the text input; the marker is what is changed last. Around it stands what a
usual app has, two plots and some widgets, because stock Bokeh looks at every model of a document for each patch.
"""

# ruff: noqa: ARG001  Bokeh decides the arguments of callbacks and hooks

import random

from bokeh.io import curdoc
from bokeh.models import ColumnDataSource, Div, Slider, TextInput
from bokeh.plotting import figure

ROWS = 1_000
draw = random.Random(20_260_101)
batches = [{name: [round(draw.random(), 6) for _ in range(ROWS)] for name in ("x", "y", "z")} for _ in range(4)]

doc = curdoc()
control = TextInput(name="control")
number = Slider(start=0, end=1e9, value=0)
done = Div()
source = ColumnDataSource(data={"x": [], "y": [], "z": []}, name="source")
plots = [figure(height=300, width=400) for _ in range(2)] if "alone" not in doc.session_context.id else []
for plot in plots:
    plot.line([1, 2, 3], [3, 1, 2])


def change(kind, left):
    if kind.startswith("small"):
        number.value = left
    else:
        source.stream(batches[left % len(batches)], rollover=ROWS)


def produce(attr, old, new):
    kind, count, marker = new.split(":")
    left = int(count)

    def step():
        nonlocal left
        if left == 0:
            done.text = marker
            return
        change(kind, left)
        left -= 1
        doc.add_next_tick_callback(step)

    doc.add_next_tick_callback(step)


control.on_change("value", produce)
for root in (control, number, done, source, *plots):
    doc.add_root(root)
