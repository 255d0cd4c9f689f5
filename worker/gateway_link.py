"""The worker's side of its pair with the gateway: connections in; sessions, load and strangers out."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from itertools import count
from typing import Any, Protocol

from tornado.httputil import HTTPHeaders, RequestStartLine

from aperture.errors import BusDown
from aperture.inheritance import withhold
from aperture.protocol.naming import session_named
from aperture.wire.accounts import AccountPart, Command, Load, Outcome, SessionRow, in_parts
from aperture.wire.endpoint import Endpoint
from aperture.wire.node_messages import (
    Adopt,
    Claimed,
    Crowded,
    Describe,
    Execute,
    Executed,
    Extensions,
    ExtensionsAre,
    HandBack,
    Hello,
    LoadReport,
    Moved,
    NodeMessage,
    Others,
    OthersAre,
    OthersEnd,
    Released,
    SessionsAre,
)
from aperture.wire.seats import WorkerSeat
from aperture.worker.adopt import AdoptedStream, Peer, adopt_socket

__all__ = ["GatewayLink", "Orders"]

log = logging.getLogger(__name__)


class Orders(Protocol):
    """Does what operators want of a worker."""

    def others(self, prefix: str) -> AsyncIterator[tuple[str, AccountPart | None]]:
        """The accounts of other nodes' workers, in parts; None for a worker that does not answer.

        Raises:
            BusDown: no other worker can be asked.
        """
        ...

    async def execute(self, worker: str, command: Command) -> Outcome:
        """End or move a session of the worker with this name on the bus; of this one, if that is empty."""
        ...


class GatewayLink:
    """What a worker hears from the gateway and tells it: an `aperture.worker.session.placement.Gateway`.

    Args:
        seat: this worker's place in the node.
        adopt: takes each connection.
        describe: lists this worker's sessions.
        owns: whether a session id is here.
        creates: whether a path, without the query, is one that makes a session for a request that names none.
    """

    def __init__(
        self,
        seat: WorkerSeat,
        *,
        adopt: Callable[[AdoptedStream], None],
        describe: Callable[[], list[SessionRow]],
        owns: Callable[[str], bool],
        creates: Callable[[str], bool],
    ) -> None:
        self._seat = seat
        self._adopt = adopt
        self._describe = describe
        self._owns = owns
        self._creates = creates
        self._endpoint = Endpoint(seat.link, on_blocked=self._watch_writing)
        withhold(self._endpoint)
        self._adopted = 0
        self._exhausted = False
        self._crowded: set[str] = set()
        self._requests = count(1)
        self._answers: dict[int, asyncio.Future[dict[str, bytes]]] = {}
        self._flushed = asyncio.Event()
        self._flushed.set()
        self._open = False
        self._orders: Orders | None = None
        self._obeying: set[asyncio.Task[None]] = set()

    def obey(self, operations: Orders) -> None:
        """From now on, have this act on what operators want."""
        self._orders = operations

    def open(self) -> None:
        """Say hello and start listening."""
        asyncio.get_running_loop().add_reader(self._endpoint.fileno(), self._on_readable)
        self._open = True
        self._hello()

    def stop_adopting(self) -> None:
        """Take no more connections: what is queued stays in the pair, and the supervisor gives it to others."""
        if self._open:
            asyncio.get_running_loop().remove_reader(self._endpoint.fileno())
            self._open = False

    def report(self, load: Load, *, bus_up: bool = True, bus_full: bool = False, heartbeat_fails: bool = False) -> None:
        """Tell the gateway how this worker is doing."""
        if self._endpoint.queued == 0:  # a report that would come late is worth nothing
            report = LoadReport(load, self._adopted, bus_up, self._exhausted, bus_full, heartbeat_fails)
            self._endpoint.send(report)
            self._exhausted = False

    # Gateway

    async def announce(self, session_id: str) -> None:
        """Have requests for this session sent here; returns when the gateway can know."""
        self._endpoint.send(Claimed((session_id,)))
        await self._flushed.wait()

    def retract(self, session_id: str) -> None:
        """Requests for this session need not come here any more."""
        self._endpoint.send(Released((session_id,)))

    def move(self, session_id: str, to: int | None) -> None:
        """Have requests for this session sent to another worker: to this one, or to any if that is None."""
        self._endpoint.send(Moved(session_id, to))

    def say_crowded(self, session_id: str, crowded: bool) -> None:
        """Have further viewers of this session sent to other workers, or here again."""
        (self._crowded.add if crowded else self._crowded.discard)(session_id)
        self._endpoint.send(Crowded(session_id, crowded))

    # HandBackRequest

    def belongs_elsewhere(self, start: RequestStartLine, headers: HTTPHeaders, routed: str | None) -> bool:
        """A session that is not here; or a new one, which the gateway gives to the least loaded worker."""
        path, _, query = start.path.partition("?")
        session_id = session_named(query, headers)
        if session_id is not None:
            return session_id != routed and not self._owns(session_id)
        return start.method == "GET" and self._creates(path)

    def hand_back(self, released: socket.socket, head: bytes, peer: Peer) -> None:
        try:
            self._endpoint.send(HandBack(head, peer.address, peer.tls), released)
        except ValueError as problem:
            log.warning("a request that cannot be handed back is dropped: %s", problem)
            released.close()

    # Extensions

    async def share_extensions(self, dirs: dict[str, str]) -> dict[str, str]:
        """Send the gateway asset folders and return those that all workers have sent."""
        request = next(self._requests)
        answer = self._answers[request] = asyncio.get_running_loop().create_future()
        try:
            # Bytes, because a path may hold what is no text.
            self._endpoint.send(Extensions(request, {name: os.fsencode(folder) for name, folder in dirs.items()}))
            return {name: os.fsdecode(folder) for name, folder in (await answer).items()}
        finally:
            self._answers.pop(request, None)

    # Inside

    def _hello(self) -> None:
        self._endpoint.send(Hello(self._seat.index, self._seat.generation, os.getpid()))

    def _watch_writing(self, blocked: bool) -> None:
        loop = asyncio.get_running_loop()
        if blocked:
            self._flushed.clear()
            loop.add_writer(self._endpoint.fileno(), self._endpoint.flush)
        else:
            loop.remove_writer(self._endpoint.fileno())
            self._flushed.set()

    def _on_readable(self) -> None:
        for message, passed in self._endpoint.receive():
            try:
                self._handle(message, passed)
            except Exception:
                # Behind it in the batch are other people's connections.
                log.exception("acting on a %s from the gateway failed", type(message).__name__)
                if passed is not None:
                    passed.close()

    def _handle(self, message: NodeMessage, passed: socket.socket | None) -> None:
        match message:
            case Adopt():
                self._take(message, passed)
            case Describe(request=request):
                self._hello()
                self._send_sessions(request)
                self._repeat_crowded()
            case ExtensionsAre(request=request, dirs=dirs):
                answer = self._answers.get(request)
                if answer is not None and not answer.done():
                    answer.set_result(dirs)
            case Others():
                self._start(self._tell_of_others(message))
            case Execute():
                self._start(self._execute(message))
            case _:
                log.error("the gateway sent a %s to a worker", type(message).__name__)
                if passed is not None:
                    passed.close()

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._obeying.add(task)
        task.add_done_callback(self._obeying.discard)

    async def _tell_of_others(self, asked: Others) -> None:
        bus_up = True
        try:
            if self._orders is not None:
                async for worker, part in self._orders.others(asked.prefix):
                    self._endpoint.send(OthersAre(asked.request, worker, part))
        except (BusDown, TimeoutError):
            bus_up = False
        self._endpoint.send(OthersEnd(asked.request, bus_up))

    async def _execute(self, message: Execute) -> None:
        if self._orders is None:
            raise AssertionError("the link is opened when the worker is whole")
        self._endpoint.send(Executed(message.request, await self._orders.execute(message.worker, message.command)))

    def _take(self, message: Adopt, passed: socket.socket | None) -> None:
        self._adopted = message.number
        if passed is None:
            self._exhausted = True
            return
        if message.generation != self._seat.generation:
            # Meant for the worker that was here before; its sessions may be elsewhere by now.
            self._endpoint.send(HandBack(message.head, message.peer, message.tls), passed)
            return
        try:
            adopt_socket(passed)
            stream = AdoptedStream(passed, message.head, Peer(message.peer, message.tls), message.session_id)
        except OSError as problem:
            log.debug("a connection was gone before it could be adopted: %s", problem)
            passed.close()
            return
        self._adopt(stream)

    def _send_sessions(self, request: int) -> None:
        for part, last in in_parts(self._describe()):
            self._endpoint.send(SessionsAre(request, part, last))

    def _repeat_crowded(self) -> None:
        """For a gateway that has started since. After the sessions: it takes this only of sessions that it knows."""
        for session_id in self._crowded:
            self._endpoint.send(Crowded(session_id, True))
