"""`aperture serve` as a process: how it ends when it cannot start, and what `--dev` does."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from textwrap import indent

from support.fetch import fetch
from support.node import Node
from support.patience import seconds, wait_until

from aperture.errors import ExitCode

TITLE = "from bokeh.io import curdoc\ncurdoc().title = {!r}\n"


def title(node: Node) -> str:
    """The title of the page, or nothing while the node is not there."""
    try:
        found = re.search(r"<title>(.*?)</title>", fetch(node.app_url("/app")).text)
    except OSError:
        return ""
    return found.group(1) if found else ""


def write(path: Path, source: str) -> Path:
    """Replace a file's text in one step, as editors do."""
    draft = path.with_suffix(".draft")
    draft.write_text(source)
    draft.replace(path)
    return path


def test_a_taken_port_ends_the_start_with_its_own_code(tmp_path: Path) -> None:
    """The log names the port, and nothing is left behind."""
    app = write(tmp_path / "app.py", TITLE.format("one"))
    with Node(app) as first, Node(app, options=["--port", str(first.port)], wait=False) as second:
        assert second.wait() == ExitCode.CANNOT_BIND
        assert f":{first.port}" in second.log()


def test_an_app_whose_imports_fail_ends_the_start_with_its_traceback(tmp_path: Path) -> None:
    """A worker that cannot boot stops the node instead of being started for ever."""
    app = write(tmp_path / "app.py", "import nothing_of_that_name\n")
    with Node(app, options=["--num-procs", "2"], wait=False) as node:
        assert node.wait() == ExitCode.APP_BROKEN
        assert "ModuleNotFoundError: No module named 'nothing_of_that_name'" in node.log()


def test_apps_that_prepare_their_imports_start(tmp_path: Path) -> None:
    """By a statement, by a hook of the server, or by the event loop that runs when they are imported."""
    (tmp_path / "lib").mkdir()
    write(tmp_path / "lib" / "mylib.py", "WORD = 'one'\n")
    write(tmp_path / "on_a_loop.py", "import asyncio\nasyncio.get_running_loop()\nWORD = 'two'\n")
    prepare = f"import sys\nsys.path.insert(0, {str(tmp_path / 'lib')!r})\n"
    by_itself = write(tmp_path / "by_itself.py", f"{prepare}import mylib\n" + TITLE.replace("{!r}", "mylib.WORD"))
    on_a_loop = write(tmp_path / "looping.py", "import on_a_loop\n" + TITLE.replace("{!r}", "on_a_loop.WORD"))
    hooked = tmp_path / "hooked"
    hooked.mkdir()
    write(hooked / "app_hooks.py", "def on_server_loaded(context):\n" + indent(prepare, "    "))
    write(hooked / "main.py", "import mylib\n" + TITLE.replace("{!r}", "mylib.WORD"))
    with Node(by_itself, on_a_loop, hooked) as node:
        pages = [fetch(node.app_url(f"/{app}")).text for app in ("by_itself", "looping", "hooked")]
        assert [re.search(r"<title>(.*?)</title>", page).group(1) for page in pages] == ["one", "two", "one"]  # type: ignore[union-attr]
        assert "fails outside of a session" not in node.log()


NOTES = """
import atexit, os, sys, tempfile

def note(word):
    with open({notes!r}, "a") as file:
        file.write(f"{{word}} {{os.getpid()}}\\n")

atexit.register(note, {word!r})
sys.kept_{word} = tempfile.TemporaryDirectory()
with open({folders!r}, "a") as file:
    file.write(sys.kept_{word}.name + "\\n")
"""


def test_exit_handlers_run_once_and_where_they_were_registered(tmp_path: Path) -> None:
    """A worker runs its own at its end, those behind temporary folders too, and none of the supervisor's."""
    notes, folders = tmp_path / "notes", tmp_path / "folders"
    app = tmp_path / "app"
    app.mkdir()
    for file, word in (("app_hooks.py", "supervisor"), ("main.py", "session")):
        write(app / file, NOTES.format(notes=str(notes), folders=str(folders), word=word))
    with Node(app, options=["--num-procs", "2"]) as node:
        assert fetch(node.app_url("/app")).status == 200
        workers = {str(row["pid"]) for row in node.workers()}
        assert node.stop() == ExitCode.OK
    # Bokeh runs the file of hooks once for each kind of hook.
    lines = notes.read_text().splitlines()
    # The trial import before the fork is a process of its own, and over when the supervisor goes on.
    by_trial = [line for line in lines if line.startswith("supervisor ") and line != f"supervisor {node.pid}"]
    assert lines[: len(by_trial)] == by_trial
    assert len(set(by_trial)) <= 1
    by_session, *by_supervisor = lines[len(by_trial) :]
    assert by_session.removeprefix("session ") in workers
    assert set(by_supervisor) == {f"supervisor {node.pid}"}
    assert not any(Path(name).exists() for name in folders.read_text().split())


def test_ctrl_c_while_the_command_is_imported_writes_nothing(tmp_path: Path) -> None:
    """Bokeh is most of that time, so it is Bokeh that is interrupted here: the process ends by the signal."""
    (tmp_path / "bokeh.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    command = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from aperture.__main__ import "
    ended = subprocess.run(
        [sys.executable, "-c", f"{command}main; main()", "serve"],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=seconds(60),
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (-signal.SIGINT, "", "")


def test_options_may_come_from_the_environment(tmp_path: Path) -> None:
    """The command line still wins: the node's port is the one that was free."""
    app = write(tmp_path / "app.py", TITLE.format("one"))
    with Node(app, env={"APERTURE_PREFIX": "deep/down", "APERTURE_PORT": "1", "APERTURE_NUM_PROCS": "2"}) as node:
        assert node.app_urls == [f"{node.url}/deep/down/app"]
        assert fetch(node.app_urls[0]).status == 200
        assert len(node.workers()) == 2


def test_a_supervisor_that_is_killed_leaves_no_files(tmp_path: Path) -> None:
    """The gateway notices, and removes what the node has in the folder for temporary files."""
    app = write(tmp_path / "app.py", TITLE.format("one"))
    # Not below `tmp_path`: with a path too long for a unix socket, the node's Redis goes to /tmp instead.
    with (
        TemporaryDirectory(dir="/tmp") as room,
        Node(app, options=["--num-procs", "2"], env={"TMPDIR": room}) as node,
    ):
        assert len(list(Path(room).glob("aperture-*"))) == 2, "a Redis and metrics"
        node.kill(node.pid)
        node.wait()
        wait_until(lambda: not node.processes())
        left = [path for folder in Path(room).glob("aperture-*") for path in (folder, *folder.iterdir())]
        assert left == []


def test_show_opens_each_app_once_however_many_workers_there_are(tmp_path: Path) -> None:
    """In the browser that BOKEH_BROWSER names."""
    app = write(tmp_path / "app.py", TITLE.format("one"))
    opened = tmp_path / "opened"
    browser = tmp_path / "browser.sh"
    browser.write_text(f'#!/bin/sh\necho "$1" >> {opened}\n')
    browser.chmod(0o755)
    env = {"BOKEH_BROWSER": f"{browser} %s"}
    with Node(app, options=["--show", "--num-procs", "3"], env=env) as node:
        wait_until(lambda: opened.exists() and opened.read_text(), why="no browser was opened")
        assert opened.read_text().splitlines() == [f"{node.url}/app"]


def test_dev_serves_the_app_as_it_is_after_a_change(tmp_path: Path) -> None:
    """By the same process, so a service manager still finds it."""
    app = write(tmp_path / "app.py", TITLE.format("one"))
    with Node(app, options=["--dev"]) as node:
        assert title(node) == "one"
        write(app, TITLE.format("two"))
        # Each start says it twice: on standard output, and in the log.
        node.url = node.wait_for_log(r"app running at: (\S+)/app", count=3)[2].group(1)
        assert title(node) == "two"
        assert node.process.poll() is None


def test_dev_waits_for_the_next_change_when_the_app_is_broken(tmp_path: Path) -> None:
    """Whether it does not compile or fails to import; the node does not end."""
    app = write(tmp_path / "app.py", "def (:\n")
    with Node(app, options=["--dev"], wait=False) as node:
        node.wait_for_log("waiting for a change")
        write(app, "import nothing_of_that_name\n")
        node.wait_for_log("waiting for a change", count=2)
        write(app, TITLE.format("mended"))
        node.url = node.wait_for_log(r"app running at: (\S+)/app")[0].group(1)
        assert title(node) == "mended"
        assert "SyntaxError" in node.log()
        assert "ModuleNotFoundError" in node.log()
