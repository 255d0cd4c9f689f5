"""A scatter plot, a table and a histogram that share one selection.

Drag a box or a lasso over the points and the same rows light up in the table; click rows in the table and the same
points light up in the plot. That much happens in the browser, because plot and table share one data source. The
summary and the histogram are drawn by a Python callback on `source.selected.indices`.
"""

import numpy as np
from bokeh.io import curdoc
from bokeh.layouts import column, row
from bokeh.models import ColumnDataSource, DataTable, Div, NumberFormatter, Slider, TableColumn
from bokeh.plotting import figure
from bokeh.transform import factor_cmap

KINDS = ("tern", "plover", "heron")
COLOURS = ("#3b6fb6", "#e4b363", "#d1495b")
CENTRES = np.array([[37.0, 118.0], [25.5, 182.0], [58.0, 1450.0]])  # wing in cm, weight in g
SPREADS = np.array([[1.9, 12.0], [1.6, 19.0], [3.2, 130.0]])
EACH = 60

rng = np.random.default_rng(17)
birds = np.concatenate([rng.normal(c, s, (EACH, 2)) for c, s in zip(CENTRES, SPREADS, strict=True)])
source = ColumnDataSource(
    name="birds",
    data={
        "ring": [f"A{number:03d}" for number in range(len(birds))],
        "kind": np.repeat(KINDS, EACH).tolist(),
        "wing": birds[:, 0].round(1),
        "weight": birds[:, 1].round(0),
    },
)

scatter = figure(
    name="scatter",
    title="Ringed birds: drag over some of them",
    width=560,
    height=400,
    tools="box_select,lasso_select,tap,reset",
    active_drag="box_select",
    x_axis_label="wing, cm",
    y_axis_label="weight, g",
    y_axis_type="log",
)
scatter.scatter(
    "wing",
    "weight",
    source=source,
    size=9,
    color=factor_cmap("kind", COLOURS, KINDS),
    alpha=0.75,
    line_color="white",
    nonselection_alpha=0.12,
    legend_group="kind",
)
scatter.yaxis.ticker = [100, 200, 500, 1000, 2000]
scatter.legend.location = "top_left"
scatter.toolbar.logo = None

table = DataTable(
    name="table",
    source=source,
    width=420,
    height=400,
    index_position=None,
    selectable="checkbox",
    reorderable=False,
    columns=[
        TableColumn(field="ring", title="Ring"),
        TableColumn(field="kind", title="Kind"),
        TableColumn(field="wing", title="Wing, cm", formatter=NumberFormatter(format="0.0")),
        TableColumn(field="weight", title="Weight, g", formatter=NumberFormatter(format="0")),
    ],
)

bars = ColumnDataSource(name="bars", data={"left": [], "right": [], "everyone": [], "chosen": []})
histogram = figure(
    name="histogram", title="Wing lengths", width=560, height=200, tools="", toolbar_location=None, x_axis_label="cm"
)
histogram.quad("left", "right", "everyone", 0, source=bars, color="#dfe4ea", line_color="white")
histogram.quad("left", "right", "chosen", 0, source=bars, color="#3b6fb6", line_color="white")
histogram.y_range.start = 0

bins = Slider(name="bins", title="Bars in the histogram", start=5, end=60, step=1, value=24, width=400)
summary = Div(name="summary", width=400)


def describe(chosen: np.ndarray) -> str:
    if not len(chosen):
        return f"<b>Nothing selected</b><br>{len(birds)} birds in all"
    wing, weight = birds[chosen].mean(axis=0)
    return f"<b>{len(chosen)} of {len(birds)} selected</b><br>mean wing {wing:.1f} cm, mean weight {weight:.0f} g"


def refresh(attr, old, new):
    chosen = np.array(source.selected.indices, dtype=int)
    edges = np.linspace(birds[:, 0].min(), birds[:, 0].max(), bins.value + 1)
    bars.data = {
        "left": edges[:-1],
        "right": edges[1:],
        "everyone": np.histogram(birds[:, 0], edges)[0],
        "chosen": np.histogram(birds[chosen, 0], edges)[0],
    }
    summary.text = describe(chosen)


source.selected.on_change("indices", refresh)
bins.on_change("value", refresh)
refresh("indices", [], [])

curdoc().add_root(
    column(
        row(scatter, table, spacing=24),
        row(histogram, column(summary, bins, spacing=12), spacing=24),
        spacing=16,
        margin=24,
    )
)
curdoc().title = "Selection"
