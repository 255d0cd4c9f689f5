"""A plot that is replaced whenever "rebuild" moves, and a state that is a cycle of its own, as in many dashboards.

Whenever "ask" moves, "alive" says how many states and plots of all sessions of this process there are.
"""

import sys
from types import ModuleType
from weakref import WeakSet

import numpy as np
from bokeh.io import curdoc
from bokeh.models import Column, Div, Slider
from bokeh.plotting import figure

# The app's own module is another one for each session.
census = sys.modules.setdefault("rebuilding_census", ModuleType("rebuilding_census"))
states, plots = (census.__dict__.setdefault(name, WeakSet()) for name in ("states", "plots"))


class State:
    def __init__(self):
        self.rows = np.ones(100_000)
        self.itself = self


def new_plot():
    plot = figure(width=300, height=200)
    plot.line([0, 1], [0, 1])
    plots.add(plot)
    return plot


def count(attr, old, new):
    alive.text = f"{len(states)} {len(plots)}"


def replace(attr, old, new):
    column.children = [new_plot()]


state = State()
states.add(state)
column = Column(new_plot())
rebuild = Slider(name="rebuild", start=0, end=1_000_000, value=0)
ask = Slider(name="ask", start=0, end=1_000_000, value=0)
alive = Div(name="alive")
rebuild.on_change("value", replace)
ask.on_change("value", count)
for model in (column, rebuild, ask, alive):
    curdoc().add_root(model)
