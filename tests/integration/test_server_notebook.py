"""A `Server` in the cells of a notebook, executed by a real kernel on whose loop it runs."""

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
print(server.port > 0, server.get_sessions())
"""

VISITED = """
from tornado.httpclient import AsyncHTTPClient
answer = await AsyncHTTPClient().fetch(f"http://localhost:{server.port}/app")
(session,) = server.get_sessions("/app")
print(answer.code, session.document.get_model_by_name("slider").value)
"""

CHANGED = """
def change():
    session.document.get_model_by_name("slider").value = 5

await session.with_document_locked(change)
print(server.get_session("/app", session.id).document.get_model_by_name("slider").value)
"""

AGAIN = """
server.stop()
server = Server({"/app": fill}, port=server.port)
server.start()
"""

STOPPED = """
server.stop()
await server.closed()
print(server.get_sessions())
"""


V4: Any = nbformat.v4
"""The present format of notebooks, whose functions have no types."""


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the kernel's client
def test_a_server_lives_from_cell_to_cell() -> None:
    """Started in one cell, visited over HTTP in the next, changed, and stopped; the kernel's loop is never blocked."""
    cells = [V4.new_code_cell(source) for source in (STARTED, VISITED, CHANGED, AGAIN, AGAIN, VISITED, STOPPED)]
    notebook = V4.new_notebook(cells=cells)
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    done = NotebookClient(notebook, timeout=int(seconds(60)), kernel_name="python3").execute(env=dict(os.environ))
    written = ["".join(out["text"] for out in cell.outputs if out.output_type == "stream") for cell in done.cells]
    assert [text.strip() for text in written] == ["True []", "200 1", "5", "", "", "200 1", "[]"]
