"""The recipes in which a program of others serves the apps with a `Server` of ours: gunicorn's workers, and Dask."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from bokeh.models import Plot
from support.fetch import fetch
from support.node import EXAMPLES
from support.patience import run, wait_until
from support.program import running
from support.redis import free_port
from support.wire import Viewer, token_of

EMBEDDING = EXAMPLES / "embedding"
WORKERS = 2
AT_ONCE = 8


# -- gunicorn


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    """The URL of the Flask page, which two workers of gunicorn answer."""
    port = free_port()
    gunicorn = Path(sys.executable).with_name("gunicorn")
    arguments = ["-w", str(WORKERS), "-b", f"127.0.0.1:{port}", "--chdir", str(EMBEDDING), "flask_gunicorn:page"]
    with running(gunicorn, *arguments, says="Booting worker", env={"SITE_ORIGIN": f"localhost:{port}"}):
        yield f"http://localhost:{port}"


def pages_of_both(site: str) -> list[str]:
    """One page of each worker. Whichever is idle takes the next request, so that there are many at once."""
    pages: dict[str, str] = {}

    def visit(_: object) -> None:
        page = fetch(f"{site}/").text
        (process,) = re.findall(r"process (\d+)", page)
        pages[process] = page

    def seen() -> bool:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(visit, range(AT_ONCE)))
        return len(pages) == WORKERS

    wait_until(seen, 30, "one worker answers everything")
    return list(pages.values())


def test_each_worker_of_gunicorn_serves_the_app(site: str) -> None:
    """Its page leads to its own port, where the page's origin is allowed, and the app answers there."""

    async def scenario(socket: str, token: str) -> str:
        async with Viewer.open(socket, token, {"Origin": site}) as viewer:
            await viewer.pull()
            assert (await viewer.set("power", "value", 3)).msgtype == "OK"
            assert viewer.document is not None
            plot: Any = viewer.document.select_one({"type": Plot})
            return str(plot.title.text)

    servers = set()
    for page in pages_of_both(site):
        (script,) = re.findall(r'"(http://localhost:\d+/powers/autoload\.js[^"]*)"', page)
        server = script.partition("/powers/")[0]
        servers.add(server)
        token = token_of(fetch(script, headers={"Origin": site}).text)
        title = run(scenario(f"ws{server.removeprefix('http')}/powers/ws", token))
        assert title == "x to the power of 3"
    assert len(servers) == WORKERS


# -- Dask


@pytest.fixture(scope="module")
def dask() -> Iterator[str]:
    """The URL of Dask's dashboard, over a cluster at work."""
    port = free_port()
    with running(EMBEDDING / "dask_dashboard.py", "--port", str(port), says="Dask's dashboard: http"):
        yield f"http://localhost:{port}"


def test_dasks_dashboard_is_served_among_dasks_other_pages(dask: str) -> None:
    """The plots' pages are ours, with Dask's template; what Dask serves by itself is where it was."""
    for plot in ("status", "individual-cpu", "profile"):
        page = fetch(f"{dask}/{plot}")
        assert page.status == 200
        assert "x-request-id" in page.headers, "it was Bokeh's server"
    assert "Dask" in fetch(f"{dask}/status").text
    assert fetch(f"{dask}/").headers["location"] == "/status"
    assert fetch(f"{dask}/health").text == "ok"
    assert fetch(f"{dask}/statics/css/base.css").status == 200
    assert fetch(f"{dask}/static/js/bokeh.min.js").status == 200


def test_dasks_plots_move(dask: str) -> None:
    """Their periodic callbacks, on the scheduler's loop, reach a browser of the dashboard's own origin."""
    token = token_of(fetch(f"{dask}/status").text)

    async def scenario() -> int:
        async with Viewer.open(f"ws{dask.removeprefix('http')}/status/ws", token, {"Origin": dask}) as viewer:
            await viewer.pull()
            return sum([len((await viewer.wait_for("PATCH-DOC")).events) for _ in range(5)])

    assert run(scenario()) >= 5
