"""Whole programs around a `Server`: signals, exit codes, several processes, and what is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.node import _carries, _processes, app_path
from support.patience import run, seconds, wait_until
from support.wire import Viewer, page_token

MARK = "TEST_NODE_MARK"

APP = """
import os, sys, logging
from bokeh.application import Application
from bokeh.application.handlers import FunctionHandler
from bokeh.application.handlers.lifecycle import LifecycleHandler
from bokeh.models.widgets import Slider
from aperture import Server

class Diary(LifecycleHandler):
    def __init__(self):
        super().__init__()
        self._on_server_loaded = lambda context: print("loaded", os.getpid(), flush=True)
        self._on_server_unloaded = lambda context: print("unloaded", os.getpid(), flush=True)
        self._on_session_destroyed = lambda context: print("destroyed", os.getpid(), flush=True)

def fill(document):
    document.add_root(Slider(start=0, end=10, value=0, name="slider", title=str(os.getpid())))

app = Application(FunctionHandler(fill), Diary())
"""


class Program:
    """A program that runs, and what it has written."""

    def __init__(self, source: str, folder: Path, mark: str) -> None:
        self.output = folder / "output"
        self._sink = self.output.open("w")
        environment = os.environ | {MARK: mark, "PYTHONUNBUFFERED": "1"}
        command = [sys.executable, "-c", APP + source]
        self.process = subprocess.Popen(
            command, env=environment, stdout=self._sink, stderr=subprocess.STDOUT, start_new_session=True
        )

    def lines(self, word: str) -> list[str]:
        return [line for line in self.output.read_text().splitlines() if line.startswith(word)]

    def await_line(self, word: str, count: int = 1) -> list[str]:
        """Lines that begin with the word, once there are so many."""

        def look() -> list[str]:
            found = self.lines(word)
            if len(found) < count and self.process.poll() is not None:
                raise AssertionError(f"the program ended:\n{self.output.read_text()}")
            return found if len(found) >= count else []

        return wait_until(look, 40, f"no {word!r} in what the program wrote")

    def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        return self.process.wait(seconds(30))

    def close(self) -> None:
        self.process.kill()
        self.process.wait(seconds(10))
        self._sink.close()


@contextmanager
def program(source: str, folder: Path) -> Iterator[Program]:
    """Run it, and see that nothing of it is left behind."""
    mark = uuid.uuid4().hex
    running = Program(source, folder, mark)
    try:
        yield running
    finally:
        running.close()
        left = [pid for pid in _processes() if _carries(pid, mark)]
        for pid in left:
            os.kill(pid, signal.SIGKILL)
    assert left == []


def hold(port: str) -> Any:
    """Open a session's websocket, and return what tells its close code."""
    url = f"http://localhost:{port}/"
    return Viewer.open(f"ws://localhost:{port}/ws", page_token(url))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_one_process_until_shutdown(number: signal.Signals, tmp_path: Path) -> None:
    """A signal ends sessions with their hooks, then the server; the program goes on behind `run_until_shutdown`."""
    source = """
server = Server(app, port=0)
server.io_loop.add_callback(print, "port", server.port, flush=True)
server.run_until_shutdown()
import signal
print("behind", signal.getsignal(signal.SIGTERM) is signal.SIG_DFL, flush=True)
"""

    async def scenario() -> int | None:
        async with hold(port) as viewer:
            await viewer.pull()
            running.process.send_signal(number)
            return await viewer.wait_closed()  # type: ignore[no-any-return]

    with program(source, tmp_path) as running:
        (line,) = running.await_line("port")
        port = line.split()[1]
        assert run(scenario()) == 1012
        assert running.process.wait(seconds(30)) == 0
        assert [word.split()[0] for word in running.output.read_text().splitlines() if "port" not in word] == [
            "loaded",
            "destroyed",
            "unloaded",
            "behind",
        ]
        assert running.lines("behind") == ["behind True"]


def test_a_page_notices_the_death_of_a_program_whose_child_lives(tmp_path: Path) -> None:
    """The connection was the program's alone, though an app's callback had forked."""
    source = f"""
from bokeh.application.handlers import ScriptHandler
server = Server(Application(ScriptHandler(filename={app_path("forking.py")!r})), port=0)
server.io_loop.add_callback(print, "port", server.port, flush=True)
server.run_until_shutdown()
"""

    async def scenario(running: Program, port: str) -> None:
        async with hold(port) as viewer:
            await viewer.pull()
            await viewer.set("ask", "value", "1 living")
            while not viewer.value("answer", "text"):
                await viewer.next_message()
            child = int(viewer.value("answer", "text").split()[1])
            running.process.kill()
            try:
                await viewer.wait_closed()
                os.kill(child, 0)  # it lives: the page has not waited for its end
            finally:
                os.kill(child, signal.SIGKILL)

    with program(source, tmp_path) as running:
        (line,) = running.await_line("port")
        run(scenario(running, line.split()[1]), nominal=20)


def test_a_broken_start_is_raised_in_the_program(tmp_path: Path) -> None:
    """`run_until_shutdown` does not run on without what it needs."""
    source = """
from aperture.errors import BusUnavailable
try:
    Server(app, port=0, redis_url="redis://127.0.0.1:1").run_until_shutdown()
except BusUnavailable as problem:
    print("named", problem, flush=True)
"""
    with program(source, tmp_path) as running:
        running.await_line("named")
        assert running.process.wait(seconds(30)) == 0


NODE = """
logging.basicConfig(level=logging.INFO)
server = Server({"/app": app}, num_procs=2, port=0, admin_port=0)
for act in (server.get_sessions, lambda: server.get_session("/app", "x"), lambda: server.application):
    try:
        act()
    except RuntimeError as problem:
        print("refused", problem, flush=True)
"""

SHOWN = """
server.start()
server.show = lambda path: print("shown", server.port, path, os.getpid(), flush=True)
server.io_loop.add_callback(server.show, "/app")
server.io_loop.start()
print("behind", flush=True)
"""


def test_a_node_of_several_processes(tmp_path: Path) -> None:
    """Forked workers share the sessions; it runs through `io_loop` as in Bokeh's examples, and nothing stays behind."""
    with program(NODE + SHOWN, tmp_path) as running:
        (line,) = running.await_line("shown")
        _, port, path, pid = line.split()
        assert int(pid) == running.process.pid
        assert len(running.lines("refused")) == 3
        url = f"http://localhost:{port}{path}"
        workers = {line.split()[1] for line in running.lines("loaded")}
        assert len(workers) == 2
        assert pid not in workers
        asked = {id_of(url, number) for number in range(8)}
        assert asked == workers

        async def scenario() -> int | None:
            async with Viewer.open(f"ws://localhost:{port}{path}/ws", page_token(url)) as viewer:
                await viewer.pull()
                assert (await viewer.set("slider", "value", 3)).msgtype == "OK"
                running.process.send_signal(signal.SIGTERM)
                return await viewer.wait_closed()

        assert run(scenario()) == 1012
        assert running.process.wait(seconds(30)) == 0
        assert running.lines("behind")
        assert {line.split()[1] for line in running.lines("unloaded")} == workers


def id_of(url: str, number: int) -> str:
    """The process that has a new session, as its slider's title tells."""
    token = page_token(f"{url}?number={number}")

    async def scenario() -> str:
        async with Viewer.open(f"ws{url.removeprefix('http')}/ws", token) as viewer:
            await viewer.pull()
            return str(viewer.value("slider", "title"))

    return run(scenario())


def test_a_node_that_cannot_boot_ends_with_its_code(tmp_path: Path) -> None:
    """A worker's failure is the program's exit code, as for the command."""
    source = """
logging.basicConfig(level=logging.INFO)
Server({"/app": app}, num_procs=2, port=0, redis_url="redis://127.0.0.1:1").run_until_shutdown()
"""
    with program(source, tmp_path) as running:
        assert running.process.wait(seconds(40)) == 6


def test_a_node_stopped_from_a_callback(tmp_path: Path) -> None:
    """`stop` in the supervisor ends it like a signal, and the program goes on; the admin endpoints had said so."""
    source = """
import urllib.request, json
server = Server({"/app": app}, num_procs=2, port=0, admin_port=0, log_level="info", log_format="%(message)s")
server.io_loop.add_callback(server.stop)
server.run_until_shutdown()
server.stop()
try:
    server.start()
except RuntimeError as problem:
    print("refused", problem, flush=True)
"""
    with program(source, tmp_path) as running:
        running.await_line("refused")
        assert running.process.wait(seconds(30)) == 0


def test_app_code_that_has_run_is_not_forked(tmp_path: Path) -> None:
    """Each worker would have a copy of what it has made."""
    source = """
from bokeh.document import Document
app.initialize_document(Document())
app._static_path = None
import bokeh.application
bokeh.application.Application.safe_to_fork = False
try:
    Server(app, num_procs=2, port=0)
except RuntimeError as problem:
    print("refused", problem, flush=True)
"""
    with program(source, tmp_path) as running:
        running.await_line("refused")
        assert running.process.wait(seconds(30)) == 0
