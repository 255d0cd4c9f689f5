"""A slider, what is bound to it, a button, and a text."""

import panel as pn

pn.extension()
count = pn.widgets.IntSlider(name="count", start=0, end=10, value=1)
press = pn.widgets.Button(name="press me")
pressed = pn.pane.Markdown("pressed 0 times")
name = pn.widgets.TextInput(name="name")


def on_press(event):
    pressed.object = f"pressed {press.clicks} times"


press.on_click(on_press)
pn.Column(
    count,
    pn.bind(lambda n: f"it is {n} now", count),
    press,
    pressed,
    name,
    pn.bind(lambda text: f"hello {text or 'nobody'}", name),
).servable()
