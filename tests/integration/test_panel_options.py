"""Options of `panel serve` by which apps run earlier, or elsewhere: what each does with one worker and with three."""

from __future__ import annotations

import asyncio
import html
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.node import StockNode
from support.panel_features import READY, PanelNode, StockPanelNode
from support.patience import run, wait_until
from support.wire import Viewer, objects_named, page_token

APP = """
import os
import threading
import panel as pn

with open({ran!r}, "a") as file:
    file.write(f"{{os.getpid()}}\\n")

button = pn.widgets.Button(name="press me")
said = pn.pane.Str("said nothing")

def press(event):
    said.object = f"said in {{threading.current_thread().name}}"

button.on_click(press)
pn.Column(button, said).servable()
"""

SERVERS = ["panel serve", "1 worker", "3 workers"]
PAGES = 6
TOUCH = 0.5


@contextmanager
def served(server: str, folder: Path, *options: str) -> Iterator[StockNode]:
    """The app, by Panel's own server with one process, or by ours."""
    app = folder / "app.py"
    app.write_text(APP.format(ran=str(folder / "ran")))
    if server == "panel serve":
        with StockPanelNode(app, options=options) as stock:
            yield stock
    else:
        with PanelNode(app, options=["--num-procs", server[0], *options]) as node:
            yield node


def runs(folder: Path) -> Counter[int]:
    """How often the app's code has run, by process."""
    file = folder / "ran"
    return Counter(map(int, file.read_text().split())) if file.exists() else Counter()


def press(node: StockNode) -> str:
    """What the app of a new page says when its button is pressed."""

    async def pressed() -> str:
        async with Viewer.open(node.ws_url("/app"), page_token(node.app_url("/app"))) as viewer:
            document = (await viewer.request("PULL-DOC-REQ", {})).content["doc"]
            assert "said nothing" in str(document)
            (button,) = objects_named(document, "Button")
            await viewer.send_patch([_click(button["id"])])
            while "said in" not in (patch := str((await viewer.wait_for("PATCH-DOC")).content)):
                pass
            return html.unescape(patch).partition("said in ")[2]

    return run(pressed())


def _click(button: str) -> dict[str, Any]:
    values = {"type": "map", "entries": [["model", {"id": button}]]}
    event = {"type": "event", "name": "button_click", "values": values}
    return {"kind": "MessageSent", "msg_type": "bokeh_event", "msg_data": event}


@pytest.mark.parametrize("server", SERVERS)
def test_callbacks_run_in_threads_where_that_is_asked_for(server: str, tmp_path: Path) -> None:
    """Of Panel's pool, in each worker; and else on the event loop."""
    with served(server, tmp_path, "--num-threads", "2") as node:
        for _ in range(PAGES):
            assert press(node).startswith("ThreadPool")


@pytest.mark.parametrize("server", SERVERS)
def test_callbacks_run_on_the_event_loop_otherwise(server: str, tmp_path: Path) -> None:
    """One after the other, so that apps need not think of threads."""
    with served(server, tmp_path) as node:
        assert press(node).startswith("MainThread")


@pytest.mark.parametrize("workers", [1, 3])
def test_each_worker_runs_each_app_before_it_serves(workers: int, tmp_path: Path) -> None:
    """Also one that takes another's place: what is imported and cached is there when the first visitor comes."""
    with served(f"{workers} workers", tmp_path, "--warm") as node:
        assert isinstance(node, PanelNode)
        first = set(node.worker_pids())
        wait_until(lambda: first <= runs(tmp_path).keys(), 20, "a worker has not run it")
        for pid in first:
            node.kill(pid)
        wait_until(lambda: _replaced(node, first), 60, "no worker took their places")
        wait_until(lambda: {*node.worker_pids()} <= runs(tmp_path).keys(), 20, "a later worker has not run it")


def _replaced(node: PanelNode, first: set[int]) -> bool:
    pids = node.worker_pids()
    return len(pids) == len(first) and 0 not in pids and first.isdisjoint(pids)


@pytest.mark.parametrize("server", SERVERS)
def test_a_page_of_reused_sessions_has_a_session_of_its_own(server: str, tmp_path: Path) -> None:
    """What a visitor does is in no other visitor's page: Panel reuses what a page looks like, and not its session."""
    with served(server, tmp_path, "--reuse-sessions", "--warm") as node:
        for _ in range(PAGES):
            press(node)
        assert runs(tmp_path).total() >= PAGES


FOLLOWING = """
import panel as pn
import far_off
import nearby

pn.Column(pn.pane.Str(nearby.TEXT), pn.pane.Str(far_off.TEXT)).servable()
"""


@pytest.mark.parametrize("server", ["panel serve", "aperture panel"])
def test_pages_load_again_when_a_module_changes(server: str, tmp_path: Path) -> None:
    """One beside the app, and one elsewhere; and the page that is loaded then shows what has changed."""
    elsewhere, folder = tmp_path / "elsewhere", tmp_path / "apps"
    modules = {"nearby": folder / "nearby.py", "far off": elsewhere / "far_off.py"}
    for name, module in modules.items():
        module.parent.mkdir()
        module.write_text(f"TEXT = '{name} at first'\n")
    app = folder / "app.py"
    app.write_text(FOLLOWING)
    kind = StockPanelNode if server == "panel serve" else PanelNode
    env = {"PYTHONPATH": str(elsewhere), "PYTHONDONTWRITEBYTECODE": "1"}
    with kind(app, options=["--autoreload"], env=env) as node:
        shown = [f"{name} at first" for name in modules]
        for place, (name, module) in enumerate(modules.items()):
            _change(node, module, f"{name} afterwards", shown)
            shown[place] = f"{name} afterwards"
        run(_look(node, shown))


def _change(node: StockNode, module: Path, text: str, shown: list[str]) -> None:
    """Change a module's text while a page is open, and wait until the page is told to load again."""

    async def told() -> None:
        async with Viewer.open(node.ws_url("/app"), page_token(node.app_url("/app"))) as viewer:
            await _see(viewer, shown)
            await viewer.send_patch(READY)
            await asyncio.to_thread(module.write_text, f"TEXT = {text!r}\n")
            touching = asyncio.create_task(_touch(module))
            try:
                while "'attr': 'reload', 'new': True" not in str((await viewer.wait_for("PATCH-DOC")).content):
                    pass
            finally:
                touching.cancel()

    run(told())


async def _touch(module: Path) -> None:
    """Change it again and again: Panel does not look for a second after it has seen a change."""
    while True:
        await asyncio.sleep(TOUCH)
        await asyncio.to_thread(module.touch)


async def _look(node: StockNode, shown: list[str]) -> None:
    async with Viewer.open(node.ws_url("/app"), page_token(node.app_url("/app"))) as viewer:
        await _see(viewer, shown)


async def _see(viewer: Viewer, shown: list[str]) -> None:
    document = html.unescape(str((await viewer.request("PULL-DOC-REQ", {})).content["doc"]))
    assert [text for text in shown if text not in document] == []
