"""The bus of a node that was given none: a Redis of its own, on a private unix socket.

The supervisor starts it before the workers, starts it again when it dies, and stops it last; there is neither a port
nor a file that outlives it. Where `redis-server` is not installed, fakeredis's server stands in: the same commands,
several times slower, for development.

Its socket lies in the folder for temporary files, which some machines clean. So the supervisor holds the socket's file
open, and workers that are forked later connect through that (`held`), whatever became of the path; when Redis has to be
started again, the folder is made again.

Everything here runs in the supervisor, which has no event loop, except `run`, which is the child's.
"""

from __future__ import annotations

import ctypes
import importlib.util
import logging
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from aperture.private_folder import make_private, remove_folder

__all__ = ["EmbeddedServer"]

log = logging.getLogger(__name__)

READY_TIMEOUT = 30.0
"""Seconds. Redis takes milliseconds; the stand-in imports for a second, longer on a machine that is busy."""

SUBSCRIBER_LIMIT = "pubsub 256mb 64mb 60"
"""How far a worker may be behind what others say to it until it is cut off. By default 32 MB, or 8 MB for a minute: app
code that keeps a worker's loop for seconds, while its neighbours are busy, must not cost it what was said meanwhile."""

_POLL = 0.01
_LONGEST_SOCKET_PATH = 100
"""Bytes, of 108 on Linux and 104 on macOS."""

_PR_SET_PDEATHSIG = 1
_BACKLOG = 128
_LAST_WORDS = 500


class EmbeddedServer:
    """A Redis server that belongs to this node.

    Args:
        program: path of `redis-server`, or None for the stand-in.
    """

    def __init__(self, program: str | None) -> None:
        self._program = program
        self._directory = _private_directory()
        self._listener: socket.socket | None = None
        if program is None:
            # Kept here, so that the address stays the same when the stand-in is started again.
            self._listener = socket.create_server(("127.0.0.1", 0), backlog=_BACKLOG)
        # The number is the same for as long as this object lives, because workers get it before Redis runs.
        self.held: int | None = None if program is None else _path_descriptor(self._directory)
        """A descriptor of the socket's file, for `BusOptions`; None where the platform has none that can be used."""
        self._supervisor = os.getpid()
        self._closed = False

    @classmethod
    def choose(cls) -> EmbeddedServer | None:
        """What this machine can run, or None; says so in the log unless it is a real Redis."""
        program = shutil.which("redis-server")
        if program is not None:
            return cls(program)
        if all(importlib.util.find_spec(name) is not None for name in ("fakeredis", "lupa")):
            log.warning("redis-server is not installed: a slow substitute for development takes its place")
            return cls(None)
        return None

    @property
    def url(self) -> str:
        """For `BusOptions`; the same for as long as this object lives."""
        if self._listener is not None:
            return f"redis://127.0.0.1:{self._listener.getsockname()[1]}"
        return f"unix://{self._socket_path}"

    def command(self) -> list[str]:
        """The command line of the real server."""
        assert self._program is not None, "the stand-in is not a program"
        options = {
            "port": "0",
            "unixsocket": str(self._socket_path),
            "unixsocketperm": "700",
            "save": "",
            "appendonly": "no",
            "maxmemory": "0",
            "client-output-buffer-limit": SUBSCRIBER_LIMIT,
            "daemonize": "no",
            "dir": str(self._directory),
            "logfile": str(self._log_path),
            "loglevel": "warning",
        }
        return [self._program, *(part for name, value in options.items() for part in (f"--{name}", *value.split(" ")))]

    def run(self) -> NoReturn:
        """Be the server, until SIGTERM or the end of the supervisor. Runs in the child, which does nothing else."""
        os.setpgid(0, 0)  # Ctrl-C is for the supervisor, which stops the server last
        _die_with(self._supervisor)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        if self._program is not None:
            make_private(self._directory)
            with suppress(FileNotFoundError):
                self._socket_path.unlink()  # left by one that was killed
            os.execv(self._program, self.command())
        self._stand_in()

    def wait_ready(self, ended: Callable[[], bool] = lambda: False) -> bool:
        """Wait until the server answers; blocks. False if it does not in time, or has ended."""
        deadline = time.monotonic() + READY_TIMEOUT
        while not self.ready():
            if ended() or time.monotonic() > deadline:
                return False
            time.sleep(_POLL)
        return True

    def ready(self) -> bool:
        """Whether the server answers."""
        with self._client_socket() as client:
            client.settimeout(1.0)
            try:
                client.connect(self._address)
                client.sendall(b"*1\r\n$4\r\nPING\r\n")
                return client.recv(16).startswith(b"+PONG")
            except OSError:
                return False

    def hold(self) -> None:
        """In the supervisor, before each fork of a worker: have it inherit the socket that Redis listens on now."""
        if self.held is None:
            return
        descriptor = _path_descriptor(self._socket_path)
        if descriptor is not None:  # else it is gone, and the one that is held is all that leads to it
            os.dup2(descriptor, self.held, inheritable=False)
            os.close(descriptor)

    def last_words(self) -> str:
        """The end of the server's log, for people."""
        try:
            return self._log_path.read_text(errors="replace")[-_LAST_WORDS:].strip()
        except OSError:
            return ""

    def let_go(self) -> None:
        """In another child: close what belongs to the supervisor."""
        if self._listener is not None:
            self._listener.close()

    def close(self) -> None:
        """Remove what is left, once the server has ended. In the supervisor only; idempotent."""
        if not self._closed:
            self._closed = True
            self.let_go()
            if self.held is not None:
                os.close(self.held)
            remove_folder(self._directory)

    @property
    def _socket_path(self) -> Path:
        return self._directory / "redis.sock"

    @property
    def _log_path(self) -> Path:
        return self._directory / "redis.log"

    @property
    def _address(self) -> str | tuple[str, int]:
        if self._listener is not None:
            return "127.0.0.1", self._listener.getsockname()[1]
        return str(self._socket_path)

    def _client_socket(self) -> socket.socket:
        return socket.socket(socket.AF_UNIX if self._listener is None else socket.AF_INET, socket.SOCK_STREAM)

    def _stand_in(self) -> NoReturn:
        assert self._listener is not None, "only the stand-in listens here"
        from fakeredis import TcpFakeServer

        server = TcpFakeServer(("127.0.0.1", 0), bind_and_activate=False)
        server.socket.close()
        server.socket = self._listener
        server.serve_forever()
        raise AssertionError("it serves until it is killed")


def _private_directory() -> Path:
    """A new directory that only this user can enter; its path is short enough for a unix socket in it."""
    directory = tempfile.mkdtemp(prefix="aperture-")
    if len(os.fsencode(directory)) + len("/redis.sock") > _LONGEST_SOCKET_PATH:
        os.rmdir(directory)
        directory = tempfile.mkdtemp(prefix="aperture-", dir="/tmp")  # made anew, mode 0700
    return Path(directory)


def _path_descriptor(path: Path) -> int | None:
    """One that names a file without opening it: Linux connects to a socket through it even when its path is gone."""
    if sys.platform != "linux":
        return None
    try:
        return os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None


def _die_with(parent: int) -> None:
    """Have the kernel end this process when the supervisor is gone, even if that was killed. Linux only."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it was gone before
        os._exit(0)
