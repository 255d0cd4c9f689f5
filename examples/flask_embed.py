"""A Flask page that makes a Bokeh session its own before it shows it.

For each visitor it pulls a fresh session from a running server, changes the title of the session's plot from the
outside, and embeds that very session into the page. The visitor's browser then talks to the Bokeh server directly;
Flask is not in the way of a slider.

    python examples/flask_embed.py --server http://localhost:5006/sliders --port 8000

The server must accept websockets from this page's origin: `--allow-websocket-origin localhost:8000`. With
`--client bokeh` the same is done by Bokeh's own client.
"""

from __future__ import annotations

import argparse
from importlib import import_module

from bokeh.embed import server_session
from bokeh.models import Plot
from flask import Flask, render_template_string

PAGE = """<!doctype html>
<html lang="en">
  <head>
    <meta charset="utf-8">
    <title>Bokeh in Flask</title>
    <link rel="icon" href="data:,">
    <style>
      body { max-width: 1000px; margin: 40px auto; font-family: system-ui, sans-serif; color: #27313f; }
      p { color: #77808c; }
    </style>
  </head>
  <body>
    <h1>Bokeh in Flask</h1>
    <p>The page is Flask's, the session below it lives on {{ server }}.</p>
    {{ script | safe }}
  </body>
</html>
"""


CLIENTS = {"aperture": "aperture.client", "bokeh": "bokeh.client"}


def create_app(server: str, client: str = "aperture") -> Flask:
    """The Flask application.

    Args:
        server: the URL of a served app that has a plot, e.g. http://localhost:5006/sliders.
        client: whose client pulls the session; nothing else depends on it.
    """
    app = Flask(__name__)
    pull_session = import_module(CLIENTS[client]).pull_session

    @app.get("/")
    def index() -> str:
        with pull_session(url=server) as session:
            plot = session.document.select_one({"type": Plot})
            plot.title.text = "A wave that Flask has named"
            # Wait until the server has applied the change: the browser may ask for the session at once.
            session.force_roundtrip()
            script = server_session(None, session.id, url=server)
        return render_template_string(PAGE, script=script, server=server)

    return app


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", default="http://localhost:5006/sliders", help="URL of the app to embed")
    parser.add_argument("--host", default="localhost", help="address to listen on")
    parser.add_argument("--port", type=int, default=8000, help="port to listen on")
    parser.add_argument("--client", choices=CLIENTS, default="aperture", help="whose client pulls the session")
    options = parser.parse_args()
    create_app(options.server, options.client).run(host=options.host, port=options.port)


if __name__ == "__main__":
    main()
