"""What the processes of a node say to each other: supervisor, gateway and workers.

The supervisor makes one pair of sockets per worker and one to the gateway before it forks; a message is one datagram
(`aperture.wire.endpoint`), and begins with the wire's version. Tags are part of the wire: a new kind gets the next one,
and none is used again.
"""

from __future__ import annotations

from typing import ClassVar

from aperture.errors import WireError
from aperture.version import WIRE_VERSION
from aperture.wire.accounts import AccountPart, Command, Load, Outcome, SessionRow
from aperture.wire.records import Codec, Name, Number, Record

__all__ = [
    "REPORT_INTERVAL",
    "Adopt",
    "Claimed",
    "Crowded",
    "Describe",
    "Drain",
    "Draining",
    "Execute",
    "Executed",
    "Extensions",
    "ExtensionsAre",
    "HandBack",
    "Hello",
    "LoadReport",
    "Moved",
    "NodeMessage",
    "NodeReady",
    "Others",
    "OthersAre",
    "OthersEnd",
    "Released",
    "SessionsAre",
    "WorkerDown",
]

REPORT_INTERVAL = 0.5
"""Seconds between two load reports of a worker; the gateway passes over one that has not reported for four of these."""

_VERSION = bytes([WIRE_VERSION])
"""First: what follows may have any form in another version."""


class NodeMessage(Record, frozen=True):
    """Base of the messages."""

    carries_socket: ClassVar[bool] = False

    def pack(self) -> bytes:
        """This message as one datagram."""
        return _VERSION + super().pack()

    @staticmethod
    def unpack(datagram: bytes) -> NodeMessage:
        """The message in one datagram.

        Raises:
            WireError: it is not one of ours, or of another wire version.
        """
        if not datagram.startswith(_VERSION):
            # It happens where the package was upgraded under a running node, and a replaced worker loads the new code.
            version = int.from_bytes(datagram[:1])
            raise WireError(f"of wire version {version}, where this process speaks {WIRE_VERSION}")
        return _CODEC.unpack(datagram[1:])


class Adopt(NodeMessage, frozen=True, tag=0):
    """Gateway to worker: this connection is yours. Carries the socket.

    Args:
        generation: the worker's generation that the gateway meant. A later generation hands the socket back, because
            the gateway may since have routed the session elsewhere.
        head: all that was read from the socket: the request head, and whatever followed it.
        peer: the client's address and port, or None for a unix socket.
        tls: whether the client speaks TLS (which the gateway has taken off).
        session_id: what routing found in the head. The worker may create this session.
        number: counts the gateway's hand-overs to this worker. `LoadReport` says the last one that arrived, so a
            connection that got lost on the way is not waited for.
    """

    carries_socket: ClassVar[bool] = True
    generation: Number
    head: bytes
    peer: tuple[str, int] | None
    tls: bool
    session_id: str | None
    number: Number


class HandBack(NodeMessage, frozen=True, tag=1):
    """Worker (or supervisor, for a dead worker) to gateway: route this connection again. Carries the socket."""

    carries_socket: ClassVar[bool] = True
    head: bytes
    peer: tuple[str, int] | None
    tls: bool


class Hello(NodeMessage, frozen=True, tag=2):
    """Worker to gateway: booted, send me connections. Also the answer to a new gateway's `Describe`."""

    worker: Number
    generation: Number
    pid: Number


class LoadReport(NodeMessage, frozen=True, tag=3):
    """Worker to gateway, each `REPORT_INTERVAL`. `adopted` is the number of the last `Adopt` that has arrived."""

    load: Load
    adopted: Number
    bus_up: bool = True
    """Also where there is no bus: then nothing is missing."""
    exhausted: bool = False
    """Whether connections have come since the last report that there was no descriptor for."""
    bus_full: bool = False
    """Whether Redis has no memory for new sessions."""
    heartbeat_fails: bool = False
    """Whether the last heartbeat failed although Redis answers, as where a key is not what it should be."""


class Claimed(NodeMessage, frozen=True, tag=4):
    """Worker to gateway: these sessions are mine. Sent before a response can tell anybody their ids."""

    session_ids: tuple[str, ...]


class Released(NodeMessage, frozen=True, tag=5):
    """Worker to gateway: these sessions are gone."""

    session_ids: tuple[str, ...]


class Crowded(NodeMessage, frozen=True, tag=13):
    """Worker to gateway: this session of mine has, or has no longer, more viewers than one worker should write to."""

    session_id: str
    crowded: bool


class Describe(NodeMessage, frozen=True, tag=6):
    """Gateway to worker: say `Hello`, and tell me of all your sessions in one or more `SessionsAre`."""

    request: Number


class SessionsAre(NodeMessage, frozen=True, tag=7):
    """Worker to gateway: one part of the answer to `Describe`."""

    request: Number
    sessions: tuple[SessionRow, ...]
    last: bool


class Extensions(NodeMessage, frozen=True, tag=8):
    """Worker to gateway: these extension packages' asset folders I know; answer with what all workers know."""

    request: Number
    dirs: dict[str, bytes]


class ExtensionsAre(NodeMessage, frozen=True, tag=9):
    """Gateway to worker: the answer to `Extensions`."""

    request: Number
    dirs: dict[str, bytes]


class Others(NodeMessage, frozen=True, tag=15):
    """Gateway to worker: ask the workers of all other nodes what they have, and tell me in one or more `OthersAre`.

    Args:
        request: a number for the answers.
        prefix: how the ids begin of the sessions that are wanted.
    """

    request: Number
    prefix: str


class OthersAre(NodeMessage, frozen=True, tag=16):
    """Worker to gateway: one part of the answer to `Others`.

    Args:
        request: of the question.
        worker: the name of the worker that the part is of.
        part: None if that worker does not answer.
    """

    request: Number
    worker: Name
    part: AccountPart | None


class OthersEnd(NodeMessage, frozen=True, tag=20):
    """Worker to gateway: the answer to `Others` is complete; or, if Redis is down, nothing more comes of it."""

    request: Number
    bus_up: bool


class Execute(NodeMessage, frozen=True, tag=17):
    """Gateway to worker: do this to a session, which is the receiver's or that of a worker of another node.

    Args:
        request: a number for the answer.
        worker: the name of the session's worker on the bus; empty for the receiver.
    """

    request: Number
    worker: Name
    command: Command


class Executed(NodeMessage, frozen=True, tag=18):
    """Worker to gateway: what became of an `Execute`."""

    request: Number
    outcome: Outcome


class Moved(NodeMessage, frozen=True, tag=19):
    """Worker to gateway: this session of mine is for worker `to` from now on; for any other, if that is None."""

    session_id: str
    to: Number | None


class WorkerDown(NodeMessage, frozen=True, tag=10):
    """Supervisor to gateway: this generation of the worker is dead; forget its sessions, send it nothing."""

    worker: Number
    generation: Number


class NodeReady(NodeMessage, frozen=True, tag=11):
    """Gateway to supervisor: every worker has said hello, and the admin endpoints answer on this port."""

    admin_port: Number | None


class Drain(NodeMessage, frozen=True, tag=12):
    """Supervisor to gateway: the node is going down; be unready from now on, and say `Draining`.

    Args:
        closing: take no more connections either. Until then they are served: who sends them may not have heard yet.
    """

    closing: bool


class Draining(NodeMessage, frozen=True, tag=14):
    """Gateway to supervisor: readiness is off."""


_CODEC = Codec(NodeMessage)
