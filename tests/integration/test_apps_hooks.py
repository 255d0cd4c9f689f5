"""The lifecycle hooks of a directory app, and when sessions begin and end."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from support.node import BOTH, Node, StockNode, kind_name
from support.patience import run, seconds, wait_until
from support.wire import Viewer, page_token

KIND = pytest.mark.parametrize("kind", BOTH, ids=kind_name)
SHORT_LIVED = ["--unused-session-lifetime", "300", "--check-unused-sessions", "100"]


@dataclass(frozen=True, slots=True)
class Diary:
    """The file to which the hooks app writes; each line is an event, a session id or a dash, and a process id."""

    path: Path

    @property
    def env(self) -> dict[str, str]:
        return {"HOOKS": str(self.path)}

    def lines(self) -> list[tuple[str, str, int]]:
        if not self.path.exists():
            return []
        return [(e, s, int(pid)) for e, s, pid in (line.split() for line in self.path.read_text().splitlines())]

    def of_session(self, session_id: str) -> list[str]:
        return [event for event, session, _ in self.lines() if session == session_id]

    def processes(self, event: str) -> list[int]:
        return [pid for what, _, pid in self.lines() if what == event]


@pytest.fixture
def diary(tmp_path: Path) -> Diary:
    return Diary(tmp_path / "hooks")


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    path = tmp_path / "runs"
    path.touch()
    return path


def visit(node: StockNode, query: str) -> None:
    """Load the page, open the websocket, pull, and leave."""

    async def scenario() -> None:
        async with Viewer.open(node.ws_url("/hooks"), page_token(node.app_url("/hooks") + query)) as viewer:
            assert await viewer.pull() is not None

    run(scenario())


@KIND
def test_hooks_run_once_each_and_in_order(kind: type[StockNode], diary: Diary) -> None:
    """Created, the app's code, destroyed: once for the session, with one context object, in one process."""
    with kind("hooks", options=SHORT_LIVED, env=diary.env) as node:
        visit(node, "?bokeh-session-id=first")
        wait_until(lambda: "destroyed" in diary.of_session("first"))
        visit(node, "?bokeh-session-id=second")
        wait_until(lambda: "destroyed" in diary.of_session("second"))
        node.stop()
    for session in ("first", "second"):
        assert diary.of_session(session) == ["created", "main", "destroyed"]
    assert len({pid for event, _, pid in diary.lines() if event in ("created", "main", "destroyed")}) == 1
    assert diary.lines()[0][0] == "loaded"
    assert diary.lines()[-1][0] == "unloaded"


def test_load_and_unload_run_once_in_each_worker(diary: Diary) -> None:
    """`on_server_loaded` sets up a process, so each worker runs it for itself, and undoes it at the end."""
    with Node("hooks", options=["--num-procs", "3"], env=diary.env) as node:
        pids = sorted(node.worker_pids())
        assert sorted(diary.processes("loaded")) == pids
        assert node.stop() == 0
    assert sorted(diary.processes("unloaded")) == pids


def test_sessions_are_destroyed_when_the_node_stops(diary: Diary) -> None:
    """SIGTERM ends open sessions properly: their hook runs before the process unloads, and the exit code is 0."""

    async def scenario(node: Node) -> int | None:
        async with Viewer.open(node.ws_url("/hooks"), page_token(node.app_url("/hooks"))) as viewer:
            await viewer.pull()
            assert diary.processes("destroyed") == []
            node.process.terminate()
            return await viewer.wait_closed()

    with Node("hooks", options=["--num-procs", "2"], env=diary.env) as node:
        code = run(scenario(node))
        assert node.wait() == 0
    assert code in (1001, 1012)
    (session,) = {session for _, session, _ in diary.lines() if session != "-"}
    assert diary.of_session(session) == ["created", "main", "destroyed"]
    (pid,) = diary.processes("destroyed")
    events = [event for event, _, process in diary.lines() if process == pid]
    assert events.index("destroyed") < events.index("unloaded")


@KIND
def test_process_request_reaches_the_app(kind: type[StockNode], diary: Diary) -> None:
    """What the hook returns for the page's request is in `session_context.token_payload`."""

    async def scenario(node: StockNode) -> object:
        token = page_token(node.app_url("/hooks?name=Ada"))
        async with Viewer.open(node.ws_url("/hooks"), token) as viewer:
            await viewer.pull()
            return viewer.value("payload", "text")

    with kind("hooks", env=diary.env) as node:
        assert run(scenario(node)) == "hello Ada"


@KIND
def test_a_watched_session_outlives_its_lifetime(kind: type[StockNode], runs: Path) -> None:
    """A session expires only when no viewer is connected any more; then `on_session_destroyed` of its document runs."""

    def ended(session: str) -> bool:
        return f"destroyed {session}" in runs.read_text()

    async def scenario(node: StockNode) -> None:
        url = node.app_url("/destroyed")
        watched = page_token(f"{url}?bokeh-session-id=watched")
        page_token(f"{url}?bokeh-session-id=abandoned")
        async with Viewer.open(node.ws_url("/destroyed"), watched) as viewer:
            await viewer.pull()
            wait_until(lambda: ended("abandoned"))
            assert (await viewer.request("SERVER-INFO-REQ", {})).msgtype == "SERVER-INFO-REPLY"
            assert not ended("watched")
        wait_until(lambda: ended("watched"))

    with kind("destroyed.py", options=SHORT_LIVED, env={"APP_RUNS": str(runs)}) as node:
        run(scenario(node))
    assert runs.read_text().count("destroyed") == 2


def test_discarded_sessions_leave_the_admin_endpoint(diary: Diary) -> None:
    """`/sessions` names who is there: the session while it lives, and nothing once it is discarded."""
    with Node("hooks", options=["--num-procs", "2", *SHORT_LIVED], env=diary.env) as node:
        visit(node, "?bokeh-session-id=short-lived-and-long-named")
        (row,) = node.sessions()
        assert row["id"] == "short-li", "ids are secrets: only their first 8 characters may be shown"
        assert row["app"] == "/hooks"
        assert row["pid"] in node.worker_pids()
        wait_until(lambda: node.sessions() == [], seconds(20))
