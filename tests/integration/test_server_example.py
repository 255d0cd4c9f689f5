"""The program of the "Server APIs": a server on an existing IOLoop, and another Tornado handler beside it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.fetch import fetch
from support.node import EXAMPLES
from support.patience import run, seconds, wait_until
from support.redis import free_port
from support.wire import Viewer, page_token

OURS = "from aperture import Server"
STOCK = "from bokeh.server.server import Server"


@pytest.mark.parametrize("imported", [STOCK, OURS], ids=["stock", "aperture"])
def test_another_handler_answers_beside_the_server(imported: str, tmp_path: Path) -> None:
    """`start` returns at once, the app is served, the program's page counts its session, and SIGTERM ends both."""
    source = (EXAMPLES / "standalone_embed.py").read_text()
    assert OURS in source
    program = tmp_path / "program.py"
    program.write_text(source.replace(OURS, imported))
    app_port, page_port = free_port(), free_port()
    environment = os.environ | {"APP_PORT": str(app_port), "PAGE_PORT": str(page_port)}
    process = subprocess.Popen([sys.executable, str(program)], env=environment)
    page, app = f"http://localhost:{page_port}/", f"localhost:{app_port}/waves"
    try:
        wait_until(lambda: answers(page), 40, "the program's own page does not answer")
        assert fetch(page).text.endswith("seen by 0")

        async def scenario() -> str:
            async with Viewer.open(f"ws://{app}/ws", page_token(f"http://{app}")) as viewer:
                await viewer.pull()
                assert (await viewer.set("frequency", "value", 3)).msgtype == "OK"
                while (title := str(viewer.value("plot", "title").text)) == "Waves":
                    await viewer.next_message()
                return title

        assert run(scenario()) == "3 Hz"
        assert fetch(page).text.endswith("seen by 1")
        process.send_signal(signal.SIGTERM)
        assert process.wait(seconds(30)) == 0
    finally:
        process.kill()
        process.wait(seconds(10))


def answers(url: str) -> bool:
    try:
        return fetch(url).status == 200
    except OSError:
        return False
