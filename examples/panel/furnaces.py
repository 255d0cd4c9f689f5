"""Furnaces of a glass works: a dashboard by Panel, with a template, a table, a plot that moves, and a chat.

    pip install 'bokeh-aperture[panel]'
    aperture panel examples/panel/furnaces.py --num-procs 2 --durability async --show

Move the slider, note something in the table, ask the chat for a furnace: then kill the worker (`aperture` logs its
number), and go on.
"""

import asyncio
import math
import time

import pandas as pd
import panel as pn
from bokeh.models import ColumnDataSource
from bokeh.plotting import figure

pn.extension("tabulator", template="fast", sizing_mode="stretch_width")

FURNACES = {"North": 1410.0, "South": 1455.0, "Tank": 1520.0}
POINTS = 120


def temperature(name, at):
    """What a furnace has at a time: the same for everybody who looks."""
    base = FURNACES[name]
    return base + 12 * math.sin(at / 9 + base) + 4 * math.sin(at / 2.3)


chosen = pn.widgets.RadioButtonGroup(name="Furnace", options=list(FURNACES), value="Tank")
limit = pn.widgets.FloatSlider(name="Limit (°C)", start=1400, end=1560, value=1530, step=5)
notes = pn.widgets.Tabulator(
    pd.DataFrame({"furnace": list(FURNACES), "note": ["relined in May", "", "new burner"]}),
    show_index=False,
    editors={"furnace": None},
    layout="fit_columns",
)

source = ColumnDataSource({"at": [], "celsius": []})
plot = figure(height=300, x_axis_type="datetime", tools="pan,wheel_zoom,reset", output_backend="webgl")
plot.line("at", "celsius", source=source, line_width=2)
bound = plot.line([], [], line_dash="dashed", line_color="firebrick")
plot.yaxis.axis_label = "°C"


def begin(*_events):
    """Show another furnace, from two minutes ago."""
    now = time.time()
    at = [now - POINTS + second for second in range(POINTS)]
    source.data = {"at": [1000 * t for t in at], "celsius": [temperature(chosen.value, t) for t in at]}
    plot.title.text = chosen.value


def mark(*_events):
    """Draw the limit over all that is shown."""
    at = source.data["at"]
    if len(at):
        bound.data_source.data = {"x": [at[0], at[-1]], "y": [limit.value, limit.value]}


def follow():
    """One second more."""
    now = time.time()
    source.stream({"at": [1000 * now], "celsius": [temperature(chosen.value, now)]}, rollover=POINTS)
    mark()


def verdict(name, most):
    """How a furnace stands to the limit, for the page."""
    found = temperature(name, time.time())
    return pn.pane.Alert(
        f"**{name}**: {found:.0f} °C, {'above' if found > most else 'below'} {most:.0f} °C",
        alert_type="danger" if found > most else "success",
    )


async def answer(contents, user, instance):
    """Say what a furnace has, word by word."""
    asked = [name for name in FURNACES if name.lower() in contents.lower()] or list(FURNACES)
    said = ""
    for name in asked:
        for word in f"{name} has {temperature(name, time.time()):.0f} °C.".split():
            await asyncio.sleep(0.05)
            said = f"{said} {word}".strip()
            yield said


chosen.param.watch(begin, "value")
limit.param.watch(mark, "value")
begin()
mark()
pn.state.add_periodic_callback(follow, period=1000)

pn.state.template.title = "Furnaces"
pn.Column(chosen, limit).servable(target="sidebar")
pn.Column(
    pn.bind(verdict, chosen, limit),
    pn.pane.Bokeh(plot),
    pn.Row(
        pn.Card(notes, title="Notes", collapsible=False),
        pn.Card(
            pn.chat.ChatInterface(callback=answer, height=320, show_rerun=False, show_undo=False, show_clear=False),
            title="Ask",
            collapsible=False,
        ),
    ),
).servable(target="main")
