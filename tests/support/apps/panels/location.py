"""The address of the page: read as the app runs, and kept in step with a widget."""

import panel as pn

pn.extension()
seen = pn.state.location.search
count = pn.widgets.IntSlider(name="count", start=0, end=10, value=1)
pn.state.location.sync(count, {"value": "n"})
pn.Column(f"asked for {seen}", count, pn.bind(lambda n: f"it is {n} now", count)).servable()
