"""Threads that modules start when they are imported, hooks when they are loaded: each worker has its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.node import Node
from support.patience import run, wait_until
from support.wire import Viewer, page_token

THREAD = "import threading\nthread = threading.Thread(target=threading.Event().wait, daemon=True)\nthread.start()\n"
HOOKS = THREAD + "def process_request(request):\n    return {'alive': thread.is_alive()}\n"
AUTH = THREAD + "login_url = '/login'\ndef get_user(handler):\n    return 'visitor' if thread.is_alive() else None\n"
SHOW = "from bokeh.io import curdoc\nfrom bokeh.models import Div\ncurdoc().add_root(Div(name='alive', text=str({})))\n"


@pytest.fixture(scope="module", params=[1, 3], ids=["1 worker", "3 workers"])
def node(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A script whose import, a folder whose hooks, and an auth module that start a thread."""
    folder = tmp_path_factory.mktemp("threads")
    (folder / "elsewhere").mkdir()
    (folder / "elsewhere" / "beating.py").write_text(THREAD)
    (folder / "hooked").mkdir()
    (folder / "hooked" / "app_hooks.py").write_text(HOOKS)
    (folder / "hooked" / "main.py").write_text(SHOW.format("curdoc().session_context.token_payload['alive']"))
    (folder / "apps").mkdir()
    (folder / "apps" / "importing.py").write_text("import beating\n" + SHOW.format("beating.thread.is_alive()"))
    (folder / "auth.py").write_text(AUTH)
    options = ["--num-procs", str(request.param), "--auth-module", str(folder / "auth.py")]
    env = {"PYTHONPATH": str(folder / "elsewhere")}
    with Node(folder / "apps" / "importing.py", folder / "hooked", options=options, env=env) as node:
        yield node


async def _alive(node: Node, app: str) -> str:
    async with Viewer.open(node.ws_url(app), page_token(node.app_url(app))) as viewer:
        await viewer.pull()
        said: str = viewer.value("alive", "text")
        return said


@pytest.mark.parametrize("replaced", [False, True])
def test_threads_run_in_every_worker(node: Node, replaced: bool) -> None:
    """In the first ones, and in those that take the places of dead ones; a page needs the auth module's, too."""
    before = node.worker_pids()
    if replaced:
        for pid in before:
            node.kill(pid)
        wait_until(lambda: set(before).isdisjoint(node.worker_pids()) and len(node.worker_pids()) == len(before), 30)
    for app in ("/importing", "/hooked"):
        for _ in before:  # sessions go to one worker after the other
            assert run(_alive(node, app)) == "True"
    assert "beating is imported in each worker: it starts threads" in node.log()
