"""The Redis that nodes under test share: started here on a private unix socket, with nothing on disk, and ended with
the `with` block. The benchmark reads its counters over a connection of its own.
"""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import redis

__all__ = ["SharedRedis", "shared_redis"]

BOOT_SECONDS = 20.0


class SharedRedis:
    """A running Redis.

    Args:
        socket: that it listens on.
    """

    def __init__(self, socket: Path) -> None:
        self.url = f"unix://{socket}"
        self._client = redis.Redis(unix_socket_path=str(socket))

    def await_ready(self) -> None:
        """Wait until it answers.

        Raises:
            redis.ConnectionError: it did not in time.
        """
        deadline = time.monotonic() + BOOT_SECONDS
        while True:
            try:
                self._client.ping()
                return
            except redis.ConnectionError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)

    def options(self, namespace: str, durability: str = "none") -> tuple[str, ...]:
        """The options of a node that shares it."""
        return ("--redis-url", self.url, "--redis-namespace", namespace, "--durability", durability)

    def commands(self) -> Counter[str]:
        """Calls so far by command, with those of scripts, and without those of this reading."""
        stats = self._client.info("commandstats")
        assert isinstance(stats, dict)
        calls = {name.removeprefix("cmdstat_"): int(about["calls"]) for name, about in stats.items()}
        return Counter({name: count for name, count in calls.items() if name not in ("info", "ping")})

    def memory(self) -> int:
        """Bytes in use."""
        about = self._client.info("memory")
        assert isinstance(about, dict)
        return int(about["used_memory"])

    def close(self) -> None:
        self._client.close()


@contextlib.contextmanager
def shared_redis() -> Iterator[SharedRedis]:
    """Run a Redis."""
    with tempfile.TemporaryDirectory(prefix="bench-redis-") as folder:
        socket = Path(folder) / "redis.sock"
        options = {"port": "0", "unixsocket": str(socket), "save": "", "appendonly": "no", "dir": folder}
        words = [word for name, value in options.items() for word in (f"--{name}", value)]
        process = subprocess.Popen(["redis-server", *words], stdout=subprocess.DEVNULL, start_new_session=True)
        server = SharedRedis(socket)
        try:
            server.await_ready()
            yield server
        finally:
            server.close()
            process.kill()
            process.wait()
