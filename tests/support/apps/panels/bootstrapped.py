"""The template that `pn.extension` names."""

import panel as pn

pn.extension(template="bootstrap")
pn.state.template.title = "bootstrapped app"
count = pn.widgets.IntSlider(name="count", start=0, end=10, value=1).servable(target="sidebar")
pn.Column(pn.bind(lambda n: f"it is {n} now", count)).servable(target="main")
