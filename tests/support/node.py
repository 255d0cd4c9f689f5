"""A served node as a subprocess: ours, or stock Bokeh's with the same face, so that one test can hold for both.

A node is up when its log says so; nothing here sleeps and hopes. When the test is done, every process that the node
started must be gone: they are found by a mark in their environment, which survives forks, new process groups and a dead
parent.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self
from urllib.parse import urlsplit

from support.fetch import fetch
from support.patience import seconds, wait_until

__all__ = ["APPS", "BOTH", "EXAMPLES", "EXTENSIONS", "Node", "StockNode", "app_path", "kind_name"]

APPS = Path(__file__).parent / "apps"
EXTENSIONS = Path(__file__).parent / "extensions"
EXAMPLES = Path(__file__).parents[2] / "examples"

_MARK = "TEST_NODE_MARK"
BOOT_SECONDS = 60
"""From exec to the last ready line; importing Bokeh and the apps on a busy machine is most of it."""
STOP_SECONDS = 30


def app_path(name: str | Path) -> str:
    """The path of an app: one of `support/apps` by its file name, or any path as it is."""
    path = Path(name)
    return str(path if path.is_absolute() else APPS / path)


class _Log:
    """What the node has written so far, and a way to wait for more of it."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.lines: list[str] = []
        self.ended = False
        self._process = process
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._changed:
                self.lines.append(line)
                self._changed.notify_all()
        with self._changed:
            self.ended = True
            self._changed.notify_all()

    def text(self) -> str:
        return "".join(self.lines)

    def wait_for(self, pattern: str, count: int, nominal: float) -> list[re.Match[str]]:
        deadline = time.monotonic() + seconds(nominal)
        with self._changed:
            while True:
                found = list(re.finditer(pattern, self.text()))
                if len(found) >= count:
                    return found
                left = deadline - time.monotonic()
                if self.ended or left <= 0:
                    what = "ended without" if self.ended else "never logged"
                    raise TimeoutError(f"the node {what} {pattern!r} x {count}:\n{self.text()}")
                self._changed.wait(left)

    def close(self) -> None:
        """Every process that held the pipe is gone by now, so the reader is at its end."""
        self._thread.join(seconds(STOP_SECONDS))
        if self._process.stdout is not None and not self._thread.is_alive():
            self._process.stdout.close()


class StockNode:
    """Stock `bokeh serve` on a free port.

    Args:
        apps: names in `support/apps`, or absolute paths.
        options: further command line options.
        env: variables on top of this process's environment; None as a value removes one.
        unix_socket: listen there and on no port; `url` is then only good for `fetch(..., unix_socket=...)`.
        wait: whether `__enter__` waits for the ready lines. A node that is meant to fail does not get there.
        launcher: words before the command, e.g. those that run it in a network namespace.
    """

    name: ClassVar[str] = "stock"
    command: ClassVar[tuple[str, ...]] = ("-m", "bokeh", "serve")
    ready: ClassVar[str] = r"app running at: (\S+)"

    def __init__(
        self,
        *apps: str | Path,
        options: Sequence[str] = (),
        env: Mapping[str, str | None] | None = None,
        unix_socket: Path | None = None,
        wait: bool = True,
        launcher: Sequence[str] = (),
    ) -> None:
        self._apps = [app_path(app) for app in apps]
        self._options = list(options)
        self._env = dict(env or {})
        self._unix_socket = unix_socket
        self._wait = wait
        self._launcher = list(launcher)
        self._mark = uuid.uuid4().hex
        self._process: subprocess.Popen[str] | None = None
        self._log: _Log | None = None
        self.url = ""
        """The scheme, host and port, without a trailing slash and without the prefix."""
        self.app_urls: list[str] = []

    # -- life

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self.process.poll() is None:
                self.stop()
            if problem is None:
                self.assert_nothing_left()
        finally:
            self._kill_leftovers()
            self.log_reader.close()
            if problem is not None:
                print(f"--- log of the {self.name} node\n{self.log()}")

    def start(self) -> None:
        """Start the process, and wait until it says that it serves."""
        environment = os.environ | {_MARK: self._mark, "PYTHONUNBUFFERED": "1"}
        environment |= {key: value for key, value in self._env.items() if value is not None}
        for key in (key for key, value in self._env.items() if value is None):
            environment.pop(key, None)
        self._process = subprocess.Popen(
            [*self._launcher, sys.executable, *self.command, *self._apps, *self.arguments()],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self._log = _Log(self._process)
        if self._wait:
            try:
                self.await_ready()
            except BaseException:
                self.process.kill()
                self._kill_leftovers()
                self.log_reader.close()
                raise

    def await_ready(self) -> None:
        """Wait for one ready line per app, and read the addresses from them."""
        if self._unix_socket is not None:
            wait_until(self._answers_on_socket, BOOT_SECONDS, f"no process listens on {self._unix_socket}")
            self.url = "http://localhost"
            return
        expected = max(1, len(self._apps))
        found = self.log_reader.wait_for(self.ready, expected, BOOT_SECONDS)
        self.app_urls = [match.group(1) for match in found[:expected]]
        where = urlsplit(self.app_urls[0])
        self.url = f"{where.scheme}://{where.netloc}"

    def _answers_on_socket(self) -> bool:
        try:
            return fetch("http://localhost/favicon.ico", unix_socket=str(self._unix_socket)).status == 200
        except OSError:
            return False

    def stop(self, nominal: float = STOP_SECONDS) -> int:
        """Send SIGTERM, and return the exit code once the node is gone."""
        self.process.send_signal(signal.SIGTERM)
        return self.wait(nominal)

    def wait(self, nominal: float = STOP_SECONDS) -> int:
        """The exit code of a node that ends by itself.

        Raises:
            TimeoutError: it goes on.
        """
        try:
            return self.process.wait(seconds(nominal))
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"the node goes on:\n{self.log()}") from None

    # -- what a test asks

    def arguments(self) -> list[str]:
        """The command line after the apps; options of the test come last, so they win."""
        where = ["--port", "0"] if self._unix_socket is None else ["--unix-socket", str(self._unix_socket)]
        return [*where, *self._options]

    def app_url(self, app: str) -> str:
        """The URL of an app, e.g. of `/sliders`."""
        return self.url + app

    def ws_url(self, app: str) -> str:
        """The websocket URL of an app."""
        return "ws" + self.url.removeprefix("http") + ("" if app == "/" else app) + "/ws"

    @property
    def process(self) -> subprocess.Popen[str]:
        assert self._process is not None, "the node has not been started"
        return self._process

    @property
    def log_reader(self) -> _Log:
        assert self._log is not None, "the node has not been started"
        return self._log

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def port(self) -> int:
        return urlsplit(self.url).port or 80

    def log(self) -> str:
        """All that the node has logged so far."""
        return self.log_reader.text()

    def wait_for_log(self, pattern: str, count: int = 1, nominal: float = 20) -> list[re.Match[str]]:
        """Wait until the log holds so many matches of the pattern."""
        return self.log_reader.wait_for(pattern, count, nominal)

    def kill(self, pid: int, sign: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to one process, which must be one of this node's."""
        assert pid in self.processes(), f"{pid} is not a process of this node"
        os.kill(pid, sign)

    def processes(self) -> list[int]:
        """The living processes of this node, leader and leftovers alike."""
        return [pid for pid in _processes() if _carries(pid, f"{_MARK}={self._mark}")]

    # -- the end

    def assert_nothing_left(self) -> None:
        """Fail if a process of this node outlives it; children may take a moment to notice that it is gone."""
        wait_until(lambda: not self.processes(), 10, f"processes were left behind: {self._describe()}")

    def _describe(self) -> str:
        return ", ".join(f"{pid} {_command_line(pid)!r}" for pid in self.processes())

    def _kill_leftovers(self) -> None:
        for pid in self.processes():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass  # gone between the look and the signal
        self.process.wait(seconds(STOP_SECONDS))


class Node(StockNode):
    """`aperture serve` on a free port, with its admin endpoints on another."""

    name = "aperture"
    command: ClassVar[tuple[str, ...]] = ("-m", "aperture", "serve")

    def __init__(
        self,
        *apps: str | Path,
        options: Sequence[str] = (),
        env: Mapping[str, str | None] | None = None,
        unix_socket: Path | None = None,
        wait: bool = True,
        launcher: Sequence[str] = (),
    ) -> None:
        # Tests read lines as people do, though no terminal is there; what a test asks for wins.
        spoken = {"APERTURE_LOG_FORMAT": "human", **(env or {})}
        super().__init__(*apps, options=options, env=spoken, unix_socket=unix_socket, wait=wait, launcher=launcher)
        self.admin_url = ""

    def arguments(self) -> list[str]:
        return ["--admin-port", "0", *super().arguments()]

    def await_ready(self) -> None:
        super().await_ready()
        admin = self.log_reader.wait_for(r"Admin endpoints at: (\S+)", 1, BOOT_SECONDS)
        self.admin_url = admin[0].group(1).rstrip("/")

    def admin(self, path: str) -> Any:
        """What an admin endpoint answers, decoded."""
        answer = fetch(self.admin_url + path)
        assert answer.status == 200, f"{path}: {answer.status} {answer.text}"
        return answer.json()

    def workers(self) -> list[dict[str, Any]]:
        """One row per worker, by index."""
        rows: list[dict[str, Any]] = self.admin("/workers")["workers"]
        return sorted(rows, key=lambda row: row["worker"])

    def start_again(self, workers: int) -> str:
        """Start a node that has ended once more, at the same address, and wait for its workers.

        Returns:
            The log of the one that has ended.
        """
        ended, port = self.log(), self.port
        self.log_reader.close()
        self._options += ["--port", str(port)]
        self.start()
        self.await_ready()
        wait_until(lambda: len(self.workers()) == workers, 30, "a worker is missing")
        return ended

    def worker_pids(self) -> list[int]:
        return [row["pid"] for row in self.workers()]

    def gateway_pid(self) -> int:
        pid: int = self.admin("/workers")["gateway"]["pid"]
        return pid

    def sessions(self) -> list[dict[str, Any]]:
        """One row per session of the node."""
        rows: list[dict[str, Any]] = self.admin("/sessions")["sessions"]
        return rows


BOTH: tuple[type[StockNode], ...] = (StockNode, Node)
"""For tests of what must be the same: `@pytest.fixture(params=BOTH, ids=kind_name)`."""


def kind_name(kind: type[StockNode]) -> str:
    """How a parametrised test names the server it ran against."""
    return kind.name


def _processes() -> Iterable[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _carries(pid: int, mark: str) -> bool:
    try:
        if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
            return False  # dead, and only waiting for its parent
        return mark.encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except (OSError, IndexError):
        return False  # gone meanwhile, or not ours to read


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return "gone"
