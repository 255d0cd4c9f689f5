"""Holds its document's events while a slider's callback changes one thing several times; `?hold=` names the policy."""

from bokeh.io import curdoc
from bokeh.models import Div, Slider

doc = curdoc()
policy = doc.session_context.request.arguments.get("hold", [b"combine"])[0].decode()
slider = Slider(name="slider", start=0, end=10, value=0)
first, second = Div(name="first", text="0"), Div(name="second", text="0")


def repeat(attr, old, new):
    doc.hold(policy)
    for step in range(1, new + 1):
        first.text = str(step)
        second.text = str(step * 10)
    doc.unhold()


slider.on_change("value", repeat)
for model in (slider, first, second):
    doc.add_root(model)
