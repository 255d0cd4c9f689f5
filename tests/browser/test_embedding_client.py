"""A Flask page that pulls a session of four workers, changes it and embeds it: the browser shows that session."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.browser import BrowserTabs
from support.node import EXAMPLES, Node
from support.program import running

TIMES = 20
TITLE = "() => Bokeh.documents[0].get_model_by_name('plot').title.text"


@pytest.fixture(scope="module")
def workers(flask_port: int) -> Iterator[Node]:
    """The sliders on four workers, which the Flask page may embed."""
    options = ["--num-procs", "4", "--allow-websocket-origin", f"localhost:{flask_port}"]
    with Node(EXAMPLES / "apps" / "sliders.py", options=options) as node:
        yield node


@pytest.mark.parametrize("client", ["aperture", "bokeh"])
def test_the_embedded_session_is_the_changed_one(
    workers: Node, flask_port: int, tabs: BrowserTabs, client: str
) -> None:
    """20 of 20, with our client and with Bokeh's: the changed title, and a slider that moves the wave."""
    script: Path = EXAMPLES / "flask_embed.py"
    arguments = ["--server", workers.app_url("/sliders"), "--port", str(flask_port), "--client", client]
    with running(script, *arguments, says="Running on http://"):
        tab = tabs()
        sessions = set()
        for _ in range(TIMES):
            tab.open(f"http://localhost:{flask_port}/")
            assert tab.page.evaluate(TITLE) == "A wave that Flask has named"
            before = tab.column("wave", "y")
            tab.drag_slider("frequency", 0.9)
            tab.wait_for_column("wave", "y", before)
            sessions.add(tab.page.evaluate("() => Bokeh.documents[0].get_model_by_name('wave').id"))
        assert len(sessions) == TIMES, "each visitor has a session of their own"
