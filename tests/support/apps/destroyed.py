"""Appends a line to the file named in APP_RUNS when its session is destroyed."""

from bokeh.io import curdoc
from bokeh.models import Div


def gone(context):
    # Stock Bokeh empties the app's module before it calls this, so nothing global is left to be used.
    import os
    from pathlib import Path

    with Path(os.environ["APP_RUNS"]).open("a") as runs:
        runs.write(f"destroyed {context.id}\n")


curdoc().add_root(Div(name="text", text="here"))
curdoc().on_session_destroyed(gone)
