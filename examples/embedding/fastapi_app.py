"""A FastAPI page that is the only way to an app: this program decides who gets in, and to which session.

The server accepts only signed session ids and makes none itself. This program has the key, asks visitors for a password
and gives each a session of their own. The id travels in a header, so that it is in no URL and in no log.

    export BOKEH_SECRET_KEY=…     # the same for both; `bokeh secret` makes one
    aperture serve examples/apps/sliders.py --session-ids external-signed --allow-websocket-origin localhost:8000
    SITE_PASSWORD=… python examples/embedding/fastapi_app.py --server http://localhost:5006/sliders --port 8000
"""

from __future__ import annotations

import argparse
import os
import secrets
from html import escape
from typing import Annotated

import uvicorn
from bokeh.embed import server_session
from bokeh.util.token import generate_session_id
from fastapi import Depends, FastAPI, HTTPException
from fastapi.responses import HTMLResponse
from fastapi.security import HTTPBasic, HTTPBasicCredentials

PAGE = """<!doctype html>
<html lang="en">
  <head>
    <meta charset="utf-8">
    <title>Bokeh in FastAPI</title>
    <link rel="icon" href="data:,">
    <style>
      body {{ max-width: 1000px; margin: 40px auto; font-family: system-ui, sans-serif; color: #27313f; }}
      p {{ color: #77808c; }}
    </style>
  </head>
  <body>
    <h1>Bokeh in FastAPI</h1>
    <p>Hello {user}. The page is FastAPI's, the session below it is yours.</p>
    {script}
  </body>
</html>
"""

basic = HTTPBasic()


def visitor(given: Annotated[HTTPBasicCredentials, Depends(basic)]) -> str:
    """Check the password, and return the user's name."""
    if not secrets.compare_digest(given.password.encode(), os.environ["SITE_PASSWORD"].encode()):
        raise HTTPException(401, "wrong password", {"WWW-Authenticate": "Basic"})
    return given.username


def create_app(server: str) -> FastAPI:
    """The FastAPI application.

    Args:
        server: the URL of a served app, e.g. http://localhost:5006/sliders.
    """
    app = FastAPI()

    @app.get("/", response_class=HTMLResponse)
    def index(user: Annotated[str, Depends(visitor)]) -> HTMLResponse:
        script = server_session(None, generate_session_id(signed=True), url=server)
        # The script is for one visitor and one session, so no cache may store the page.
        return HTMLResponse(PAGE.format(user=escape(user), script=script), headers={"Cache-Control": "no-store"})

    return app


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", default="http://localhost:5006/sliders", help="URL of the app to embed")
    parser.add_argument("--host", default="localhost", help="address to listen on")
    parser.add_argument("--port", type=int, default=8000, help="port to listen on")
    options = parser.parse_args()
    missing = [name for name in ("BOKEH_SECRET_KEY", "SITE_PASSWORD") if not os.environ.get(name)]
    if missing:
        parser.error(f"not set in the environment: {', '.join(missing)}")
    uvicorn.run(create_app(options.server), host=options.host, port=options.port)


if __name__ == "__main__":
    main()
