"""Plots of other libraries: of matplotlib, of Plotly and of Altair."""

import altair
import pandas as pd
import panel as pn
import plotly.graph_objects as go
from matplotlib.figure import Figure

pn.extension("plotly", "vega")

count = pn.widgets.IntSlider(name="count", start=1, end=10, value=2)


def picture(n):
    figure = Figure(figsize=(2, 1))
    figure.subplots().plot([0, n])
    return pn.pane.Matplotlib(figure, alt_text=f"picture {n}", height=100)


def plotly(n):
    return go.Figure(go.Bar(x=["a", "b"], y=[1, n]), layout={"title": {"text": f"bars {n}"}, "height": 250})


def vega(n):
    frame = pd.DataFrame({"a": ["x", "y"], "b": [1, n]})
    return altair.Chart(frame, title=f"chart {n}").mark_bar().encode(x="a", y="b")


pn.Column(
    count,
    pn.panel(pn.bind(picture, count)),
    pn.pane.Plotly(pn.bind(plotly, count)),
    pn.pane.Vega(pn.bind(vega, count)),
    pn.bind(lambda n: f"count is {n}", count),
).servable()
