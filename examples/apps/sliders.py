"""A sine wave that follows four sliders, under a title that follows a text input.

The smallest interactive app there is: a widget changes in the browser, a Python callback runs in the session, and what
it changes in the document travels back to the page.
"""

import numpy as np
from bokeh.io import curdoc
from bokeh.layouts import column, row
from bokeh.models import ColumnDataSource, Slider, TextInput
from bokeh.plotting import figure

POINTS = 400

x = np.linspace(0, 4 * np.pi, POINTS)
source = ColumnDataSource(data={"x": x, "y": np.sin(x)}, name="wave")

plot = figure(
    name="plot",
    title="A sine wave",
    width=640,
    height=420,
    x_range=(0, 4 * np.pi),
    y_range=(-3, 3),
    tools="crosshair,pan,reset,save,wheel_zoom",
)
plot.varea("x", 0, "y", source=source, color="#3b6fb6", alpha=0.12)
plot.line("x", "y", source=source, line_width=3, color="#3b6fb6")
plot.title.text_font_size = "16px"
plot.toolbar.logo = None

title = TextInput(name="title", title="Title", value="A sine wave")
offset = Slider(name="offset", title="Offset", value=0.0, start=-2.0, end=2.0, step=0.1)
amplitude = Slider(name="amplitude", title="Amplitude", value=1.0, start=-2.5, end=2.5, step=0.1)
phase = Slider(name="phase", title="Phase", value=0.0, start=0.0, end=6.3, step=0.1)
frequency = Slider(name="frequency", title="Frequency", value=1.0, start=0.1, end=5.0, step=0.1)


def retitle(attr, old, new):
    plot.title.text = new


def redraw(attr, old, new):
    wave = offset.value + amplitude.value * np.sin(frequency.value * x + phase.value)
    source.data = {"x": x, "y": wave}


title.on_change("value", retitle)
for slider in (offset, amplitude, phase, frequency):
    slider.on_change("value", redraw)

controls = column(title, offset, amplitude, phase, frequency, width=260)
curdoc().add_root(row(controls, plot, spacing=24, margin=24))
curdoc().title = "Sliders"
