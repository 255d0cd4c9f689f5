"""Greets the visitor by a cookie."""

from bokeh.io import curdoc
from bokeh.models import Div

name = curdoc().session_context.request.cookies.get("name", "nobody")
curdoc().add_root(Div(name="greeting", text=f"hello {name}"))
