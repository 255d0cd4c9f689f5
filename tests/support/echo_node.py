"""A node whose workers are trivial: real supervisor and gateway, and workers that only speak the hand-over protocol.

Run as a script with one JSON argument (see `Plan`), it prints `{"admin": …, "port": …}` once the node is ready, and
exits with the supervisor's code. `EchoNode` starts that script and talks to it; it is what the tests use.

A worker answers each request with one JSON object in a kept-alive response, then echoes lines that are no request.
`/stuck?s` holds the whole worker for that many seconds, `/crash` kills it, and with `/retire` it asks to be replaced.
`/pour?n` sends so many bytes, as far as they are taken.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from support.patience import seconds

from aperture.config.settings import Settings, Tls
from aperture.errors import ExitCode
from aperture.gateway.front.head import parse_head
from aperture.gateway.gateway import gateway_main
from aperture.gateway.supervise.bind import bind_listeners
from aperture.gateway.supervise.supervisor import Supervisor
from aperture.protocol.naming import session_named
from aperture.wire.accounts import Load, SessionRow
from aperture.wire.endpoint import Endpoint
from aperture.wire.node_messages import (
    Adopt,
    Claimed,
    Describe,
    Extensions,
    ExtensionsAre,
    HandBack,
    Hello,
    LoadReport,
    SessionsAre,
)
from aperture.wire.seats import WorkerSeat

PATIENCE = seconds(15)
"""Seconds a test waits for what should take much less."""

MANY = 100
"""Sessions, of which each worker gets some."""

__all__ = ["PATIENCE", "Connection", "EchoNode", "Plan", "echo_node", "request"]


@dataclass
class Plan:
    """What kind of node to run.

    `mode` is how its workers behave: "serve"; "broken" (cannot boot, says so); "dies" (killed before it boots);
    "breaks later" (generations above 0 cannot boot); "stubborn" (ignores SIGTERM); "hangs at exit" (in what it has
    registered to run then); "slow boot"; "until polled" (the supervisor's poll ends the node after a few seconds);
    "handlers" (something has installed handlers for signals that are none of the supervisor's); "adopts" (orphans
    become the supervisor's children, as those of a container do, and `/orphan` leaves it one).
    """

    workers: int = 2
    mode: str = "serve"
    settings: dict[str, Any] = field(default_factory=dict)
    tls: tuple[str, str] | None = None


class EchoWorker:
    """The trivial worker."""

    def __init__(self, seat: WorkerSeat) -> None:
        self.seat = seat
        self.link = Endpoint(seat.link)
        self.sessions: dict[str, None] = {}
        self.adopted = 0
        self.extensions: dict[str, str] = {}
        self.stopping = False
        self.selector = selectors.DefaultSelector()
        self.connections: dict[socket.socket, Adopt] = {}

    def run(self) -> int:
        self.selector.register(self.seat.link, selectors.EVENT_READ)
        self.selector.register(self.seat.lifeline, selectors.EVENT_READ)
        self.hello()
        self.link.send(Extensions(self.seat.index, {f"ext{self.seat.index}": b"/somewhere"}))
        self.seat.booted()
        while not self.stopping:
            self.link.send(LoadReport(Load(len(self.sessions), len(self.connections), 0.001, 4096), self.adopted))
            for key, _ in self.selector.select(0.2):
                if key.fileobj is self.seat.link:
                    self.process()
                elif key.fileobj == self.seat.lifeline:
                    return 0
                elif isinstance(key.fileobj, socket.socket):
                    self.serve(key.fileobj)
        return 0

    def hello(self) -> None:
        self.link.send(Hello(self.seat.index, self.seat.generation, os.getpid()))

    def process(self) -> None:
        for message, passed in self.link.receive():
            if isinstance(message, Describe):
                self.hello()
                rows = tuple(SessionRow(name, "/echo", 1, 1, 0, 0.5) for name in self.sessions)
                self.link.send(SessionsAre(message.request, rows[:2], not rows[2:]))
                if rows[2:]:
                    self.link.send(SessionsAre(message.request, rows[2:], True))
            elif isinstance(message, ExtensionsAre):
                self.extensions = {name: os.fsdecode(folder) for name, folder in message.dirs.items()}
            elif isinstance(message, Adopt):
                assert passed is not None
                self.adopt(message, passed)

    def adopt(self, adopt: Adopt, sock: socket.socket) -> None:
        self.adopted = adopt.number
        if adopt.generation != self.seat.generation:
            self.link.send(HandBack(adopt.head, adopt.peer, adopt.tls), sock)
            return
        sock.setblocking(True)
        self.selector.register(sock, selectors.EVENT_READ)
        self.connections[sock] = adopt
        self.answer(sock, adopt.head)

    def answer(self, sock: socket.socket, raw: bytes) -> None:
        head = parse_head(raw, 200_000)
        session_id = session_named(head.query, head.headers)
        if session_id is not None and session_id not in self.sessions:
            self.sessions[session_id] = None
            self.link.send(Claimed((session_id,)))
        adopt = self.connections[sock]
        answer = {
            "worker": self.seat.index,
            "pid": os.getpid(),
            "generation": self.seat.generation,
            "session": session_id,
            "received": len(raw),
            "tls": adopt.tls,
            "peer": adopt.peer,
            "extensions": self.extensions,
            "descriptors": len(os.listdir("/proc/self/fd")),
        }
        body = json.dumps(answer).encode()
        with contextlib.suppress(OSError):
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        if head.path == "/stuck":
            time.sleep(float(head.query or "1"))
        if head.path == "/retire":
            self.seat.retire()
        if head.path == "/pour":
            sock.settimeout(seconds(0.5))
            with contextlib.suppress(OSError):
                sock.sendall(b"z" * int(head.query))
        if head.path == "/orphan":
            subprocess.run(["/bin/sh", "-c", "sleep 0.1 &"], check=True)
        if head.path == "/crash":
            os.kill(os.getpid(), signal.SIGKILL)
        if head.path == "/big":
            with contextlib.suppress(OSError):
                sock.sendall(b"z" * int(head.query))
            self.drop(sock)

    def serve(self, sock: socket.socket) -> None:
        if sock not in self.connections:
            return
        try:
            received = sock.recv(200_000)
        except OSError:
            received = b""
        if not received:
            self.drop(sock)
        elif received.startswith(b"GET "):
            self.again(sock, received)
        else:
            with contextlib.suppress(OSError):
                sock.sendall(received)

    def again(self, sock: socket.socket, raw: bytes) -> None:
        head = parse_head(raw, 200_000)
        session_id = session_named(head.query, head.headers)
        if session_id is None or session_id in self.sessions:
            self.answer(sock, raw)
            return
        self.selector.unregister(sock)
        adopt = self.connections.pop(sock)
        self.link.send(HandBack(raw, adopt.peer, adopt.tls), sock)

    def drop(self, sock: socket.socket) -> None:
        self.selector.unregister(sock)
        del self.connections[sock]
        sock.close()


def echo_worker_main(seat: WorkerSeat, mode: str) -> int:
    """A worker of the kind that the plan's mode says."""
    if mode == "broken" or (mode == "breaks later" and seat.generation > 0):
        return ExitCode.APP_BROKEN
    if mode == "hangs at exit" and seat.generation == 0:
        atexit.register(time.sleep, 600)
    if mode == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    if mode == "slow boot":
        time.sleep(1.0)
    worker = EchoWorker(seat)

    def stop(number: int, frame: object) -> None:
        worker.stopping = mode != "stubborn"

    signal.signal(signal.SIGTERM, stop)
    return worker.run()


def run_node(plan: Plan) -> int:
    """Run the supervisor of this plan's node in this process."""
    tls = None if plan.tls is None else Tls(*plan.tls)
    given = {"port": 0, "address": "127.0.0.1", "admin_port": 0, "shutdown_grace": 5.0, **plan.settings}
    settings = Settings(num_procs=plan.workers, tls=tls, **given)
    listeners, admin = bind_listeners(settings)
    port = None if settings.unix_socket else listeners[0].getsockname()[1]

    def ready(admin_port: int | None) -> None:
        print(json.dumps({"admin": admin_port, "port": port}), flush=True)

    if plan.mode == "adopts":
        become_subreaper()
    if plan.mode == "handlers":
        for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGRTMIN):
            signal.signal(number, lambda number, frame: None)
    polls = iter(range(6))
    poll = (lambda: next(polls) == 5) if plan.mode == "until polled" else None
    worker_main = partial(echo_worker_main, mode=plan.mode)
    supervisor = Supervisor(
        settings,
        listeners,
        admin,
        worker_main,
        partial(gateway_main, settings=settings),
        on_ready=ready,
        poll=poll,
        adopts_orphans=plan.mode == "adopts",
    )
    return supervisor.run()


def become_subreaper() -> None:
    """From here on orphans among this process's descendants are its own, as they are those of process 1 elsewhere."""
    import ctypes

    pr_set_child_subreaper = 36
    if ctypes.CDLL(None, use_errno=True).prctl(pr_set_child_subreaper, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


class Connection:
    """A client's connection that can be asked again and again."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        sock.settimeout(PATIENCE)
        self._file = sock.makefile("rb")

    def ask(self, target: str = "/", *headers: str) -> dict[str, Any]:
        """Send a request, and return what the worker answered."""
        self.send(request(target, *headers))
        status, body = self.response()
        assert status == 200, (status, body)
        answer: dict[str, Any] = json.loads(body)
        return answer

    def send(self, raw: bytes) -> None:
        """Send bytes as they are."""
        self.sock.sendall(raw)

    def response(self) -> tuple[int, bytes]:
        """The next response's status and body; status 0 when the connection ended instead."""
        line = self._file.readline()
        if not line:
            return 0, b""
        length = 0
        while (header := self._file.readline().strip()) != b"":
            name, _, value = header.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        return int(line.split()[1]), self._file.read(length)

    def rest(self) -> bytes:
        """Everything up to the end."""
        return self._file.read()

    def echo(self, line: bytes) -> bytes:
        """Have the worker echo a line."""
        self.send(line + b"\n")
        return self._file.readline().rstrip()

    def close(self) -> None:
        """Close it."""
        self._file.close()
        self.sock.close()


def request(target: str = "/", *headers: str) -> bytes:
    """A request as bytes."""
    lines = "".join(f"{header}\r\n" for header in headers)
    return f"GET {target} HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n".encode()


class EchoNode:
    """A running node, in processes of its own."""

    def __init__(self, plan: Plan) -> None:
        self.log = tempfile.NamedTemporaryFile("w+", suffix=".log")  # noqa: SIM115 - closed by stop
        command = [sys.executable, "-P", str(Path(__file__)), json.dumps(asdict(plan))]
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=self.log, text=True, env=environment, start_new_session=True
        )
        self.connections: list[Connection] = []
        self.port = 0
        self.admin_port: int | None = None

    def wait_ready(self) -> None:
        """Wait for the node to say that it serves."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"the node did not start:\n{self.logged()}"
        answer = json.loads(line)
        self.port, self.admin_port = answer["port"] or 0, answer["admin"]

    def logged(self) -> str:
        """What the node has logged so far."""
        return Path(self.log.name).read_text()

    def connect(self, port: int | None = None) -> Connection:
        """A new connection to the app port."""
        return self.wrap(socket.create_connection(("127.0.0.1", port or self.port), timeout=PATIENCE))

    def wrap(self, sock: socket.socket) -> Connection:
        """A client's connection over this socket, closed with the node at the latest."""
        self.connections.append(Connection(sock))
        return self.connections[-1]

    def ask(self, target: str = "/", *headers: str) -> dict[str, Any]:
        """One request on a connection of its own."""
        connection = self.connect()
        try:
            return connection.ask(target, *headers)
        finally:
            connection.close()

    def admin(self, path: str, method: str = "GET") -> tuple[int, str]:
        """Ask an admin endpoint; its status and text."""
        asked = urllib.request.Request(f"http://127.0.0.1:{self.admin_port}{path}", method=method)
        try:
            with urllib.request.urlopen(asked, timeout=PATIENCE) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as problem:
            with problem:
                return problem.code, problem.read().decode()

    def workers(self) -> dict[int, int]:
        """The pid of each worker that is up."""
        return {row["worker"]: row["pid"] for row in json.loads(self.admin("/workers")[1])["workers"]}

    def lag(self, worker: int) -> float:
        """Seconds by which a worker is known to be late."""
        rows = json.loads(self.admin("/workers")[1])["workers"]
        return next(float(row["event_loop_lag_seconds"]) for row in rows if row["worker"] == worker)

    def sessions_of_all(self, name: str = "s") -> dict[str, dict[str, Any]]:
        """New sessions until each worker has one: by id, who answered. One that is busy is not asked for any."""
        workers, answers = set(self.workers()), {}
        for number in range(MANY):
            session_id = f"{name}{number}"
            answers[session_id] = self.ask(f"/?bokeh-session-id={session_id}")
            if {answer["worker"] for answer in answers.values()} == workers:
                return answers
        raise AssertionError(f"some worker of {workers} gets no session: {answers}")

    def gateway(self) -> int:
        """The gateway's pid."""
        pid: int = json.loads(self.admin("/workers")[1])["gateway"]["pid"]
        return pid

    def descendants(self, *, zombies: bool = True) -> list[int]:
        """Every process of the node's own session."""
        found = []
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                with contextlib.suppress(OSError):
                    fields = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()
                    if int(fields[3]) == self.process.pid and (zombies or fields[0] != "Z"):
                        found.append(int(entry))
        return found

    def wait(self) -> int:
        """Wait for the node to end; its exit code."""
        return self.process.wait(PATIENCE)

    def stop(self) -> None:
        """End it, whatever state it is in."""
        for connection in self.connections:
            connection.close()
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(PATIENCE)
        for pid in self.descendants():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if self.process.stdout is not None:
            self.process.stdout.close()
        self.log.close()


@contextlib.contextmanager
def echo_node(
    workers: int = 2, mode: str = "serve", tls: tuple[str, str] | None = None, **settings: Any
) -> Iterator[EchoNode]:
    """A node that serves, until the block ends."""
    node = EchoNode(Plan(workers, mode, settings, tls))
    try:
        node.wait_ready()
        yield node
    finally:
        node.stop()


if __name__ == "__main__":
    import logging

    logging.basicConfig(level=logging.DEBUG, format="%(process)d %(name)s %(message)s")
    plan_given = json.loads(sys.argv[1])
    sys.exit(run_node(Plan(**plan_given)))
