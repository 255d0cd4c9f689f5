"""What the machine allows: servers without a protocol, each a process of its own, for the clients of `client`.

    python bench/limits.py send     writes the same bytes to every connection with bare `socket.send`
    python bench/limits.py echo     a uvloop protocol that writes back what it reads

Both print the port that they listen on.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import select
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import uvloop

__all__ = ["bare"]

TAG = b"PATCH-DOC"
COMMAND = struct.Struct("!III")


@contextlib.contextmanager
def bare(kind: str) -> Iterator[int]:
    """Run one of the two; gives its port."""
    process = subprocess.Popen([sys.executable, str(Path(__file__)), kind], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield int(process.stdout.readline())
    finally:
        process.kill()
        process.communicate()


def _listen() -> socket.socket:
    listening = socket.create_server(("127.0.0.1", 0), backlog=2048)
    print(listening.getsockname()[1], flush=True)
    return listening


def send() -> None:
    """Obey "so many viewers, bytes and rounds, then the marker", which any connection may send."""
    listening = _listen()
    viewers: dict[int, socket.socket] = {}
    poll = select.epoll()
    poll.register(listening, select.EPOLLIN)
    while True:
        for fd, _ in poll.poll():
            if fd == listening.fileno():
                viewer = _accept(listening)
                viewers[viewer.fileno()] = viewer
                poll.register(viewer, select.EPOLLIN)
                continue
            command = viewers[fd].recv(64)
            if not command:
                poll.unregister(fd)
                del viewers[fd]
                continue
            while len(viewers) < COMMAND.unpack_from(command)[0]:
                viewer = _accept(listening)
                viewers[viewer.fileno()] = viewer
                poll.register(viewer, select.EPOLLIN)
            _send_rounds(list(viewers.values()), command)


def _accept(listening: socket.socket) -> socket.socket:
    viewer, _ = listening.accept()
    viewer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return viewer


def _send_rounds(viewers: list[socket.socket], command: bytes) -> None:
    _, size, rounds = COMMAND.unpack_from(command)
    payload = TAG.ljust(size, b".")
    last = command[COMMAND.size :]
    waiting = {viewer: bytearray() for viewer in viewers}
    for message in (*itertools.repeat(payload, rounds), last):
        for viewer in viewers:
            _send(viewer, message, waiting[viewer])
    for viewer in viewers:
        viewer.sendall(waiting[viewer])


def _send(viewer: socket.socket, message: bytes, waiting: bytearray) -> None:
    """Send what the kernel takes and keep the rest: a full socket must not hold up the others."""
    if waiting:
        waiting += message
        with contextlib.suppress(BlockingIOError):
            del waiting[: viewer.send(waiting, socket.MSG_DONTWAIT)]
        return
    try:
        sent = viewer.send(message, socket.MSG_DONTWAIT)
    except BlockingIOError:
        sent = 0
    if sent < len(message):
        waiting += message[sent:]


class _Echo(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._write = cast("asyncio.Transport", transport).write

    def data_received(self, data: bytes) -> None:
        self._write(data)


async def echo() -> None:
    server = await asyncio.get_running_loop().create_server(_Echo, sock=_listen())
    await server.serve_forever()


if __name__ == "__main__":
    if sys.argv[1] == "send":
        send()
    else:
        uvloop.run(echo())
