"""A source that clients stream rows into, and a callback that says how many there are."""

from bokeh.io import curdoc
from bokeh.models import Column, ColumnDataSource, Div

rows = ColumnDataSource({"x": []}, name="rows")
count = Div(name="count", text="0")
rows.on_change("data", lambda attr, old, new: count.update(text=str(len(new["x"]))))
curdoc().add_root(Column(count, name="holder", tags=[rows]))
