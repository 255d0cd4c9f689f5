"""A wire between nodes and Redis that can go dead: its connections stay open, and nothing passes any more.

That is what a firewall that forgot a connection, or a Redis host that lost its power, looks like from a worker.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from pathlib import Path

__all__ = ["DeafWire"]

_CHUNK = 64 * 1024


class _Connection:
    """Both directions of one connection."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self._ends = (client, server)
        self.subscribes = False
        self.dead = False
        for source, target in (self._ends, self._ends[::-1]):
            threading.Thread(target=self._carry, args=(source, target), daemon=True).start()

    def _carry(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while chunk := source.recv(_CHUNK):
                if b"SUBSCRIBE" in chunk:
                    self.subscribes = True
                if not self.dead:
                    target.sendall(chunk)
        self.close()

    def close(self) -> None:
        for end in self._ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


class DeafWire:
    """Listens on a free port of loopback and passes everything on to a Redis on a unix socket.

    Args:
        path: of Redis' socket.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._connections: list[_Connection] = []
        self.url = f"redis://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> DeafWire:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # or the accepting thread would sleep on
        self._listener.close()
        for connection in self._connections:
            connection.close()

    def deafen_subscribers(self) -> int:
        """Let nothing more pass on the connections that subscribe, as they are now; returns how many."""
        chosen = [connection for connection in self._connections if connection.subscribes and not connection.dead]
        for connection in chosen:
            connection.dead = True
        return len(chosen)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.socket(socket.AF_UNIX)
                try:
                    server.connect(str(self._path))
                except OSError:
                    client.close()
                    server.close()
                    continue
                self._connections.append(_Connection(client, server))
