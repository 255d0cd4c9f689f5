"""Routes each connection to a worker, or answers why it cannot.

Runs in the gateway. A connection that cannot be routed yet waits in a bounded queue: no worker is up, or this gateway
is new and the workers have not yet reported which sessions they have.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import deque

from aperture.deadlines import Deadlines
from aperture.gateway.front.answers import LingeringConnections
from aperture.gateway.front.head import Rejected, parse_head
from aperture.gateway.front.listener import Arrival
from aperture.gateway.front.workers import NodeWorkers
from aperture.protocol.naming import session_named
from aperture.wire.node_messages import MAX_DATAGRAM, Adopt, GatewaySeat, HandBack

__all__ = ["Dispatcher"]

log = logging.getLogger(__name__)

MAX_PARKED = 4096
"""Connections that wait for a worker; above it they are answered 503 at once."""

PARKED_FOR = 15.0
"""Seconds a connection waits for a worker: importing an app may take that long, and browsers wait as long."""

RECOVERY = 1.0
"""Seconds a new gateway waits for the workers' lists of sessions. A worker busy in app code answers later; even then
the claim in the registry prevents a second copy of its session."""


class Dispatcher:
    """Routes connections.

    Args:
        loop: the gateway's event loop.
        seat: the descriptors and numbers that the supervisor passes to the gateway.
        lingering: answers the connections that no worker gets.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, seat: GatewaySeat, lingering: LingeringConnections) -> None:
        self._loop = loop
        self._lingering = lingering
        self._unrouted: deque[Arrival] = deque()
        self._routing = False
        self._recovering = True
        self.handed_over = 0
        self.refused = 0
        """Connections, since this gateway started."""
        self._parked: Deadlines[Arrival] = Deadlines(loop, PARKED_FOR, self._on_parked_too_long)
        self.node_workers = NodeWorkers(
            loop, seat, on_hand_back=self._take_back, on_change=self._unpark, after_messages=self._route_all
        )

    @property
    def parked(self) -> int:
        """Connections waiting for a worker."""
        return len(self._parked)

    async def recover(self) -> None:
        """Ask the workers for the sessions that an earlier gateway knew; connections that name a session wait
        meanwhile."""
        survey = await self.node_workers.ask(self.node_workers.workers, RECOVERY)
        self._recovering = False
        if survey.sessions:
            log.debug("the workers report %d sessions", sum(map(len, survey.sessions.values())))
        self._unpark()
        self._route_all()

    def dispatch(self, arrival: Arrival) -> None:
        """Take a connection, and hand it over, queue it, or answer it."""
        self._unrouted.append(arrival)
        self._route_all()

    def close(self) -> None:
        """Answer the queued connections, and stop listening to the workers."""
        for arrival in self._parked.clear():
            self._refuse(arrival, 503, "the server is shutting down")
        self.node_workers.close()

    def _take_back(self, back: HandBack, sock: socket.socket) -> None:
        """Queue a request that a worker has handed back; it is routed after the messages around it have been
        processed."""
        sock.setblocking(False)
        try:
            head = parse_head(back.head, MAX_DATAGRAM)
        except Rejected as problem:
            log.info("refused a request from %s with %d: %s", back.peer, problem.status, problem.reason)
            self._lingering.send(sock, problem.status, problem.reason)
            return
        self._unrouted.append(Arrival(head, sock, back.peer, back.tls))

    def _unpark(self) -> None:
        self._unrouted.extend(self._parked.clear())

    def _route_all(self) -> None:
        if self._routing:
            return  # called while routing: the loop below handles what was added
        self._routing = True
        try:
            while self._unrouted:
                arrival = self._unrouted.popleft()
                try:
                    self._route(arrival)
                except Exception:
                    log.exception("routing a request from %s failed", arrival.peer)
                    self._refuse(arrival, 500, "the request could not be routed")
        finally:
            self._routing = False

    def _route(self, arrival: Arrival) -> None:
        if self.node_workers.closing.is_set():
            self._refuse(arrival, 503, "the server is shutting down")
            return
        session_id = session_named(arrival.head.query, arrival.head.headers)
        if session_id is not None and not self.node_workers.table.knows(session_id):
            self.node_workers.drain()
            if self._recovering and not self.node_workers.table.knows(session_id):
                self._park(arrival)
                return
        worker = self.node_workers.table.choose(session_id, self._loop.time(), viewer=_opens_websocket(arrival))
        if worker is None:
            self._park(arrival)
        else:
            self._hand_over(arrival, worker, session_id)

    def _hand_over(self, arrival: Arrival, worker: int, session_id: str | None) -> None:
        generation = self.node_workers.table.generation(worker)
        assert generation is not None, "the table chooses workers that are up"
        if self.node_workers.is_full(worker):
            log.warning("the queue of worker %d is full: its new connections are answered 503", worker)
            self._refuse(arrival, 503, "the server is busy")
            return
        number = self.node_workers.table.next_number(worker)
        adopt = Adopt(generation, arrival.head.raw, arrival.peer, arrival.tls, session_id, number)
        try:
            self.node_workers.send(worker, adopt, arrival.sock)
            self.handed_over += 1
        except ValueError:
            self._refuse(arrival, 431, "the request is too large to be handed over")

    def _park(self, arrival: Arrival) -> None:
        if len(self._parked) >= MAX_PARKED:
            self._refuse(arrival, 503, "no worker is up")
        else:
            self._parked.add(arrival)

    def _on_parked_too_long(self, arrival: Arrival) -> None:
        self._refuse(arrival, 503, "no worker is up")

    def _refuse(self, arrival: Arrival, status: int, reason: str) -> None:
        self.refused += 1
        log.info("refused a request from %s with %d: %s", arrival.peer, status, reason)
        self._lingering.send(arrival.sock, status, reason)


def _opens_websocket(arrival: Arrival) -> bool:
    return (arrival.head.headers.get("Upgrade") or "").lower() == "websocket"
