"""The gateway's ends of the socket pairs with the workers and with the supervisor, on its event loop."""

from __future__ import annotations

import asyncio
import select
import socket
from collections.abc import Callable, Sequence
from typing import Protocol

from aperture.wire.endpoint import Endpoint
from aperture.wire.node_messages import NodeMessage

__all__ = ["Link", "NodePairs", "Pair", "WorkerPairs"]


class Pair(Protocol):
    """The gateway's end of one pair."""

    @property
    def full(self) -> bool:
        """Whether the next `send` may be refused."""
        ...

    def send(self, message: NodeMessage, passed: socket.socket | None = None) -> bool:
        """Send or queue. False, with the socket closed, when the queue is full.

        Raises:
            ValueError: the message is too large for a datagram; the socket is still the caller's.
        """
        ...

    def receive(self) -> list[tuple[NodeMessage, socket.socket | None]]:
        """The messages that have arrived, `RECEIVE_LIMIT` at most."""
        ...


class NodePairs(Protocol):
    """All pairs of the gateway."""

    @property
    def workers(self) -> Sequence[Pair]:
        """By worker index."""
        ...

    @property
    def supervisor(self) -> Pair: ...

    def readable(self) -> tuple[list[int], bool]:
        """The workers from which messages have arrived, and whether any have from the supervisor."""
        ...

    def close(self) -> None:
        """Stop watching, and close the gateway's ends."""
        ...


class Link:
    """A `Pair` that the event loop watches.

    Args:
        loop: the gateway's event loop.
        end: this process's end of the pair.
        on_readable: called when messages may have arrived; must call `receive`.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, end: socket.socket, on_readable: Callable[[], None]) -> None:
        self._loop = loop
        self._endpoint = Endpoint(end, on_blocked=self._watch_writes)
        # Kept: a closed endpoint has none any more, and `close` needs it for the loop.
        self._descriptor = end.fileno()
        self._closed = False
        # Level-triggered: what `on_readable` leaves unread is reported again.
        loop.add_reader(self._descriptor, on_readable)

    @property
    def full(self) -> bool:
        return self._endpoint.full

    def fileno(self) -> int:
        return self._descriptor

    def send(self, message: NodeMessage, passed: socket.socket | None = None) -> bool:
        return self._endpoint.send(message, passed)

    def receive(self) -> list[tuple[NodeMessage, socket.socket | None]]:
        return self._endpoint.receive()

    def close(self) -> None:
        """Stop watching, and close this end."""
        if self._closed:
            return
        self._closed = True
        # Before the descriptor is closed: its number may be given to the next connection, and events of that come here.
        self._loop.remove_reader(self._descriptor)
        self._loop.remove_writer(self._descriptor)
        self._endpoint.close()

    def _watch_writes(self, blocked: bool) -> None:
        # Only while a queue waits: a socket that takes more is always ready, and would wake the loop without end.
        if blocked:
            self._loop.add_writer(self._descriptor, self._endpoint.flush)
        else:
            self._loop.remove_writer(self._descriptor)


class WorkerPairs:
    """`NodePairs` over sockets.

    Args:
        loop: the gateway's event loop.
        links: this process's ends of the pairs with the workers, by worker index.
        control: this process's end of the pair with the supervisor.
        on_readable: called when messages may have arrived.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        links: Sequence[socket.socket],
        control: socket.socket,
        on_readable: Callable[[], None],
    ) -> None:
        self.workers = [Link(loop, end, on_readable) for end in links]
        self.supervisor = Link(loop, control, on_readable)
        self._poll = select.poll()
        for link in (*self.workers, self.supervisor):
            self._poll.register(link.fileno(), select.POLLIN)

    def readable(self) -> tuple[list[int], bool]:
        # One system call for all pairs instead of one read per pair: most of the time none has anything, and this runs
        # for every new connection.
        ready = {descriptor for descriptor, _ in self._poll.poll(0)}
        workers = [worker for worker, link in enumerate(self.workers) if link.fileno() in ready]
        return workers, self.supervisor.fileno() in ready

    def close(self) -> None:
        for link in (*self.workers, self.supervisor):
            link.close()
