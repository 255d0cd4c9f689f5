"""The same as a folder whose hooks import Panel before the app is built."""

import panel as pn

pn.extension()
count = pn.widgets.IntSlider(name="count", start=0, end=10, value=1)
pn.Column(count, pn.bind(lambda n: f"it is {n} now", count)).servable()
