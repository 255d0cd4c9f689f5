"""A slider that everybody follows, and a text as long as the slider says, to fill sockets with."""

from bokeh.io import curdoc
from bokeh.models import Div, Slider

slider = Slider(name="slider", start=0, end=1_000_000, value=0)
seen = Div(name="seen", text="0")
filler = Div(name="filler", text="")


def follow(attr, old, new):
    seen.text = str(new)
    filler.text = "x" * 20_000 + str(new)


slider.on_change("value", follow)
for model in (slider, seen, filler):
    curdoc().add_root(model)
