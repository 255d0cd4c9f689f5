"""The physical limits: servers without a protocol, each a process of its own, for the clients of `client`.

    python bench/limits.py send     writes the same bytes to every connection with bare sockets
    python bench/limits.py echo     a uvloop protocol that writes back what it reads

Both print the port that they listen on.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

import uvloop

__all__ = ["bare"]

TAG = b"PATCH-DOC"
COMMAND = struct.Struct("!III")
SEND_BUFFER = 1 << 17
"""Bytes. The kernel sends queued bytes on the reader's time, as the reader acknowledges data, and the reader of large
messages is the slowest part: with larger buffers the same bytes take it longer."""

MOST_AT_ONCE = 100
"""Messages that a viewer has missed, in one write; the kernel takes 1,024 parts."""


@contextlib.contextmanager
def bare(kind: str) -> Iterator[int]:
    """Run one of the two; yields its port."""
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
    """Execute the command "so many viewers, bytes and rounds, then the marker", which any connection may send."""
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
    viewer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
    return viewer


def _send_rounds(viewers: list[socket.socket], command: bytes) -> None:
    """Send without copying, and without a write to a socket that is known to be full.

    One write for each message and viewer, as long as any viewer reads fast enough. When none does, wait for room.
    """
    _, size, rounds = COMMAND.unpack_from(command)
    payload = TAG.ljust(size, b".")
    behind, abreast = _Behind(payload), list(viewers)
    for done in range(rounds):
        fell = [(viewer, sent) for viewer in abreast if (sent := _send(viewer, [payload])) < size]
        for viewer, sent in fell:
            behind.take(viewer, done * size + sent)
            abreast.remove(viewer)
        if not abreast:
            break
        if behind:
            abreast += behind.catch_up((done + 1) * size, wait=False)
    while behind:
        behind.catch_up(rounds * size, wait=True)
    for viewer in viewers:
        viewer.sendall(command[COMMAND.size :])


def _send(viewer: socket.socket, parts: Sequence[bytes | memoryview]) -> int:
    """Send as much as the kernel accepts: a full socket must not delay the others."""
    try:
        return viewer.sendmsg(parts, (), socket.MSG_DONTWAIT)
    except BlockingIOError:
        return 0


class _Behind:
    """The viewers whose sockets were full, and how many bytes each has had. They continue once the kernel has room.

    Args:
        payload: the message that all get again and again.
    """

    def __init__(self, payload: bytes) -> None:
        self._payload = payload
        self._sent: dict[int, tuple[socket.socket, int]] = {}
        self._room = select.epoll()

    def __len__(self) -> int:
        return len(self._sent)

    def take(self, viewer: socket.socket, sent: int) -> None:
        """Add a viewer that has had so many bytes."""
        self._sent[viewer.fileno()] = viewer, sent
        self._room.register(viewer, select.EPOLLOUT)

    def catch_up(self, due: int, *, wait: bool) -> list[socket.socket]:
        """Send as many due bytes as there is room for; returns the viewers that now have all of them.

        Args:
            due: bytes to each viewer, of whole messages.
            wait: for room, if there is none.
        """
        done = []
        for fd, _ in self._room.poll(None if wait else 0):
            viewer, sent = self._sent[fd]
            sent += _send(viewer, self._missed(sent, due))
            if sent < due:
                self._sent[fd] = viewer, sent
                continue
            self._room.unregister(fd)
            del self._sent[fd]
            done.append(viewer)
        return done

    def _missed(self, sent: int, due: int) -> Sequence[bytes | memoryview]:
        """The rest of a message, and further ones: always the same bytes in memory, which stay in the CPU's cache."""
        begun, size = sent % len(self._payload), len(self._payload)
        more = (due - sent - (size - begun)) // size
        return [memoryview(self._payload)[begun:], *[self._payload] * min(more, MOST_AT_ONCE)]


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
