"""Several browsers on one session: they follow each other, and all of them get what is new, whole."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from support.browser import BrowserTabs
from support.node import EXAMPLES, Node, StockNode
from support.patience import run, run_aside, seconds
from support.wire import Viewer, page_token

SLIDERS = EXAMPLES / "apps" / "sliders.py"


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    """Ours, with four workers to get it wrong."""
    with Node(SLIDERS, "newmodel.py", options=["--num-procs", "4"]) as node:
        yield node


@pytest.fixture(scope="module", params=["stock", "aperture"])
def either_node(request: pytest.FixtureRequest) -> Iterator[StockNode]:
    """Stock Bokeh's server, which gets this much right, and ours."""
    if request.param == "aperture":
        yield request.getfixturevalue("node")
        return
    with StockNode(SLIDERS) as node:
        yield node


def test_two_tabs_on_one_session_follow_each_other(either_node: StockNode, tabs: BrowserTabs) -> None:
    """A slider moved in one tab moves slider and plot in the other, in both directions."""
    url = either_node.app_url("/sliders")
    first = tabs(url)
    second = tabs(f"{url}?bokeh-session-id={first.session_id()}")
    for mover, follower, fraction, value in ((first, second, 0.9, 1.6), (second, first, 0.2, -1.2)):
        wave, drawn = follower.column("wave", "y"), follower.picture("plot")
        mover.drag_slider("offset", fraction)
        for tab in (mover, follower):
            tab.wait_for_value("offset", "value", value)
        follower.wait_for_column("wave", "y", wave)
        follower.wait_for_redraw("plot", drawn)
    final = first.column("wave", "y")
    second.wait_for(
        """y => Array.from(Bokeh.documents[0].get_model_by_name("wave").data.y).every((v, i) => v === y[i])""", final
    )


class Onlooker:
    """A viewer without a browser, in a thread, which waits until the document has a model of some name."""

    def __init__(self, url: str, ws_url: str) -> None:
        self._token = page_token(url)
        self._ws_url = ws_url
        self._pulled = threading.Event()
        self._awaited = ""
        self._thread = threading.Thread(target=self._look_on, daemon=True)
        self.found: object = None

    def start(self, awaited: str) -> None:
        """Pull the document, so that everything later comes as patches."""
        self._awaited = awaited
        self._thread.start()
        assert self._pulled.wait(seconds(20))

    def join(self) -> None:
        self._thread.join(seconds(20))

    def _look_on(self) -> None:
        async def scenario() -> None:
            async with Viewer.open(self._ws_url, self._token) as viewer:
                document = await viewer.pull()
                self._pulled.set()
                while (found := document.get_model_by_name(self._awaited)) is None:
                    await viewer.next_message()
                self.found = found

        run(scenario())


def test_three_connections_receive_a_new_model_in_full(node: Node, tabs: BrowserTabs) -> None:
    """A callback adds models: two tabs and a bare connection can all use them, and none gets a dangling reference."""
    url = node.app_url("/newmodel")
    first = tabs(url)
    shared = f"{url}?bokeh-session-id={first.session_id()}"
    second = tabs(shared)
    onlooker = run_aside(lambda: Onlooker(shared, node.ws_url("/newmodel")))
    onlooker.start(awaited="text10")
    drawn = second.picture("plot")
    first.drag_slider("slider", 1.0)
    for tab in (first, second):
        tab.wait_for("() => Bokeh.documents[0].get_model_by_name('text10') != null")
        assert tab.value("text10", "text") == "the slider was at 10"
        tab.wait_for("() => Bokeh.documents[0].get_model_by_name('plot').renderers.some(r => r.name === 'line10')")
    second.wait_for_redraw("plot", drawn)
    onlooker.join()
    assert getattr(onlooker.found, "text", None) == "the slider was at 10"
