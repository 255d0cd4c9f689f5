"""Tabs that are made when they are looked at, and a pane of parameters."""

import panel as pn
import param

pn.extension()


class Settings(param.Parameterized):
    level = param.Integer(default=2, bounds=(0, 10))
    label = param.String(default="first label")


settings = Settings()
pn.Tabs(
    ("parameters", pn.Column(pn.Param(settings), pn.bind(lambda n: f"label {n}", settings.param.label))),
    ("second", pn.pane.Markdown("the second tab")),
    dynamic=True,
).servable()
