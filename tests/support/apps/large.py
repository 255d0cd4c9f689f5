"""A document of so many megabytes as the request says, and patches of so many as the slider says."""

import numpy as np
from bokeh.io import curdoc
from bokeh.layouts import column
from bokeh.models import ColumnDataSource, Div, FileInput, Slider

VALUES = 2**17  # float64 of one megabyte

arguments = curdoc().session_context.request.arguments
megabytes = int(arguments.get("megabytes", [b"0"])[0])

columns = {f"x{number}": np.full(10 * VALUES, float(number)) for number in range(megabytes // 10)}
stored = ColumnDataSource(columns, name="stored")
shown = ColumnDataSource({"y": np.zeros(0)}, name="shown")
count = Div(name="count", text="0")
upload = FileInput(name="upload")
slider = Slider(name="slider", start=0, end=100, value=0)
small = Slider(name="small", start=0, end=1_000_000, value=0)


def change(attr, old, new):
    shown.data = {"y": np.full(new * VALUES, float(new))}


def uploaded(attr, old, new):
    count.text = str(len(new))


slider.on_change("value", change)
upload.on_change("value", uploaded)
for root in (column(slider, small, count, upload), stored, shown):
    curdoc().add_root(root)
