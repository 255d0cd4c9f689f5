"""Every program on the page about `Server` does what the page says."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from support.documented import Documented, RunningProgram, programs_in
from support.fetch import fetch
from support.patience import run, seconds, wait_until
from support.redis import RedisServer
from support.wire import Viewer, page_token

PAGE = Path(__file__).parents[2] / "docs" / "server.md"
PROGRAMS = {program.name: program for program in programs_in(PAGE)}

SERVED = {
    "one-process-0": "/app",
    "routes-among-others-0": "/bokeh/app",
    "beside-flask,-and-inside-fastapi-0": "/app",
    "beside-flask,-and-inside-fastapi-1": "/app",
    "several-processes-0": "/app",
    "a-node-of-a-cluster-0": "/app",
}
"""The programs that serve until they are stopped, and where."""

ENDING = {"in-a-coroutine,-and-in-a-notebook-0": "1 root\n"}
"""Those that end by themselves, and what they write."""

LEFT_TO_THE_SYSTEM = {
    "routes-among-others-0",
    *("beside-flask,-and-inside-fastapi-0", "beside-flask,-and-inside-fastapi-1"),
}
"""They do not handle SIGTERM themselves, or raise it again when they have."""


def test_every_program_is_accounted_for() -> None:
    """A program that is added to the page is run here, too."""
    assert set(PROGRAMS) == SERVED.keys() | ENDING.keys()


@pytest.mark.parametrize("name", ENDING)
def test_programs_that_end(name: str, tmp_path: Path) -> None:
    """They write what they should, and end well."""
    with PROGRAMS[name].running(tmp_path) as running:
        code = running.process.wait(seconds(40))
        assert (code, running.text()) == (0, ENDING[name])


@pytest.mark.parametrize("name", SERVED)
def test_programs_that_serve(name: str, tmp_path: Path) -> None:
    """The app's page, its websocket and its slider work; what embeds it names it; SIGTERM ends the program."""
    with RedisServer() as redis:
        serve_and_end(PROGRAMS[name], name, tmp_path, redis.url)


def serve_and_end(program: Documented, name: str, folder: Path, redis_url: str) -> None:
    with program.running(folder, {"REDIS_URL": redis_url}) as running:
        url = running.url(SERVED[name])
        wait_until(lambda: answers(url, running), 40, f"nothing at {url}")
        run(visit(url))
        if "8000" in program.source:
            page = running.url("/", "8000")
            wait_until(lambda: answers(page, running), 40, f"nothing at {page}")
            assert url in fetch(page).text
        os.kill(running.process.pid, signal.SIGTERM)
        code = running.process.wait(seconds(30))
        assert code in ((0, -signal.SIGTERM) if name in LEFT_TO_THE_SYSTEM else (0,)), running.text()
        assert "Traceback" not in running.text()


async def visit(url: str) -> None:
    async with Viewer.open(f"ws{url.removeprefix('http')}/ws", page_token(url)) as viewer:
        document = await viewer.pull()
        (slider,) = document.roots
        event = {"kind": "ModelChanged", "model": {"id": slider.id}, "attr": "value", "new": 7}
        assert (await viewer.patch([event])).msgtype == "OK"


def answers(url: str, running: RunningProgram) -> bool:
    if running.process.poll() is not None:
        raise AssertionError(f"the program ended:\n{running.text()}")
    try:
        return fetch(url).status == 200
    except OSError:
        return False
