"""The two ends of the relay by themselves: a bus that notes what it is given, and takes it when the test says so."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import count
from typing import TypeVar

from support.outboxes import PlayedOutbox

from aperture.errors import BusDown, Fenced
from aperture.protocol import messages
from aperture.protocol.frames import FrameRun
from aperture.wire.envelopes import MAX_STORED, Envelope, Joined, Patches, Relayed, Reply, Stored
from aperture.wire.session_key import session_key_of

__all__ = [
    "ME",
    "OWNER",
    "SESSION_KEY",
    "EdgePostbox",
    "Outbox",
    "OwnerPostbox",
    "joined",
    "patches",
    "reply",
    "run_of",
]

E = TypeVar("E", bound=Envelope)

SESSION_KEY = session_key_of("/app", "session-id")
OWNER = "node/0/owner"
ME = "node/1/me"
EPOCH = 7


def run_of(text: str) -> FrameRun:
    """Frames that differ from others."""
    return messages.ok(text)


class OwnerPostbox:
    """What an audience gives to the bus."""

    me = OWNER

    def __init__(self) -> None:
        self.appended: list[Patches] = []
        self.messages: list[tuple[str, Envelope]] = []
        self.announced: list[Envelope] = []
        self.order: list[str] = []
        self.open = asyncio.Event()
        self.open.set()
        self.down = False
        self.fenced = False
        self.problem: Exception | None = None
        self.offers: dict[str, tuple[bytes, Callable[[], None]]] = {}
        self._offered = count(1)

    def offer(self, content: bytes, ended: Callable[[], None]) -> str:
        name = f"offer-{next(self._offered)}"
        self.offers[name] = (content, ended)
        return name

    def withdraw_offer(self, transfer: str) -> None:
        self.offers.pop(transfer, None)

    def end_offer(self, transfer: str) -> None:
        """It was fetched, or has expired."""
        _, ended = self.offers.pop(transfer)
        ended()

    async def _take(self, kind: str) -> None:
        if self.down:
            raise BusDown("down")
        if self.problem is not None:
            raise self.problem
        await self.open.wait()
        self.order.append(kind)

    async def append(self, session_key: str, epoch: int, first: int, last: int, payload: bytes, notice: bytes) -> None:
        assert session_key == SESSION_KEY
        if self.fenced:
            raise Fenced("another's")
        await self._take(f"patches {first}-{last}")
        envelope = Envelope.unpack(payload, MAX_STORED)
        assert isinstance(envelope, Patches)
        assert Envelope.unpack(notice) == Stored(epoch, last)
        assert (envelope.epoch, envelope.first, envelope.last) == (epoch, first, last)
        self.appended.append(envelope)

    async def tell(self, worker: str, envelope: Envelope) -> None:
        await self._take(type(envelope).__name__)
        self.messages.append((worker, envelope))

    async def announce(self, session_key: str, envelope: Envelope) -> None:
        await self._take(type(envelope).__name__)
        self.announced.append(envelope)

    def messages_of(self, kind: type[E]) -> list[E]:
        return [envelope for _, envelope in self.messages if isinstance(envelope, kind)]


class EdgePostbox:
    """What an edge gives to the bus, and the stream that it reads."""

    me = ME

    def __init__(self) -> None:
        self.sent: list[tuple[str, Envelope]] = []
        self.stream: list[bytes] | None = []
        self.reads: list[int] = []
        self.receivers = 1
        self.down = False
        self.problem: Exception | None = None
        self.readable = asyncio.Event()
        self.readable.set()
        self.offers: dict[str, bytes] = {}
        self.content: dict[str, asyncio.Future[bytes]] = {}
        """What the owner offers, when the test lets it come."""
        self._offered = count(1)

    def offer(self, content: bytes) -> str:
        name = f"offer-{next(self._offered)}"
        self.offers[name] = content
        return name

    def withdraw_offer(self, transfer: str) -> None:
        self.offers.pop(transfer, None)

    async def fetch(self, worker: str, transfer: str, size: int) -> bytes:
        assert worker == OWNER
        return await self.content[transfer]

    async def send(self, worker: str, envelope: Envelope) -> int:
        if self.down:
            raise BusDown("down")
        self.sent.append((worker, envelope))
        return self.receivers

    async def read(self, session_key: str, after: int) -> list[bytes] | None:
        if self.down:
            raise BusDown("down")
        if self.problem is not None:
            raise self.problem
        self.reads.append(after)
        stream = self.stream
        await self.readable.wait()
        return stream

    def sent_of(self, kind: type[E]) -> list[E]:
        return [envelope for _, envelope in self.sent if isinstance(envelope, kind)]


@dataclass
class Outbox(PlayedOutbox):
    """What one connection is written."""

    def __post_init__(self) -> None:
        self.runs: list[bytes] = []
        self.closed: tuple[int, str] | None = None

    def send(self, run: FrameRun) -> None:
        self.runs.append(run.plain)

    def close(self, code: int, reason: str) -> None:
        self.closed = self.closed or (code, reason)


def joined(connection: str, sequence: int = 0, *, received: int = 0, answered: int = 0, epoch: int = EPOCH) -> Joined:
    return Joined(SESSION_KEY, OWNER, connection, epoch, sequence, received, answered)


def reply(connection: str, number: int, text: bytes, *, after: int = 0, live: bool = True, epoch: int = EPOCH) -> Reply:
    return Reply(SESSION_KEY, epoch, connection, number, after, text, live)


def patches(
    first: int,
    *texts: bytes,
    epoch: int = EPOCH,
    variants: Mapping[str, bytes] | None = None,
    answers: Mapping[str, int] | None = None,
) -> bytes:
    """A publication of patches, one for each text; the variants are the last one's."""
    relayed = [Relayed(text, {}, {}) for text in texts]
    if variants is not None:
        relayed[-1] = Relayed(texts[-1], dict(variants), dict(answers or {}))
    return Patches(epoch, first, tuple(relayed)).pack()
