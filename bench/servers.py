"""The servers under test as processes: stock `bokeh serve`, the same with TCP_NODELAY, `panel serve`, and ours.

All of them get the same apps and the same options, a free port on the loopback interface, and one core's worth of
workers unless a row says otherwise. At the end of the `with` block all processes have ended.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

__all__ = ["APPS", "NODELAY", "OURS", "OUR_PANEL", "PANEL", "STOCK", "Kind", "Server", "serve"]

HERE = Path(__file__).parent
APPS = HERE / "apps"

BOOT_SECONDS = 60.0
STOP_SECONDS = 15.0
LOG_SHOWN = 3000
"""Characters of a server's log that are shown when a row fails."""

KEEP_SESSIONS = ("--unused-session-lifetime", "3600000")
"""The end of sessions has a row of its own; in the others it would slow down the server that is being measured."""

Kind = str
STOCK: Kind = "stock"
NODELAY: Kind = "stock with TCP_NODELAY"
OURS: Kind = "ours"
PANEL: Kind = "panel serve"
OUR_PANEL: Kind = "aperture panel"

_COMMANDS: Mapping[Kind, Sequence[str]] = {
    STOCK: ("-m", "bokeh", "serve", "--port", "0"),
    NODELAY: (str(HERE / "stock_nodelay.py"), "serve", "--port", "0"),
    OURS: ("-m", "aperture", "serve", "--port", "0", "--admin-port", "0"),
    PANEL: ("-m", "panel", "serve", "--port", "0"),
    OUR_PANEL: ("-m", "aperture", "panel", "--port", "0", "--admin-port", "0"),
}
_READY = re.compile(r"app running at: (\S+)")


class Server:
    """A running server.

    Args:
        kind: which.
        process: its first process.
        log: the file that it writes its log to.
    """

    def __init__(self, kind: Kind, process: subprocess.Popen[bytes], log: Path) -> None:
        self.kind = kind
        self.port = 0
        self._process = process
        self._log = log

    def await_ready(self, apps: int) -> None:
        """Wait for one ready line per app.

        Raises:
            RuntimeError: it ended, or was not ready in time; its log is in the message.
        """
        deadline = time.monotonic() + BOOT_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            found = _READY.findall(self._log.read_text())
            if len(found) >= apps:
                self.port = urlsplit(found[0]).port or 0
                return
            time.sleep(0.05)
        raise RuntimeError(f"{self.kind} did not start:\n{self._log.read_text()}")

    def processes(self) -> list[int]:
        """Its first process and all descendants."""
        return _descendants(self._process.pid)

    def resident(self) -> int:
        """Bytes of memory that its processes hold. Shared pages count twice, but in a difference they cancel out."""
        return sum(_resident(pid) for pid in self.processes())

    def busy(self) -> float:
        """Seconds of CPU that its processes have had so far."""
        return sum(_cpu(pid) for pid in self.processes())

    def stop(self) -> None:
        """End it, by force if it takes too long. Idempotent."""
        pids = self.processes()
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_SECONDS if self.kind in (OURS, OUR_PANEL) else 2.0)
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait()
        self._log.unlink(missing_ok=True)


@contextlib.contextmanager
def serve(
    kind: Kind,
    *apps: str,
    options: Sequence[str] = KEEP_SESSIONS,
    workers: int = 1,
    env: Mapping[str, str] | None = None,
) -> Iterator[Server]:
    """Run one server over apps of `bench/apps`, named without their suffix."""
    paths = [str(_app_path(app)) for app in apps]
    command = [sys.executable, *_COMMANDS[kind], "--num-procs", str(workers), *options, *paths]
    with tempfile.NamedTemporaryFile(prefix="bench-", suffix=".log", delete=False) as sink:
        log = Path(sink.name)
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            env=os.environ
            | {"PYTHONUNBUFFERED": "1", "BOKEH_LOG_LEVEL": "warn", "APERTURE_LOG_FORMAT": "human"}
            | dict(env or {}),
            start_new_session=True,
        )
    server = Server(kind, process, log)
    try:
        server.await_ready(len(apps))
        yield server
    except Exception:
        print(f"--- log of {kind}\n{log.read_text()[-LOG_SHOWN:]}", file=sys.stderr)
        raise
    finally:
        server.stop()


def _app_path(name: str) -> Path:
    folder = APPS / name
    return folder if folder.is_dir() else APPS / f"{name}.py"


def _descendants(root: int) -> list[int]:
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, IndexError):
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                parents.setdefault(parent, []).append(int(entry.name))
    found = [root]
    for pid in found:
        found.extend(parents.get(pid, ()))
    return found


def _resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0


def _cpu(pid: int) -> float:
    try:
        times = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(times[11]) + int(times[12])) / os.sysconf("SC_CLK_TCK")
