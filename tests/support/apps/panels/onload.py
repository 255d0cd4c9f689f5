"""What runs when the page is ready."""

import panel as pn

pn.extension()
text = pn.pane.Markdown("waiting")
press = pn.widgets.Button(name="press me")


def fill():
    text.object = "the page is ready"


press.on_click(lambda event: setattr(text, "object", f"pressed {press.clicks} times"))
pn.state.onload(fill)
pn.Column(text, press).servable()
