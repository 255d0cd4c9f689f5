"""A DynamicMap of HoloViews, and a plot by hvplot, that follow a slider."""

import holoviews as hv
import hvplot.pandas  # noqa: F401  adds `hvplot` to data frames
import pandas as pd
import panel as pn

pn.extension()
hv.extension("bokeh")

power = pn.widgets.IntSlider(name="power", start=1, end=9, value=2)
frame = pd.DataFrame({"x": range(5), "y": range(5)})


def curve(power):
    return hv.Curve([(x, x**power) for x in range(5)]).opts(title=f"curve {power}", height=150)


def line(power):
    return (frame**power).hvplot.line(x="x", y="y", title=f"line {power}", height=150)


pn.Column(
    power,
    hv.DynamicMap(pn.bind(curve, power)),
    pn.panel(pn.bind(line, power)),
    pn.bind(lambda n: f"power is {n}", power),
).servable()
