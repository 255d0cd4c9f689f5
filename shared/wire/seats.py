"""What the supervisor gives each process that it forks."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["BEAT_INTERVAL", "GatewaySeat", "WorkerSeat"]

BEAT_INTERVAL = 0.25
"""Seconds between two signs of life of an event loop that the supervisor watches, and between two looks at them."""


@dataclass(frozen=True, slots=True)
class WorkerSeat:
    """What the supervisor gives a worker process to live with.

    Args:
        index: the worker's place, 0 to num_procs - 1; it stays the same across restarts.
        generation: counts the restarts of this place.
        link: the worker's end of its pair with the gateway.
        lifeline: a descriptor that becomes readable (end of file) when the supervisor is gone.
        booted: tells the supervisor that the worker serves.
        retire: asks the supervisor for a replacement: it tells the gateway to send nothing more, and the worker to end.
        pipe: by which it says so.
        watched: called first thing in a worker whose event loop the supervisor watches.
        beat: tells the supervisor that the event loop runs; called every so often.
    """

    index: int
    generation: int
    link: socket.socket
    lifeline: int
    booted: Callable[[], None]
    retire: Callable[[], None] = lambda: None
    pipe: int = -1
    watched: Callable[[], None] = lambda: None
    beat: Callable[[], None] = lambda: None


@dataclass(frozen=True, slots=True)
class GatewaySeat:
    """What the supervisor gives the gateway process to live with.

    Args:
        listeners: the listening sockets of the app port.
        admin_listeners: the listening sockets of the admin port, perhaps none.
        links: the gateway's end of the pair with each worker, by worker index.
        control: the gateway's end of its pair with the supervisor.
        lifeline: a descriptor that becomes readable (end of file) when the supervisor is gone.
        generations: each worker's generation as of the fork.
        supervisor_pid: for `/workers`.
    """

    listeners: tuple[socket.socket, ...]
    admin_listeners: tuple[socket.socket, ...]
    links: tuple[socket.socket, ...]
    control: socket.socket
    lifeline: int
    generations: tuple[int, ...]
    supervisor_pid: int
