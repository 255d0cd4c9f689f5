"""A Flask site under gunicorn whose worker processes each serve the app, too, from a thread beside Flask.

This is Bokeh's own `flask_gunicorn_embed` with our server in it: where that puts a `BokehTornado` into a `BaseServer`,
here is a `Server` that opens no port, and Tornado's `HTTPServer` over its routes.

    gunicorn -w 2 -b localhost:8000 --chdir examples/embedding flask_gunicorn:page

Each worker has its own port, which its pages name, since a session is in the process that made it. For several nodes,
or for sessions that outlive a worker, let `aperture serve` serve the app and Flask only embed it.
"""

from __future__ import annotations

import asyncio
import atexit
import os
from threading import Thread

from bokeh.document import Document
from bokeh.embed import server_document
from bokeh.layouts import column
from bokeh.models import ColumnDataSource, Slider
from bokeh.plotting import figure
from flask import Flask, render_template_string
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets

from aperture import Server

PAGE = """<!doctype html>
<html lang="en">
  <head>
    <meta charset="utf-8">
    <title>Bokeh in Flask, under gunicorn</title>
    <link rel="icon" href="data:,">
  </head>
  <body>
    <p>The page and the app below it come from process {{ process }}.</p>
    {{ script | safe }}
  </body>
</html>
"""

ORIGIN = os.environ.get("SITE_ORIGIN", "localhost:8000")
"""Where browsers find the pages; the app takes websockets from there."""


def powers(document: Document) -> None:
    """The app."""
    xs = [number / 10 for number in range(21)]
    source = ColumnDataSource({"x": xs, "y": xs})
    plot = figure(height=300, title="x to the power of 1")
    plot.line("x", "y", source=source)
    power = Slider(title="power", start=1, end=5, value=1, name="power")

    def draw(attr: str, old: float, new: float) -> None:
        source.data = {"x": xs, "y": [x**new for x in xs]}
        plot.title.text = f"x to the power of {new}"

    power.on_change("value", draw)
    document.add_root(column(power, plot))


# Gunicorn imports this module in each of its workers, after the fork: each has sockets, a loop and a thread of its own.
sockets = bind_sockets(0, "127.0.0.1")
port = sockets[0].getsockname()[1]
loop = asyncio.new_event_loop()
server = Server({"/powers": powers}, io_loop=loop, listen=False, allow_websocket_origin=[ORIGIN])


def serve() -> None:
    """Serve the app, for as long as the process lives."""
    asyncio.set_event_loop(loop)
    HTTPServer(server.application).add_sockets(sockets)
    server.start()
    loop.run_forever()


Thread(target=serve, daemon=True).start()
atexit.register(server.stop)  # sessions end with their hooks

page = Flask(__name__)


@page.get("/")
def index() -> str:
    script = server_document(f"http://localhost:{port}/powers")
    return render_template_string(PAGE, script=script, process=os.getpid())
