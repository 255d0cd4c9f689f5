"""Defines classes of its own, of each kind that Bokeh keeps a table of."""

from bokeh.core.has_props import HasProps
from bokeh.core.properties import Int
from bokeh.io import curdoc
from bokeh.model import DataModel
from bokeh.models import Div


class Point(DataModel):
    x = Int(default=1)


class Loud(Div):
    pass


class Plain(HasProps):
    pass


curdoc().add_root(Div(name="text", text="text", tags=[Point(x=2)]))
