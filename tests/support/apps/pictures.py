"""Pictures of 1.5 MB: so many, one behind the other in next-tick callbacks, or one a second."""

import numpy as np
from bokeh.io import curdoc
from bokeh.models import Column, ColumnDataSource, Div, Slider

SIZE = 1_500_000

burst = Slider(name="burst", start=0, end=1000, value=0)
stream = Slider(name="stream", start=0, end=1000, value=0)
picture = ColumnDataSource(name="picture", data={"number": [0], "pixels": [np.zeros(1, np.uint8)]})
shown = Div(name="shown", text="0")
titles = Column(name="titles")
document = curdoc()


def show(number):
    pixels = np.frombuffer(np.random.default_rng(number).bytes(SIZE), np.uint8)
    picture.data = {"number": [number], "pixels": [pixels]}
    titles.children = [*titles.children[-1:], Div(text=f"picture {number}")]
    shown.text = str(number)


def begin_burst(attr, old, new):
    def step(number):
        show(number)
        if number < new:
            document.add_next_tick_callback(lambda: step(number + 1))

    document.add_next_tick_callback(lambda: step(1))


def begin_stream(attr, old, new):
    numbers = iter(range(1, new + 1))

    def step():
        number = next(numbers, None)
        if number is None:
            document.remove_periodic_callback(timer)
        else:
            show(number)

    timer = document.add_periodic_callback(step, 1000)


burst.on_change("value", begin_burst)
stream.on_change("value", begin_stream)
for model in (burst, stream, picture, shown, titles):
    document.add_root(model)
