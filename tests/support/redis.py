"""Redis servers for tests: started here, stopped here, on unix sockets or on loopback, with nothing on disk."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from itertools import count
from pathlib import Path

from support.patience import POLL, seconds, wait_until

from aperture.bus.redis import RedisBus
from aperture.bus.redis_options import BusOptions

__all__ = ["KINDS", "RedisServer", "bus_on", "eventually", "free_port", "fresh_namespace", "node_server"]

KINDS = ("redis-server", "stand-in")

_namespaces = count()

_NODE = """
import os, signal, sys
from aperture.bus.embedded import EmbeddedServer
server = EmbeddedServer(sys.argv[1] or None)
pid = os.fork()
if pid == 0:
    server.run()
print(server.url if server.wait_ready() else "", flush=True)
sys.stdin.read()
os.kill(pid, signal.SIGTERM)
os.waitpid(pid, 0)
server.close()
"""


def fresh_namespace() -> str:
    """One that no other test uses."""
    return f"test-{os.getpid()}-{next(_namespaces)}"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@contextlib.contextmanager
def node_server(kind: str) -> Iterator[str]:
    """The URL of a server as a node starts it for itself."""
    program = shutil.which("redis-server") if kind == "redis-server" else ""
    assert program is not None, "redis-server is not installed"
    command = [sys.executable, "-c", _NODE, program]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        try:
            assert url, "the server did not start"
            yield url
        finally:
            process.stdin.close()
            process.wait(seconds(10))


class RedisServer:
    """A real Redis that can be killed, started again empty, and paused.

    Args:
        options: of `redis-server`, by name.
        port: to listen on, on loopback; None listens on a unix socket only.
    """

    def __init__(self, options: Mapping[str, str] | None = None, port: int | None = None) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="redis-"))
        self._options = dict(options or {})
        self._port = port
        self.socket_path = self._directory / "redis.sock"
        self.url = f"unix://{self.socket_path}" if port is None else f"redis://127.0.0.1:{port}"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> RedisServer:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.kill()
        shutil.rmtree(self._directory, ignore_errors=True)

    def start(self) -> None:
        """Start it, empty, and wait until it listens."""
        options = {
            "port": str(self._port or 0),
            "bind": "127.0.0.1",
            "unixsocket": str(self.socket_path),
            "save": "",
            "appendonly": "no",
            "dir": str(self._directory),
            "logfile": str(self._directory / "log"),
            **self._options,
        }
        words = [word for name, value in options.items() for word in (f"--{name}", *_words(name, value))]
        self._process = subprocess.Popen(["redis-server", *words])
        wait_until(self._listens, why="redis-server did not start")

    def kill(self) -> None:
        """End it at once, with all that it knows."""
        if self._process is not None:
            self.resume()
            self._process.kill()
            self._process.wait(seconds(10))
            self._process = None
            self.socket_path.unlink(missing_ok=True)

    def restart(self) -> None:
        self.kill()
        self.start()

    def pause(self) -> None:
        """Stop the process: its connections stay open, and nothing answers."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def _listens(self) -> bool:
        with socket.socket(socket.AF_UNIX) as client:
            try:
                client.connect(str(self.socket_path))
            except OSError:
                return False
            return True


def _words(name: str, value: str) -> list[str]:
    return value.split() if name == "client-output-buffer-limit" else [value]


@contextlib.asynccontextmanager
async def bus_on(url: str, namespace: str, *, wait: bool = False, **options: object) -> AsyncIterator[RedisBus]:
    """A started bus, closed at the end."""
    bus = RedisBus(BusOptions(url, namespace=namespace, **options))  # type: ignore[arg-type]
    await bus.start(wait=wait)
    try:
        yield bus
    finally:
        await bus.close()


async def eventually(condition: object, nominal: float = 15, why: str = "") -> None:
    """Let the loop run until the condition holds."""
    assert callable(condition)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds(nominal)):
            while not condition():
                await asyncio.sleep(POLL)
    assert condition(), why or "it never happened"
