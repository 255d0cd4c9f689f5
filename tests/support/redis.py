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
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import redis
from support.patience import POLL, seconds, wait_until

from aperture.bus.redis import RedisBus
from aperture.bus.redis_options import BusOptions

__all__ = [
    "KINDS",
    "RedisServer",
    "SentinelGroup",
    "bus_on",
    "eventually",
    "free_port",
    "fresh_namespace",
    "loop_with_bus",
    "node_server",
]

KINDS = ("redis-server", "stand-in")

_namespaces = count()
_SAVED = "dump.rdb"

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
        self.port = port
        self.socket_path = self._directory / "redis.sock"
        self.url = f"unix://{self.socket_path}" if port is None else f"redis://127.0.0.1:{port}"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> RedisServer:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.kill()
        shutil.rmtree(self._directory, ignore_errors=True)

    def start(self, *, saved: bool = False) -> None:
        """Start it, empty or with what it has saved, and wait until it listens."""
        if not saved:
            (self._directory / _SAVED).unlink(missing_ok=True)  # a replica that was copied to has one, too
        options = {
            "port": str(self.port or 0),
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
        try:
            wait_until(self._listens, why="redis-server did not start")
        except TimeoutError:
            self.kill()
            raise

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

    def save(self) -> None:
        """Save all that it knows to disk, as it does by itself every few minutes where it is not told otherwise."""
        with redis.Redis(unix_socket_path=str(self.socket_path)) as client:
            client.save()

    def pause(self) -> None:
        """Stop the process: its connections stay open, and nothing answers."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def promote(self, path: Path) -> None:
        """Have a replica be a primary, and move its unix socket to where that of another was."""
        with redis.Redis(unix_socket_path=str(self.socket_path)) as client:
            client.replicaof("NO", "ONE")
        del self._options["replicaof"]
        self.socket_path.rename(path)
        self.socket_path = path

    def info(self, section: str) -> dict[str, Any]:
        """What it says of itself."""
        with redis.Redis(unix_socket_path=str(self.socket_path), decode_responses=True) as client:
            said: dict[str, Any] = client.info(section)
            return said

    def _listens(self) -> bool:
        with socket.socket(socket.AF_UNIX) as client:
            try:
                client.connect(str(self.socket_path))
            except OSError:
                return False
            return True


def _words(name: str, value: str) -> list[str]:
    return value.split() if name in ("client-output-buffer-limit", "replicaof") else [value]


class SentinelGroup:
    """A primary with a replica, and three sentinels that make the replica the primary once that is gone."""

    SERVICE = "main"
    QUORUM = 2
    SILENCE = 3000
    """Milliseconds without an answer, after which a sentinel holds a primary for down: a busy machine is slow."""

    def __init__(self) -> None:
        port = free_port()
        self.primary = RedisServer(port=port)
        self.replica = RedisServer({"replicaof": f"127.0.0.1 {port}"}, free_port())
        self._sentinels = [free_port() for _ in range(3)]
        self.url = "redis+sentinel://" + ",".join(f"127.0.0.1:{port}" for port in self._sentinels) + f"/{self.SERVICE}"
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> SentinelGroup:
        with contextlib.ExitStack() as stack:
            for server in (self.primary, self.replica):
                stack.enter_context(server)
            wait_until(lambda: self.replica.info("replication")["master_link_status"] == "up", 30, "no replica")
            for port in self._sentinels:
                stack.enter_context(self._sentinel(port))
            complete = [partial(self._is_complete, port) for port in self._sentinels]
            for condition in complete:
                wait_until(condition, 60, "a sentinel does not know the others")
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    def primary_port(self, sentinel: int = 0) -> int:
        """Where a sentinel says that the primary is."""
        with redis.Redis(port=self._sentinels[sentinel], decode_responses=True) as client:
            _, port = client.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.SERVICE)
            return int(port)

    def await_failover(self) -> None:
        """Until the replica is the primary, and every sentinel says so."""
        port = self.replica.port
        wait_until(lambda: self.replica.info("replication")["role"] == "master", 60, "the replica was not promoted")
        wait_until(lambda: {self.primary_port(one) for one in range(3)} == {port}, 60, "a sentinel missed it")

    def await_return(self) -> None:
        """Until the old primary, started again, follows the new one."""
        wait_until(lambda: self.primary.info("replication").get("master_link_status") == "up", 60, "it did not follow")

    @contextlib.contextmanager
    def _sentinel(self, port: int) -> Iterator[None]:
        with tempfile.TemporaryDirectory(prefix="sentinel-") as folder:
            config = Path(folder) / "sentinel.conf"
            config.write_text(
                f"port {port}\nbind 127.0.0.1\ndir {folder}\nlogfile {folder}/log\n"
                f"sentinel monitor {self.SERVICE} 127.0.0.1 {self.primary.port} {self.QUORUM}\n"
                f"sentinel down-after-milliseconds {self.SERVICE} {self.SILENCE}\n"
            )
            process = subprocess.Popen(["redis-server", str(config), "--sentinel"])
            try:
                yield
            finally:
                process.kill()
                process.wait(seconds(10))

    def _is_complete(self, port: int) -> bool:
        try:
            with redis.Redis(port=port, decode_responses=True) as client:
                known = client.sentinel_master(self.SERVICE)
        except redis.ConnectionError:
            return False
        return (known["num-slaves"], known["num-other-sentinels"]) == (1, len(self._sentinels) - 1)


@contextlib.asynccontextmanager
async def bus_on(url: str, namespace: str, *, wait: bool = False, **options: object) -> AsyncIterator[RedisBus]:
    """A started bus, closed at the end."""
    bus = RedisBus(BusOptions(url, namespace=namespace, **options))  # type: ignore[arg-type]
    await bus.start(wait=wait)
    try:
        yield bus
    finally:
        await bus.close()


@contextlib.contextmanager
def loop_with_bus(url: str) -> Iterator[tuple[asyncio.AbstractEventLoop, RedisBus]]:
    """A bus in a loop that runs while it is asked to, for state machines of many short examples."""
    with asyncio.Runner() as runner:
        loop, bus = runner.get_loop(), RedisBus(BusOptions(url))
        loop.run_until_complete(bus.start(wait=False))
        try:
            yield loop, bus
        finally:
            loop.run_until_complete(bus.close())


async def eventually(condition: object, nominal: float = 15, why: str = "") -> None:
    """Let the loop run until the condition holds."""
    assert callable(condition)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds(nominal)):
            while not condition():
                await asyncio.sleep(POLL)
    assert condition(), why or "it never happened"
