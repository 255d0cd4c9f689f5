"""A script that defines model classes of its own, and makes more of them as it goes."""

from bokeh.core.properties import Instance, Int, List
from bokeh.io import curdoc
from bokeh.model import DataModel
from bokeh.models.widgets import Div, Slider


class Point(DataModel):
    x = Int(0)


class Path(DataModel):
    points = List(Instance(Point))


path = Path(name="path", points=[Point(x=0)])
slider = Slider(name="slider", start=0, end=100, value=0)
seen = Div(name="seen", text="0")


def go(attr: str, old: int, new: int) -> None:
    """Add a point, and say which there are."""
    path.points = [*path.points, Point(x=new)]
    seen.text = " ".join(str(point.x) for point in path.points)


slider.on_change("value", go)
for root in (path, slider, seen):
    curdoc().add_root(root)
