"""An app in a folder, with static files."""

import panel as pn

pn.extension()
count = pn.widgets.IntSlider(name="count", start=0, end=10, value=1)
pn.Column(
    count,
    pn.bind(lambda n: f"it is {n} now", count),
    pn.pane.HTML('<img src="folder/static/dot.svg" alt="dot">'),
).servable()
