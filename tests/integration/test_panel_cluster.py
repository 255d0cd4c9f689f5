"""What Panel keeps in one process, right on several: files of components, and the count of sessions.

Each test runs on stock `panel serve` with three processes as well, and shows what is not so there.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from support.fetch import fetch
from support.node import STOP_SECONDS, StockNode
from support.panel_counts import session_info, style_sheet, total_shown
from support.panel_features import PANELS, READY, PanelNode, StockPanelNode
from support.patience import run, wait_until
from support.redis import RedisServer
from support.wire import Viewer, page_token

COMPONENTS = PANELS / "components.py"
PAGES = 6
COUNTED = ["--rest-session-info", "--session-history", "-1"]


@contextmanager
def placed(placement: str, *options: str) -> Iterator[tuple[PanelNode, PanelNode]]:
    """The node where pages are made, and the one that is asked."""
    with ExitStack() as stack:
        if placement == "3 workers":
            made = asked = stack.enter_context(PanelNode(COMPONENTS, options=["--num-procs", "3", *options]))
        else:
            server = stack.enter_context(RedisServer())
            shared = ["--redis-url", server.url, "--num-procs", "2", *options]
            made, asked = (stack.enter_context(PanelNode(COMPONENTS, options=shared)) for _ in range(2))
        yield made, asked


class StockProcesses(StockPanelNode):
    """Panel's own server with several processes. The first one starts the others again, and does not end them."""

    def stop(self, nominal: float = STOP_SECONDS) -> int:
        self.process.kill()
        code = self.wait(nominal)
        for pid in self.processes():
            self.kill(pid)
        return code


@contextmanager
def stock(*options: str) -> Iterator[StockPanelNode]:
    """Panel's own server, with three processes."""
    with StockProcesses(COMPONENTS, options=["--num-procs", "3", *options]) as node:
        yield node


async def _style_sheet(node: StockNode, *, ready: bool = False) -> str:
    """The address of the component's style sheet, of a new page's session; relative to the app's."""
    async with Viewer.open(node.ws_url("/components"), page_token(node.app_url("/components"))) as viewer:
        reply = await viewer.request("PULL-DOC-REQ", {})
        if ready:
            await viewer.send_patch(READY)
        return style_sheet(reply.content)


PLACEMENTS = ["3 workers", "two nodes"]


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_a_components_file_comes_from_any_worker(placement: str) -> None:
    """From whichever is asked, as long as its session lives; and no other file does."""
    with placed(placement) as (made, asked):
        for _ in range(PAGES):
            address = run(_style_sheet(made))
            answer = fetch(asked.app_url(f"/{address}"))
            assert answer.status == 200, address
            assert answer.headers["content-type"] == "text/css"
            assert answer.body == (PANELS / "styled.css").read_bytes()
            for wrong in (address.replace("styled.css", "components.py"), address.replace("Styled/", "Counter/")):
                assert fetch(asked.app_url(f"/{wrong}")).status == 404


def test_panel_serve_loses_components_files() -> None:
    """Sooner or later another process is asked than the one that has run the page."""
    with stock() as node:

        def lost() -> bool:
            return fetch(node.app_url(f"/{run(_style_sheet(node))}")).status == 404

        wait_until(lost, 30, "every file came")


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_session_info_counts_the_sessions_of_all_workers(placement: str) -> None:
    """Whichever worker answers, of whichever node."""
    with placed(placement, *COUNTED) as (made, asked):
        for _ in range(PAGES):
            run(_style_sheet(made, ready=True))
        for node in {made, asked}:
            for _ in made.worker_pids():
                info = session_info(node.url)
                assert (info["total"], len(info["sessions"])) == (PAGES, PAGES)
                assert all(session["launched"] for session in info["sessions"].values())


def test_panel_serve_counts_those_of_one_process() -> None:
    """Of the one that happens to answer."""
    with stock(*COUNTED) as node:
        for _ in range(PAGES):
            page_token(node.app_url("/components"))
        wait_until(lambda: session_info(node.url)["total"] < PAGES, 30, "every process counted all")


def test_a_session_that_goes_on_elsewhere_is_counted_there() -> None:
    """It is live there, though its page does not say again that it is ready."""
    with PanelNode(COMPONENTS, options=["--num-procs", "3", "--durability", "ack", *COUNTED]) as node:
        token = page_token(node.app_url("/components"))

        async def come(*, ready: bool) -> None:
            async with Viewer.open(node.ws_url("/components"), token) as viewer:
                await viewer.request("PULL-DOC-REQ", {})
                if ready:
                    # With `ack`, what is answered has been stored.
                    assert (await viewer.patch(READY)).msgtype == "OK"
                    await asyncio.to_thread(
                        wait_until, lambda: session_info(node.url)["live"] == 1, 20, "it is not live"
                    )
                    before = node.sessions()[0]["pid"]
                    node.kill(before)
                    await viewer.wait_closed()
                    return
                await asyncio.to_thread(
                    wait_until, lambda: session_info(node.url)["live"] == 1, 20, "it is not live again"
                )

        run(come(ready=True))
        run(come(ready=False))


def test_the_admin_page_draws_the_sessions_of_all_workers() -> None:
    """Whichever worker shows it; its own session is among them."""
    with PanelNode(COMPONENTS, options=["--num-procs", "3", "--admin"]) as node:
        for _ in range(PAGES):
            page_token(node.app_url("/components"))

        async def drawn() -> None:
            async with Viewer.open(node.ws_url("/admin"), page_token(node.app_url("/admin"))) as viewer:
                # Its curves of memory move every second, so that there is always another patch.
                while total_shown((await viewer.request("PULL-DOC-REQ", {})).content) != PAGES + 1:
                    await viewer.wait_for("PATCH-DOC")

        run(drawn())


def test_the_admin_page_shows_the_logs_of_all_workers(tmp_path: Path) -> None:
    """What apps log is in its table, and in its timeline the beginning of each session, of whichever worker."""
    app = tmp_path / "logging_app.py"
    app.write_text("import panel as pn\npn.state.log('it is hot', level='warning')\npn.pane.Str('hot').servable()\n")
    with PanelNode(app, options=["--num-procs", "3", "--admin"]) as node:
        for _ in range(PAGES):
            page_token(node.app_url("/logging_app"))

        async def shown() -> None:
            async with Viewer.open(node.ws_url("/admin"), page_token(node.app_url("/admin"))) as viewer:
                while True:
                    content = str((await viewer.request("PULL-DOC-REQ", {})).content)
                    begun = {*re.findall(r"Session (\d+) initializing", content)}
                    logged = re.findall(r"'logged \"it is hot\"'", content)
                    if len(begun) >= PAGES and len(logged) >= PAGES:
                        break
                    await viewer.wait_for("PATCH-DOC")
                assert (len(begun), len(logged)) == (PAGES, PAGES)

        run(shown(), 120)


SETUP = """
import os
from datetime import timedelta
import panel as pn
import aperture.panel

def note(name):
    with open(os.path.join({folder!r}, name), "a") as file:
        file.write(f"{{os.getpid()}}\\n")

def everywhere():
    note("everywhere")

def once():
    note("once")

async def awaited():
    note("awaited")

an_hour = timedelta(hours=1)
pn.state.schedule_task("once", aperture.panel.once("once", once, within=an_hour), period="1s")
pn.state.schedule_task("awaited", aperture.panel.once("awaited", awaited, within=an_hour), period="1s")
pn.state.schedule_task("everywhere", everywhere, period="1s")
"""


def test_a_scheduled_task_runs_in_each_worker_or_in_one_of_all(tmp_path: Path) -> None:
    """In each as with `panel serve`, whose processes have a cache of their own; what is claimed, in the first."""
    script = tmp_path / "setup.py"
    script.write_text(SETUP.format(folder=str(tmp_path)))

    def ran(name: str) -> Counter[str]:
        file = tmp_path / name
        return Counter(file.read_text().split()) if file.exists() else Counter()

    with ExitStack() as stack:
        server = stack.enter_context(RedisServer())
        options = ["--redis-url", server.url, "--num-procs", "2", "--setup", str(script)]
        nodes = [stack.enter_context(PanelNode(COMPONENTS, options=options)) for _ in range(2)]
        workers = {str(pid) for node in nodes for pid in node.worker_pids()}

        def several() -> bool:
            times = ran("everywhere")
            return workers <= times.keys() and min(times.values()) > 1 and bool(ran("once") and ran("awaited"))

        wait_until(several, 40, "the tasks did not run")
    assert [sum(ran(name).values()) for name in ("once", "awaited")] == [1, 1]


PUBLISHING = """
import panel as pn
import param

class Furnace(param.Parameterized):
    heat = param.Number(default=3)

pn.state.publish("furnace", Furnace(), ["heat"])
"""


@pytest.mark.parametrize("server", ["panel serve", "3 workers"])
def test_what_the_setup_script_publishes_comes_from_every_worker(server: str, tmp_path: Path) -> None:
    """And what it does not publish from none."""
    script = tmp_path / "setup.py"
    script.write_text(PUBLISHING)
    options = ["--setup", str(script), "--rest-provider", "param"]
    with ExitStack() as stack:
        node: StockNode
        if server == "panel serve":
            node = stack.enter_context(StockPanelNode(COMPONENTS, options=options))
        else:
            node = stack.enter_context(PanelNode(COMPONENTS, options=["--num-procs", "3", *options]))
        for _ in range(PAGES):
            assert fetch(node.app_url("/rest/furnace")).json() == {"heat": 3}
            assert fetch(node.app_url("/rest/oven")).body == b""


CACHING = """
import os
import panel as pn

@pn.cache(to_disk=True, cache_path={folder!r})
def squared(n):
    with open({folder!r} + ".computed", "a") as file:
        file.write(f"{{os.getpid()}}\\n")
    return n * n

pn.pane.Str(f"squared {{squared(7)}}").servable()
"""


@pytest.mark.parametrize("server", ["panel serve", "3 workers"])
def test_a_cache_on_disk_is_one_for_all_workers(server: str, tmp_path: Path) -> None:
    """What one has computed the others read."""
    app = tmp_path / "caching.py"
    app.write_text(CACHING.format(folder=str(tmp_path / "cache")))
    with ExitStack() as stack:
        node: StockNode
        if server == "panel serve":
            node = stack.enter_context(StockPanelNode(app))
        else:
            node = stack.enter_context(PanelNode(app, options=["--num-procs", "3"]))
        for _ in range(PAGES):
            assert "squared 49" in run(_pulled(node, "/caching"))
        assert len((tmp_path / "cache.computed").read_text().split()) == 1


async def _pulled(node: StockNode, app: str) -> str:
    async with Viewer.open(node.ws_url(app), page_token(node.app_url(app))) as viewer:
        return str((await viewer.request("PULL-DOC-REQ", {})).content)
