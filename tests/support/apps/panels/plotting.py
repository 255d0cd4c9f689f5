"""Plots of what Panel bundles and Bokeh has not."""

import panel as pn

pn.extension("vega", "echarts", "plotly")
count = pn.widgets.IntSlider(name="count", start=1, end=10, value=2)


def vega(n):
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v5.json",
        "data": {"values": [{"a": str(i), "b": i * n} for i in range(3)]},
        "mark": "bar",
        "encoding": {"x": {"field": "a", "type": "nominal"}, "y": {"field": "b", "type": "quantitative"}},
    }


def echarts(n):
    return {
        "title": {"text": f"chart {n}"},
        "xAxis": {"data": ["a", "b"]},
        "yAxis": {},
        "series": [{"type": "bar", "data": [1, n]}],
    }


pn.Column(
    count,
    pn.pane.Vega(pn.bind(vega, count), height=150),
    pn.pane.ECharts(pn.bind(echarts, count), height=150, width=300, renderer="svg"),
).servable()
