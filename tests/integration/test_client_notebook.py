"""The client in the cells of a notebook whose kernel's loop the server runs on, too."""

from __future__ import annotations

import os
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from support.patience import seconds

STARTED = """
from bokeh.models.widgets import Slider
from aperture import Server

def fill(document):
    document.add_root(Slider(start=0, end=10, value=1, name="slider"))

server = Server({"/app": fill}, port=0)
server.start()
url = f"http://localhost:{server.port}/app"
"""

PULLED = """
from aperture.client import connect
session = await connect(url)
slider = session.document.get_model_by_name("slider")
slider.value = 7
await session.force_roundtrip()
print(server.get_session("/app", session.id).document.get_model_by_name("slider").value)
"""

READ_BACK = """
await session.pull()
print(session.document.get_model_by_name("slider") is slider, slider.value)
await session.close()
"""

BLOCKING = """
from aperture.client import pull_session
from aperture.errors import LoopBlocked
try:
    pull_session(url=url, connect_timeout=0.5, timeout=0.5)
except LoopBlocked as problem:
    print("aperture.client.connect" in str(problem))
"""

STOPPED = """
server.stop()
await server.closed()
print("stopped")
"""


V4: Any = nbformat.v4
"""The present format of notebooks, whose functions have no types."""


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the kernel's client
def test_a_session_lives_from_cell_to_cell() -> None:
    """Pulled, changed and read back; a blocking call there cannot be answered, and says what to use."""
    cells = [V4.new_code_cell(source) for source in (STARTED, PULLED, READ_BACK, BLOCKING, STOPPED)]
    notebook = V4.new_notebook(cells=cells)
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    done = NotebookClient(notebook, timeout=int(seconds(60)), kernel_name="python3").execute(env=dict(os.environ))
    written = ["".join(out["text"] for out in cell.outputs if out.output_type == "stream") for cell in done.cells]
    assert [text.strip() for text in written[1:]] == ["7", "True 7", "True", "stopped"]
