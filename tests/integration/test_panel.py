"""Apps of Panel in workers that take others' places: each is built as the first was.

Nothing here imports Panel, which would change Bokeh under the tests beside it: documents are read as JSON.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from signal import SIGHUP
from urllib.parse import urlsplit

import pytest
from support.node import Node
from support.patience import run, wait_until
from support.wire import Viewer, objects_named, page_token

APPS = ("/paneling", "/paneled")


@pytest.fixture(scope="module", params=[1, 3], ids=["1 worker", "3 workers"])
def node(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A script, a folder whose hooks import Panel, and an auth module that does."""
    auth = tmp_path_factory.mktemp("auth") / "auth.py"
    auth.write_text("import panel\nlogin_url = '/login'\ndef get_user(handler): return 'visitor'\n")
    options = ["--num-procs", str(request.param), "--auth-module", str(auth)]
    with Node("paneling.py", "paneled", options=options) as node:
        yield node


def _kill(node: Node) -> None:
    for pid in node.worker_pids():
        node.kill(pid)


def _reload(node: Node) -> None:
    node.kill(node.pid, SIGHUP)


def _drain(node: Node) -> None:
    command = [sys.executable, "-m", "aperture", "drain", "--admin-port", str(urlsplit(node.admin_url).port)]
    subprocess.run(command, capture_output=True, check=True)


def _kept(node: Node) -> None:
    """The first generation, to begin with."""


@pytest.mark.parametrize("replace", [_kept, _kill, _reload, _drain])
def test_apps_run_in_every_generation_of_workers(node: Node, replace: Callable[[Node], None]) -> None:
    """Pages come, and what is bound to a widget follows it."""
    before = set(node.worker_pids())
    replace(node)
    if replace is not _kept:
        wait_until(lambda: _all_new(node, before), 60, "not every worker was replaced")
    for app in APPS:
        for _ in before:  # sessions go to one worker after the other
            run(_slide(node, app))


def _all_new(node: Node, before: set[int]) -> bool:
    pids = node.worker_pids()
    return len(pids) == len(before) and 0 not in pids and before.isdisjoint(pids)


async def _slide(node: Node, app: str) -> None:
    async with Viewer.open(node.ws_url(app), page_token(node.app_url(app))) as viewer:
        reply = await viewer.request("PULL-DOC-REQ", {})
        (slider,) = objects_named(reply.content["doc"], "Slider")
        await viewer.send_patch([{"kind": "ModelChanged", "model": {"id": slider["id"]}, "attr": "value", "new": 7}])
        while "it is 7 now" not in str((await viewer.wait_for("PATCH-DOC")).content):
            pass
