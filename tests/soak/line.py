"""Lines from the nodes to Redis that can be slow, or cut: `python -m soak.line REDIS HOST NODES`, a process of its own.

A process, so that Redis is as fast as it is while the soak's own people keep their interpreter busy. It prints the
port of each node's line, and then takes orders, one JSON object a line: `{"node": 0, "state": "open", "latency": 0.05,
"rate": 100000}`. A line that is `cut` carries nothing and keeps its connections, as a cable that was pulled; one that
is `refused` closes them and accepts no other.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import uvloop

__all__ = ["Lines"]

CHUNK = 64 * 1024
QUEUE = 64
"""Chunks that may be under way in one direction of one connection; then its sender is not read from."""


class Lines:
    """The process that carries, seen from the soak.

    Args:
        redis: the path of Redis's unix socket.
        host: where the lines begin.
        nodes: how many.
    """

    def __init__(self, redis: str, host: str, nodes: int) -> None:
        self._command = [sys.executable, "-m", "soak.line", redis, host, str(nodes)]
        self._host = host
        self._process: subprocess.Popen[str]
        self.urls: list[str] = []
        """Of Redis, as each node sees it."""

    def __enter__(self) -> Self:
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
        self._process = subprocess.Popen(
            self._command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        ports = self._process.stdout.readline().split()
        assert ports, "the lines were not laid"
        self.urls = [f"redis://{self._host}:{port}" for port in ports]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def set(self, nodes: Sequence[int], state: str = "open", latency: float = 0.0, rate: float = 0.0) -> None:
        """Change the lines of some nodes.

        Args:
            nodes: their numbers.
            state: `open`, `cut` or `refused`.
            latency: seconds that each byte is under way.
            rate: bytes a second in each direction of each connection; 0 sets no bound.
        """
        assert self._process.stdin is not None
        for node in nodes:
            order = {"node": node, "state": state, "latency": latency, "rate": rate}
            self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()


@dataclass(slots=True)
class _State:
    state: str
    latency: float
    rate: float
    changed: asyncio.Event


class _Line:
    """One node's."""

    def __init__(self, redis: str) -> None:
        self._redis = redis
        self._state = _State("open", 0.0, 0.0, asyncio.Event())
        self._writers: set[asyncio.StreamWriter] = set()

    def order(self, state: str, latency: float, rate: float) -> None:
        before = self._state
        self._state = _State(state, latency, rate, asyncio.Event())
        before.changed.set()
        if state == "refused":
            for writer in self._writers:
                writer.transport.abort()

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection of the node, until either side ends it."""
        self._writers.add(writer)
        there: asyncio.StreamWriter | None = None
        try:
            if self._state.state == "refused":
                return
            answers, there = await asyncio.open_unix_connection(self._redis)
            self._writers.add(there)
            ways = [asyncio.ensure_future(self._way(*ends)) for ends in ((reader, there), (answers, writer))]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
        except OSError:
            pass  # Redis is not there, and so nothing is
        finally:
            for end in (writer, there):
                if end is not None:
                    self._writers.discard(end)
                    end.transport.abort()

    async def _way(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        waiting: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(QUEUE)
        delivering = asyncio.ensure_future(self._deliver(waiting, writer))
        loop = asyncio.get_running_loop()
        try:
            while True:
                chunk = await reader.read(CHUNK)
                await waiting.put((loop.time() + self._state.latency, chunk))
                if not chunk:
                    break
            await delivering
        except OSError:
            pass  # the other direction has ended it
        finally:
            delivering.cancel()

    async def _deliver(self, waiting: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter) -> None:
        """In order, each when it is due; an empty chunk is the end."""
        loop = asyncio.get_running_loop()
        while True:
            due, chunk = await waiting.get()
            while self._state.state != "open":
                await self._state.changed.wait()
            if self._state.rate:
                due = max(due, loop.time()) + len(chunk) / self._state.rate
            if due > loop.time():
                await asyncio.sleep(due - loop.time())
            if not chunk:
                return
            writer.write(chunk)
            await writer.drain()


async def _main(redis: str, host: str, nodes: int) -> None:
    lines = [_Line(redis) for _ in range(nodes)]
    servers = [await asyncio.start_server(line.carry, host, 0) for line in lines]
    print(*(server.sockets[0].getsockname()[1] for server in servers), flush=True)
    orders = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    while text := await orders.readline():
        order: dict[str, Any] = json.loads(text)
        lines[order.pop("node")].order(**order)


if __name__ == "__main__":
    uvloop.run(_main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
