"""Widgets of panel-material-ui."""

import panel as pn
import panel_material_ui as pmu

pn.extension()
press = pmu.Button(label="press me")
text = pmu.Typography("pressed 0 times")
press.on_click(lambda event: setattr(text, "object", f"pressed {press.clicks} times"))
pmu.Page(title="material app", main=[pmu.Column(press, text)]).servable()
