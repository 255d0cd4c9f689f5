"""A template of Panel's with nine widgets, a table and a pane that is bound to them."""

import pandas as pd
import panel as pn

pn.extension("tabulator")

sliders = [pn.widgets.FloatSlider(name=f"factor {number}", start=0, end=10, value=number) for number in range(5)]
name = pn.widgets.TextInput(name="name", value="Ada")
choice = pn.widgets.Select(name="choice", options=["one", "two", "three"])
wanted = pn.widgets.Checkbox(name="wanted", value=True)
button = pn.widgets.Button(name="press")
table = pn.widgets.Tabulator(pd.DataFrame({"x": range(20), "y": range(20)}))


def words(*values):
    """What the widgets say."""
    return f"**{values}**"


pn.template.FastListTemplate(
    title="A form",
    sidebar=[*sliders, name, choice, wanted, button],
    main=[pn.bind(words, *sliders, name, choice, wanted), table],
).servable()
