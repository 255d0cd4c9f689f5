"""A pane that is made when the page is ready, and follows a widget then."""

import panel as pn

pn.extension(defer_load=True)
count = pn.widgets.IntSlider(name="count", start=0, end=10, value=1)
pn.Column(count, pn.bind(lambda n: f"deferred {n}", count)).servable()
