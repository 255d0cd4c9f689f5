"""An app as slow, and as broken, as its files say: EARLY_GATE is waited for, EARLY_FAILS makes it raise.

Counts its runs in APP_RUNS. With EARLY_TEMPLATE it has a page of its own.
"""

import os
import time
from pathlib import Path

from bokeh.io import curdoc
from bokeh.layouts import column
from bokeh.models import Div, Slider
from bokeh.plotting import figure


def there(name):
    return name in os.environ and Path(os.environ[name]).exists()


if runs := os.environ.get("APP_RUNS"):
    with Path(runs).open("a") as file:  # one write of one short line is atomic in append mode
        file.write(f"{os.getpid()} {curdoc().session_context.id}\n")

while there("EARLY_GATE"):
    time.sleep(0.01)

if there("EARLY_FAILS"):
    raise RuntimeError("no such file: the app cannot work today")

if there("EARLY_TEMPLATE"):
    curdoc().template = "{% block contents %}<h1 id='own'>My own page</h1>{{ super() }}{% endblock %}"

plot = figure(name="plot", title="untouched", width=300, height=200)
plot.line([0, 1], [0, 1])
slider = Slider(name="slider", start=0, end=1_000_000, value=0)
seen = Div(name="seen", text="0")


def follow(attr, old, new):
    seen.text = str(new)


slider.on_change("value", follow)
curdoc().add_root(column(slider, seen, plot))
curdoc().title = "Early at last"
