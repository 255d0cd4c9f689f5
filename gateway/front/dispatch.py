"""Routes each connection to a worker, or answers why it cannot.

Runs in the gateway. A connection that cannot be routed yet waits in a bounded queue: no worker is up, or this gateway
is new and the workers have not yet reported which sessions they have.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import deque
from functools import partial

from aperture.deadlines import Deadlines
from aperture.gateway.front.answers import LingeringConnections
from aperture.gateway.front.head import Rejected, parse_head
from aperture.gateway.front.listener import Arrival
from aperture.gateway.front.worker_pairs import WorkerPairs
from aperture.gateway.front.workers import NodeWorkers
from aperture.protocol.naming import session_named
from aperture.wire.endpoint import MAX_DATAGRAM
from aperture.wire.node_messages import Adopt, HandBack
from aperture.wire.seats import GatewaySeat

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
        # The gateway before this one may have been killed: the workers then have sessions that this one knows nothing
        # of.
        self._recovering = True
        self.handed_over = 0
        self.refused = 0
        """Connections, since this gateway started."""
        self._parked: Deadlines[Arrival] = Deadlines(loop, PARKED_FOR, self._on_parked_too_long)
        self.node_workers = NodeWorkers(
            loop,
            seat.generations,
            partial(WorkerPairs, loop, seat.links, seat.control),
            on_hand_back=self._take_back,
            on_change=self._unpark,
            after_messages=self._route_all,
        )

    @property
    def parked(self) -> int:
        """Connections waiting for a worker."""
        return len(self._parked)

    async def recover(self) -> None:
        """Ask the workers for the sessions that an earlier gateway knew; connections that name a session wait
        meanwhile."""
        # With a time limit: a worker in app code would keep every connection waiting that names a session.
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
        # The flag belongs to the open file, which the worker has shared: whatever it was set to there.
        sock.setblocking(False)
        try:
            # By the size of a datagram and not by the option: the worker has accepted this head within its own limit.
            head = parse_head(back.head, MAX_DATAGRAM)
        except Rejected as problem:
            log.info("refused a request from %s with %d: %s", back.peer, problem.status, problem.reason)
            self._lingering.send(sock, problem.status, problem.reason)
            return
        # Not routed here: the message that says whose session it is may be the next one in the same batch.
        self._unrouted.append(Arrival(head, sock, back.peer, back.tls))

    def _unpark(self) -> None:
        self._unrouted.extend(self._parked.clear())

    def _route_all(self) -> None:
        if self._routing:
            # Routing reads messages of the workers, which hand connections back, which have to be routed.
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
            # A page and its websocket follow each other within a millisecond: the worker's Claimed may be in the pair
            # already, unread. Taken now, it saves the websocket the way through a wrong worker.
            self.node_workers.drain()
            # Sent to any worker it would be relayed for its whole life, with the owner one seat away.
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
            # Asked first: `send` would close the connection without a word.
            log.warning("the queue of worker %d is full: its new connections are answered 503", worker)
            self._refuse(arrival, 503, "the server is busy")
            return
        # Numbered, as the worker's reports lag behind: until it confirms this one, its load counts one more.
        number = self.node_workers.table.next_number(worker)
        adopt = Adopt(generation, arrival.head.raw, arrival.peer, arrival.tls, session_id, number)
        try:
            self.node_workers.send(worker, adopt, arrival.sock)
            self.handed_over += 1
        except ValueError:
            # Only a head close to the largest, with a long session id; the socket is still ours then.
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
