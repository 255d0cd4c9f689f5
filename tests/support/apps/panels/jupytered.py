"""Widgets of Jupyter, by ipywidgets, in both directions."""

import ipywidgets
import panel as pn

pn.extension("ipywidgets")

size = ipywidgets.IntSlider(description="size", value=2, min=1, max=9)
button = ipywidgets.Button(description="press me")
shown = pn.pane.Str("size is 2")


def press(_):
    size.value += 3


def follow(change):
    shown.object = f"size is {change.new}"


button.on_click(press)
size.observe(follow, "value")
pn.Column(size, button, shown).servable()
