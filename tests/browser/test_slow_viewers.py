"""A page on a line that is slower than its app: it shows the latest, in the document that it has."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.browser import BrowserTabs
from support.node import Node
from support.slow_line import SlowLine

MEGABYTE = 1_000_000


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    with Node("pictures.py") as node:
        yield node


@pytest.mark.parametrize("count", [5, 12])
def test_a_page_on_a_slow_line_shows_the_last_picture(node: Node, tabs: BrowserTabs, count: int) -> None:
    """Without a reconnect, and with the models that came while it was behind; another page of the session has them."""
    with SlowLine(node.port, MEGABYTE) as line:
        tab = tabs(f"http://127.0.0.1:{line.port}/pictures")
        mate = tabs(f"{node.app_url('/pictures')}?bokeh-session-id={tab.session_id()}")
        tab.page.evaluate("() => { Bokeh.documents[0].roots()[0].__before = true; }")
        mate.page.evaluate(f"() => {{ Bokeh.documents[0].get_model_by_name('burst').value = {count}; }}")
        for page in (mate, tab):
            page.wait_for(f"() => Bokeh.documents[0].get_model_by_name('shown').text === '{count}'")
            titles = "Bokeh.documents[0].get_model_by_name('titles').children.map(child => child.text)"
            assert page.page.evaluate(titles) == [f"picture {count - 1}", f"picture {count}"]
            assert page.column("picture", "number") == [count]
            assert len(page.column("picture", "pixels")[0]) == 1_500_000
        assert tab.page.evaluate("() => Bokeh.documents[0].roots()[0].__before"), "it has pulled the document again"
