"""A line in front of a node that carries so many bytes a second to its client, or, for a while, none at all."""

from __future__ import annotations

import contextlib
import socket
import threading
import time

from support.patience import seconds

__all__ = ["SlowLine"]

_CHUNK = 16 * 1024
_BUFFER = 64 * 1024
"""Bytes that the kernel may hold at each end, so that what is under way is a small part of what is sent."""


class SlowLine:
    """Listens on a free port of loopback, and passes everything on to a port.

    Args:
        port: of the node.
        rate: bytes a second on the way to the client; the other way is not slowed down.
    """

    def __init__(self, port: int, rate: int) -> None:
        self._target = port
        self._rate = rate
        self._open = threading.Event()
        self._open.set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._sockets: list[socket.socket] = []
        """Each from the moment that it is there, so that it is closed whatever comes of it."""
        self.carried = 0
        """Bytes that have reached the clients."""
        self.connections = 0
        """How many there have been."""

    @property
    def port(self) -> int:
        port: int = self._listener.getsockname()[1]
        return port

    def __enter__(self) -> SlowLine:
        self._accepting.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._open.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # or the accepting thread would sleep on
        self._accepting.join(seconds(10))  # it may be making a connection just now
        _end(*self._sockets)  # or the carrying threads would sleep on
        for end in (self._listener, *self._sockets):
            end.close()

    def block(self) -> None:
        """Carry nothing to the clients; their connections stay open."""
        self._open.clear()

    def unblock(self) -> None:
        """Carry on."""
        self._open.set()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.socket()
                self._sockets += (client, server)
                try:
                    self._connect(client, server)
                except OSError:  # the server is gone, and so is the line to it
                    client.close()
                    server.close()

    def _connect(self, client: socket.socket, server: socket.socket) -> None:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
        server.connect(("127.0.0.1", self._target))
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
        for end in (client, server):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.connections += 1
        threading.Thread(target=self._carry, args=(client, server), daemon=True).start()
        threading.Thread(target=self._carry_slowly, args=(server, client), daemon=True).start()

    def _carry(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while chunk := source.recv(_CHUNK):
                target.sendall(chunk)
        _end(source, target)

    def _carry_slowly(self, source: socket.socket, target: socket.socket) -> None:
        due = time.monotonic()
        with contextlib.suppress(OSError):
            while self._open.wait() and (chunk := source.recv(_CHUNK)):
                due = max(due, time.monotonic() - 0.05) + len(chunk) / self._rate
                time.sleep(max(0.0, due - time.monotonic()))
                target.sendall(chunk)
                self.carried += len(chunk)
        _end(source, target)


def _end(*ends: socket.socket) -> None:
    for end in ends:
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
