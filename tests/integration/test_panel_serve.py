"""`aperture.panel.serve` in a program of its own: Panel changes Bokeh for every test in the same process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from support.patience import seconds

PROGRAM = """
import urllib.request
import panel as pn
import panel.io.server
import aperture.panel
from aperture import Server
from panel.io.resources import DIST_DIR
from panel.io.state import state

def app():
    count = pn.widgets.IntSlider(name="count")
    return pn.Column(count, pn.bind(lambda n: f"it is {n} now", count))

panels = panel.io.server.Server
server = aperture.panel.serve({"one": app, "two": app}, start=False, show=False)
assert isinstance(server, Server) and panel.io.server.Server is panels
server.stop()
icon = DIST_DIR / "images" / "icon-32x32.png"
thread = aperture.panel.serve({"one": app, "two": app}, threaded=True, show=False, server_id="it", ico_path=icon)
while "it" not in state._servers:
    thread.join(0.05)
    assert thread.is_alive()
url = f"http://localhost:{state._servers['it'][0].port}"
page = urllib.request.urlopen(f"{url}/one", timeout=30).read().decode()
assert "static/extensions/panel/panel.min.js" in page
index = urllib.request.urlopen(f"{url}/", timeout=30).read().decode()
assert "one" in index and "two" in index
assert urllib.request.urlopen(f"{url}/favicon.ico", timeout=30).read() == icon.read_bytes()
thread.stop()
thread.join(30)
assert not thread.is_alive()
print("done")
"""


def test_panel_objects_are_served_as_by_pn_serve() -> None:
    """By our server, and Panel's own is in its place again; in a thread, with Panel's page and its list of apps."""
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=seconds(60), check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.endswith("done\n")


ROOT = """
import urllib.request
import panel as pn
import aperture.panel
from panel.io.state import state

thread = aperture.panel.serve(pn.pane.Str("shown"), prefix="/pre", threaded=True, show=False, server_id="it")
while "it" not in state._servers:
    thread.join(0.05)
    assert thread.is_alive()
url = f"http://localhost:{state._servers['it'][0].port}"
answer = urllib.request.urlopen(f"{url}/pre?a=1", timeout=30)
assert answer.url == f"{url}/pre/?a=1", answer.url
thread.stop()
"""


def test_the_page_at_a_prefix_ends_with_a_slash() -> None:
    """What it loads is named relative to its address."""
    ran = subprocess.run([sys.executable, "-c", ROOT], capture_output=True, text=True, timeout=seconds(60), check=False)
    assert ran.returncode == 0, ran.stderr


PARAMETERS = """
import asyncio
import html
import sys
import panel as pn
import aperture.panel
from panel.io.state import state
from support.wire import Viewer, page_token

def app():
    params = sorted(pn.state.route_params.items())
    return pn.pane.Str(f"params {params} base {pn.state.base_url} rel {pn.state.rel_path}")

serve = {"stock": pn.serve, "ours": aperture.panel.serve}[sys.argv[1]]
apps = {"/user/{name}": app, "/day/{year:int}/{rest:path}": app, "/plain": app}
thread = serve(apps, threaded=True, show=False, server_id="it")
while "it" not in state._servers:
    thread.join(0.05)
    assert thread.is_alive()
port = state._servers["it"][0].port

async def shown(path):
    token = page_token(f"http://localhost:{port}{path}")
    async with Viewer.open(f"ws://localhost:{port}{path}/ws", token) as viewer:
        await viewer.pull()
        (found,) = [root.text for root in viewer.document.roots if hasattr(root, "text")]
        print(path, html.unescape(html.unescape(found)))

for path in sys.argv[2:]:
    asyncio.run(shown(path))
thread.stop()
"""


def _parameters(server: str, *paths: str) -> list[str]:
    ran = subprocess.run(
        [sys.executable, "-c", PARAMETERS, server, *paths],
        capture_output=True,
        text=True,
        timeout=seconds(60),
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    )
    assert ran.returncode == 0, ran.stderr
    return [line for line in ran.stdout.splitlines() if line.startswith("/")]


def test_routes_have_parameters() -> None:
    """As on `pn.serve`; a parameter that is a path, which has no websocket there, has one here."""
    paths = ("/user/ann", "/user/b%20c", "/plain")
    ours = _parameters("ours", *paths, "/day/2026/11/28")
    assert ours[:3] == _parameters("stock", *paths)
    assert "params [('name', 'ann')]" in ours[0]
    assert "params [('rest', '11/28'), ('year', '2026')]" in ours[3]
