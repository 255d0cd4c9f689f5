"""Panel's own first example: a widget, and what is bound to it."""

import panel as pn

pn.extension()
count = pn.widgets.IntSlider(name="count", start=0, end=10, value=1)
pn.Column(count, pn.bind(lambda n: f"it is {n} now", count)).servable()
