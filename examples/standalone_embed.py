"""Serve an app from inside a program that has an event loop, and other things to do on it.

    python examples/standalone_embed.py

The app is at http://localhost:5006/waves, and a page of the program's own at http://localhost:8000. Both run on one
IOLoop: the server starts its timers and services on it and returns at once. With `from bokeh.server.server import
Server` the program does the same.
"""

import os

import numpy as np
from bokeh.layouts import column
from bokeh.models import ColumnDataSource, Slider
from bokeh.plotting import figure
from tornado.ioloop import IOLoop
from tornado.web import Application, RequestHandler

from aperture import Server

APP_PORT = int(os.environ.get("APP_PORT", "5006"))
PAGE_PORT = int(os.environ.get("PAGE_PORT", "8000"))


def waves(document):
    """A sine whose frequency a slider sets."""
    x = np.linspace(0, 10, 300)
    source = ColumnDataSource({"x": x, "y": np.sin(x)})
    plot = figure(title="Waves", name="plot", height=300)
    plot.line("x", "y", source=source)
    frequency = Slider(title="Frequency", name="frequency", start=1, end=5, step=0.5, value=1)

    def update(attr, old, new):
        source.data = {"x": x, "y": np.sin(new * x)}
        plot.title.text = f"{new} Hz"

    frequency.on_change("value", update)
    document.add_root(column(frequency, plot))


class Page(RequestHandler):
    """A page of the program itself, which shows the server's sessions."""

    def get(self):
        self.write(f'<a href="http://localhost:{server.port}/waves">Waves</a>, seen by {len(server.get_sessions())}')


if __name__ == "__main__":
    loop = IOLoop.current()
    server = Server({"/waves": waves}, io_loop=loop, port=APP_PORT)
    server.start()
    Application([("/", Page)]).listen(PAGE_PORT)
    print(f"http://localhost:{server.port}/waves beside http://localhost:{PAGE_PORT}", flush=True)
    server.run_until_shutdown()
