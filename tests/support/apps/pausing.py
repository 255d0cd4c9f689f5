"""A slider whose document a button holds and another lets go; what happens meanwhile is held with it.

`step` adds a row and a text, and makes the text of the input the document's title."""

from bokeh.io import curdoc
from bokeh.models import Button, Column, ColumnDataSource, Div, Slider, TextInput

from aperture import session_state

doc = curdoc()
slider = Slider(name="slider", start=0, end=100, value=0)
text = TextInput(name="text", value="")
rows = ColumnDataSource({"x": [0]}, name="rows")
added = Column(name="added", children=[], tags=[rows])
pause, step, resume = (Button(name=name) for name in ("pause", "step", "resume"))


def add():
    doc.title = text.value
    session_state(doc)["title"] = text.value
    rows.stream({"x": [len(rows.data["x"])]})
    added.children = [*added.children, Div(text=str(len(added.children)))]


pause.on_click(lambda: doc.hold("collect"))
step.on_click(add)
resume.on_click(doc.unhold)
doc.add_root(Column(slider, text, added, pause, step, resume))
