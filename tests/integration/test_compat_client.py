"""The real `bokeh.client` and `bokeh.embed`, unmodified, against stock Bokeh, our workers, and nodes behind nginx.

With several workers the requests of one session may come in anywhere. Each test makes sure, many times over, that the
session that a client has made its own is the one that a browser gets, and that app code runs once for it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bokeh
import pytest
from bokeh.client import pull_session, push_session
from bokeh.document import Document
from bokeh.embed import server_document, server_session
from bokeh.models import Plot
from bokeh.models.widgets import Div, Slider
from support.cluster import Cluster
from support.fetch import fetch
from support.node import Node, StockNode, kind_name
from support.patience import run, run_aside, seconds
from support.wire import Viewer, page_token, token_of

KINDS: tuple[type[StockNode | Cluster], ...] = (StockNode, Node, Cluster)
TIMES = {"stock": 5, "aperture": 100, "cluster": 100}
"""Stock Bokeh is here to show that the test is right; it has one process and nothing to get wrong."""
AT_ONCE = 4
VERSIONS = {"bokeh": bokeh.__version__, "server": bokeh.__version__}


@dataclass(frozen=True, slots=True)
class Served:
    """What serves the counting app, and the file in which it counts."""

    node: StockNode | Cluster
    runs: Path

    @property
    def url(self) -> str:
        return self.node.app_url("/counting")

    @property
    def ws_url(self) -> str:
        return self.node.ws_url("/counting")

    @property
    def times(self) -> int:
        return TIMES[self.node.name]

    def counted(self) -> list[tuple[str, str]]:
        """Every run of the app's code so far: process id, session id."""
        if not self.runs.exists():
            return []
        return [(pid, session) for pid, session in (line.split() for line in self.runs.read_text().splitlines())]

    def repeat(self, once: Callable[[int], None]) -> int:
        """Do something many times, a few at once; returns how often the app's code ran meanwhile."""
        before = len(self.counted())
        with ThreadPoolExecutor(AT_ONCE) as pool:
            for done in [pool.submit(once, number) for number in range(self.times)]:
                done.result(timeout=seconds(120))
        return len(self.counted()) - before


@pytest.fixture(scope="module", params=KINDS, ids=kind_name)
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One process of stock Bokeh, four workers of ours, and two nodes of two workers each behind a proxy."""
    runs = tmp_path_factory.mktemp("counting") / "runs"
    options = ["--num-procs", "4"] if request.param is Node else []
    with request.param("counting.py", "context.py", options=options, env={"APP_RUNS": str(runs)}) as node:
        yield Served(node, runs)


def pulled(ws_url: str, token: str) -> Document:
    """The document that a browser with this token gets."""

    async def scenario() -> Document:
        async with Viewer.open(ws_url, token) as viewer:
            return await viewer.pull()

    return run(scenario())


def title_of(document: Document) -> str:
    plot: Any = document.select_one({"type": Plot})
    assert plot is not None
    title: str = plot.title.text
    return title


def load_script(script: str, origin: str = "http://elsewhere.example") -> str:
    """Do what a script of `bokeh.embed` does in a browser on another origin, and return the session's token."""
    found = re.search(r"xhr\.open\('GET', \"([^\"]+)\"", script)
    assert found, script
    url = found.group(1)
    headers = dict(re.findall(r'xhr\.setRequestHeader\("([^"]+)", "([^"]+)"\)', script))
    if headers:
        # A header of one's own makes the browser ask first.
        asked = {"Origin": origin, "Access-Control-Request-Method": "GET"}
        asked["Access-Control-Request-Headers"] = ",".join(headers).lower()
        preflight = fetch(url, "OPTIONS", asked)
        assert preflight.status in (200, 204)
        assert preflight.headers["access-control-allow-origin"] in (origin, "*")
        assert preflight.headers["access-control-allow-headers"] in ("*", ",".join(headers).lower())
    answer = fetch(url, headers=headers | {"Origin": origin})
    assert answer.status == 200, answer.text
    assert answer.headers["access-control-allow-origin"] in (origin, "*")
    return token_of(answer.text)


def test_app_code_runs_once_for_a_page_and_its_websocket(served: Served) -> None:
    """Each page load and the websocket with its token are one session, on whichever worker they arrive."""

    def once(number: int) -> None:
        document = pulled(served.ws_url, page_token(served.url))
        assert title_of(document) == "untouched"

    assert served.repeat(once) == served.times
    sessions = [session for _, session in served.counted()]
    assert len(set(sessions)) == len(sessions)


def test_pages_are_spread_over_the_workers(served: Served) -> None:
    """After the many loads of the test above no worker has been left out."""
    if isinstance(served.node, Node | Cluster):
        assert {int(pid) for pid, _ in served.counted()} == set(served.node.worker_pids())


def test_a_pulled_and_changed_session_is_what_the_browser_gets(served: Served) -> None:
    """`pull_session`, a new title, `server_session`, autoload.js, websocket: the changed document, every time."""

    def once(number: int) -> None:
        with pull_session(url=served.url) as session:
            plot: Any = session.document.select_one({"type": Plot})
            plot.title.text = f"changed {number}"
            session.force_roundtrip()
            script = server_session(None, session.id, url=served.url)
        document = pulled(served.ws_url, load_script(script))
        assert title_of(document) == f"changed {number}"

    assert served.repeat(once) == served.times


def test_a_pushed_document_is_what_the_page_shows(served: Served) -> None:
    """`push_session`, then the page with `?bokeh-session-id=`: the pushed document, every time."""

    def once(number: int) -> None:
        document = Document()
        document.add_root(Div(name="pushed", text=f"number {number}"))
        with push_session(document, url=served.url) as session:
            token = page_token(f"{served.url}?bokeh-session-id={session.id}")
            # The client drives a loop of its own in this thread, which `asyncio.run` would take away from it.
            seen = run_aside(lambda: pulled(served.ws_url, token))
        roots: list[Any] = seen.roots
        assert [root.text for root in roots] == [f"number {number}"]

    assert served.repeat(once) == served.times


def test_a_document_embedded_by_url_is_a_session_of_its_own(served: Served) -> None:
    """`server_document`: each page that loads the script has one new session, with the script's arguments."""

    def once(number: int) -> None:
        script = server_document(served.url, arguments={"number": str(number)})
        assert title_of(pulled(served.ws_url, load_script(script))) == "untouched"

    assert served.repeat(once) == served.times


def test_a_client_sees_what_a_browser_changes(served: Served) -> None:
    """What a connected client changes reaches a browser, and what the browser changes reaches the client."""
    with pull_session(url=served.url) as session:
        token = page_token(f"{served.url}?bokeh-session-id={session.id}")
        slider: Any = session.document.select_one({"type": Slider})

        async def move(value: int) -> int:
            async with Viewer.open(served.ws_url, token) as viewer:
                await viewer.pull()
                found: int = viewer.value("slider", "value")
                assert (await viewer.set("slider", "value", value)).msgtype == "OK"
                return found

        slider.value = 3
        session.force_roundtrip()
        assert run_aside(lambda: run(move(7))) == 3
        session.pull()  # bokeh.client throws away a patch that comes while it waits for a reply
        pulled_slider: Any = session.document.select_one({"type": Slider})
        assert pulled_slider.value == 7
        assert session.request_server_info()["version_info"] == VERSIONS


def test_a_client_gives_its_arguments_to_the_app(served: Served) -> None:
    """The arguments of `pull_session` reach the app, and an app that is not there is named as the cause."""
    with pull_session(url=served.node.app_url("/context"), arguments={"colour": "blue"}) as session:
        shown: Any = session.document.roots[0]
        assert json.loads(shown.text)["arguments"] == {"colour": ["blue"]}
    with pytest.raises(OSError, match="Check your application path"):
        pull_session(url=served.node.app_url("/nothing-here"))
