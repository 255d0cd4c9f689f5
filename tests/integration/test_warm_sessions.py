"""Sessions made ahead by real workers, with signed ids under a prefix, and over the end of their worker."""

from __future__ import annotations

import asyncio
import re
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.fetch import fetch
from support.node import Node
from support.patience import run, wait_until
from support.wire import ConnectionEnded, Viewer, page_token
from tornado.httpclient import HTTPError

from aperture.protocol.tokens import read_session_id

GIVEN_UP = "no session of /curious is made ahead: its code asks for the visitor's cookies"


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    options = ["--num-procs", "2", "--warm-sessions", "2", "--session-ids", "signed", "--prefix", "/data"]
    options += ["--durability", "ack"]
    with Node("late.py", "curious.py", options=options, env={"BOKEH_SECRET_KEY": "a secret of this test"}) as node:
        yield node


def total(node: Node, name: str, app: str) -> float:
    """The sum of a metric over the workers."""
    text = fetch(f"{node.admin_url}/metrics").text
    found = re.findall(rf'(?m)^{name}\{{[^}}]*app="{app}"[^}}]*\}} (\S+)', text)
    return sum(map(float, found))


def wait_for_ready(node: Node, count: int, app: str = "/late") -> None:
    wait_until(lambda: total(node, "aperture_warm_sessions", app) >= count, 60)


def test_a_page_gets_a_session_that_was_made_ahead(node: Node) -> None:
    """Its callbacks run from then on, and see the visitor's request; one that was not taken is no session."""
    wait_for_ready(node, 4)
    assert node.sessions() == []
    before = total(node, "aperture_warm_sessions_taken_total", "/late")
    token = page_token(node.app_url("/data/late"), headers={"User-Agent": "mine"})
    wait_until(lambda: total(node, "aperture_warm_sessions_taken_total", "/late") == before + 1)

    async def scenario() -> None:
        async with Viewer.open(node.ws_url("/data/late"), token) as viewer:
            await viewer.pull()
            ticks = int(viewer.value("ticks", "text"))
            assert ticks < 40, "its timer has run before there was a visitor"
            await viewer.wait_for_value("ticks", "text", str(ticks + 3))
            await viewer.set("slider", "value", 7)
            assert viewer.value("seen", "text") == "7 for mine"

    run(scenario())
    assert [session["id"] for session in node.sessions()] == [(read_session_id(token) or "")[:8]]


def test_a_request_with_arguments_or_an_id_gets_none(node: Node) -> None:
    """The app's code runs for it."""
    wait_for_ready(node, 4)
    before = total(node, "aperture_warm_sessions_taken_total", "/late")
    page_token(f"{node.app_url('/data/late')}?size=3")
    assert total(node, "aperture_warm_sessions_taken_total", "/late") == before


def test_an_app_that_reads_a_cookie_is_given_up_and_right(node: Node) -> None:
    """One line of each worker, and each visitor is greeted by name."""
    node.wait_for_log(re.escape(GIVEN_UP), 2)

    async def greeting(name: str) -> str:
        token = page_token(node.app_url("/data/curious"), headers={"Cookie": f"name={name}"})
        async with Viewer.open(node.ws_url("/data/curious"), token) as viewer:
            await viewer.pull()
            text: str = viewer.value("greeting", "text")
            return text

    for name in ("ada", "grace", "mary"):
        assert run(greeting(name)) == f"hello {name}"
    assert node.log().count(GIVEN_UP) == 2


def test_a_session_that_was_made_ahead_outlives_its_worker(node: Node) -> None:
    """Another one runs the code for the visitor's own request, and has what was changed since."""
    wait_for_ready(node, 4)
    token = page_token(node.app_url("/data/late"), headers={"User-Agent": "mine"})
    mine = (read_session_id(token) or "")[:8]

    async def change() -> None:
        async with Viewer.open(node.ws_url("/data/late"), token) as viewer:
            await viewer.pull()
            await viewer.set("slider", "value", 7)
            [pid] = [session["pid"] for session in node.sessions() if session["id"] == mine]
            node.kill(pid)
            with pytest.raises(ConnectionEnded):
                while True:
                    await viewer.next_message()

    async def come_back() -> None:
        async with Viewer.open(node.ws_url("/data/late"), token) as viewer:
            await viewer.pull()
            assert viewer.value("seen", "text") == "7 for mine"
            assert viewer.value("slider", "value") == 7

    run(change())
    run(come_back(), 60)


class Diary:
    """What the hooks of `/hooked` have noted: of which session, in which process."""

    def __init__(self, path: Path) -> None:
        self.env = {"HOOKS": str(path), "BOKEH_SECRET_KEY": "a secret of this test"}
        self._path = path

    def of(self, hook: str) -> Counter[tuple[str, int]]:
        noted = [line.split() for line in self._path.read_text().splitlines()]
        return Counter((session_id, int(pid)) for what, session_id, pid in noted if what == hook)

    def ready(self, node: Node) -> Counter[int]:
        """How many there are that nobody has, by process."""
        ready = Counter(pid for _, pid in self.of("made").elements())
        ready.subtract(pid for _, pid in self.of("destroyed").elements())
        ready.subtract(session["pid"] for session in node.sessions() if session["app"] == "/hooked")
        return Counter({pid: ready[pid] for pid in node.worker_pids()})


class Visit:
    """A visitor of `/hooked`, by a page without arguments."""

    def __init__(self, node: Node) -> None:
        self.token = page_token(node.app_url("/data/hooked"))
        self.session_id = read_session_id(self.token) or ""
        self._url = node.ws_url("/data/hooked")

    def move(self, value: int) -> int:
        """Come, whatever has become of the worker; see the theme; move the slider, and leave. What it was before."""

        async def scenario() -> int:
            while True:
                try:
                    async with Viewer.open(self._url, self.token) as viewer:
                        await viewer.pull()
                        assert viewer.value("plot", "background_fill_color") == "#123456"
                        before: int = viewer.value("slider", "value")
                        assert (await viewer.set("slider", "value", value)).msgtype == "OK"
                        return before
                except (ConnectionEnded, OSError, HTTPError):  # its worker is being replaced
                    await asyncio.sleep(0.1)

        return run(scenario(), 60)


@pytest.mark.parametrize("threads", ["0", "2"])
def test_hooks_themes_and_several_apps_through_drain_and_death(threads: str, tmp_path: Path) -> None:
    """What a hook is told of as created, the other is told of once as destroyed, in the same worker, if that lives."""
    diary = Diary(tmp_path / "hooks")
    options = ["--num-procs", "3", "--num-threads", threads, "--warm-sessions", "2", "--durability", "ack"]
    options += ["--session-ids", "signed", "--prefix", "/data", "--unused-session-lifetime", "600000"]
    with Node("hooked", "relayed.py", options=options, env=diary.env) as node:

        def wait_for_all() -> None:
            for app in ("/hooked", "/relayed"):
                wait_for_ready(node, 6, app)

        wait_for_all()
        assert node.sessions() == []
        assert not diary.of("destroyed")
        visits = [Visit(node) for _ in range(3)]
        assert [visit.move(7) for visit in visits] == [0, 0, 0]
        wait_until(lambda: diary.ready(node) == dict.fromkeys(node.worker_pids(), 2), 60)  # none is being made
        drained = set(node.worker_pids())
        node.process.send_signal(signal.SIGHUP)
        wait_until(lambda: len(node.workers()) == 3 and drained.isdisjoint(node.worker_pids()), 60)
        assert [visit.move(8) for visit in visits] == [7, 7, 7]
        wait_for_all()
        killed = node.worker_pids()[0]
        node.kill(killed)
        assert [visit.move(9) for visit in visits] == [8, 8, 8]
        assert Visit(node).move(1) == 0
        wait_until(lambda: len(node.workers()) == 3 and killed not in node.worker_pids(), 60)
        wait_until(lambda: diary.ready(node) == dict.fromkeys(node.worker_pids(), 2), 60)
        visited = {session["id"] for session in node.sessions()}
        assert visited >= {visit.session_id[:8] for visit in visits}
        assert len(visited) == 4, "one that nobody has is no session"
        assert total(node, "aperture_warm_sessions_taken_total", "/hooked") > 0
        node.stop()
        created = Counter({noted: count for noted, count in diary.of("created").items() if noted[1] != killed})
        assert max(created.values()) == 1
        assert diary.of("destroyed") == created
        assert "Traceback" not in node.log()


def test_what_was_made_ahead_expires_when_it_was_taken(tmp_path: Path) -> None:
    """As any session whose page was left, and not before; at the end the others do."""
    diary = Diary(tmp_path / "hooks")
    options = ["--num-procs", "3", "--warm-sessions", "2", "--session-ids", "signed", "--prefix", "/data"]
    options += ["--unused-session-lifetime", "300", "--check-unused-sessions", "100"]
    with Node("hooked", options=options, env=diary.env) as node:
        wait_for_ready(node, 6, "/hooked")
        visit = Visit(node)
        wait_until(lambda: [session_id for session_id, _ in diary.of("destroyed")] == [visit.session_id], 30)
        wait_until(lambda: node.sessions() == [])
        wait_until(lambda: diary.ready(node) == dict.fromkeys(node.worker_pids(), 2), 60)
        assert sum(diary.of("destroyed").values()) == 1
        node.stop()
        assert diary.of("destroyed") == diary.of("created")
