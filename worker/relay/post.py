"""This worker's way to others: to one worker, to all edges of a session, and to what Redis stores for them."""

from __future__ import annotations

import logging
from collections.abc import Callable

from aperture.bus.bus import Bus
from aperture.bus.calls import BackgroundTasks, listen
from aperture.errors import BusDown
from aperture.metrics import RelayTally
from aperture.registry.registry import Registry
from aperture.wire.envelopes import Chunk, ChunkRequest, Envelope
from aperture.worker.relay.transfers import Transfers

__all__ = ["Post"]

log = logging.getLogger(__name__)


class Post:
    """What the owner side and the edge side need of the bus; see their protocols in `audience` and `edge`.

    Args:
        bus: started or not; may be down at any time.
        registry: on that bus, for this worker.
        tally: counts what is sent.
    """

    def __init__(self, bus: Bus, registry: Registry, tally: RelayTally) -> None:
        self._bus = bus
        self._registry = registry
        self._tally = tally
        self.me = registry.me
        self._transfers = Transfers(registry.me, self.tell)
        self._tasks = BackgroundTasks("answering another worker failed")

    @property
    def idle(self) -> bool:
        """Whether nothing is in flight, offered or being fetched."""
        return self._transfers.idle and not self._tasks

    async def listen(self, deliver: Callable[[bytes], None]) -> None:
        """Have what others send to this worker; returns once Redis has confirmed it, however long Redis is down."""
        await listen(self._bus, self._bus.names.inbox(self.me), deliver)

    # To one worker

    async def send(self, worker: str, envelope: Envelope) -> int:
        self._tally.sent += 1
        return await self._bus.publish(self._bus.names.inbox(worker), envelope.pack())

    async def tell(self, worker: str, envelope: Envelope) -> None:
        await self.send(worker, envelope)

    def reply(self, worker: str, envelope: Envelope) -> None:
        """Send soon; lost while Redis is down, and then asked for again."""
        self._tasks.start(self.tell(worker, envelope))

    async def listens(self, worker: str) -> bool:
        """Whether a worker can be reached. A dead one cannot, though its lease may still run.

        Raises:
            BusDown: Redis cannot be asked.
        """
        # Redis counts a subscription until it notices that the connection is gone: at once where the process was
        # killed; where its machine was, the lease may end first.
        _, listeners = await self._bus.command("PUBSUB", "NUMSUB", self._bus.names.inbox(worker))
        return int(listeners) > 0

    # To a session's edges

    async def append(self, session_key: str, epoch: int, first: int, last: int, payload: bytes, notice: bytes) -> None:
        self._tally.sent += 1
        await self._registry.append(session_key, epoch, first, last, payload, notice)

    async def announce(self, session_key: str, envelope: Envelope) -> None:
        self._tally.sent += 1
        await self._bus.publish(self._bus.names.channel(session_key), envelope.pack())

    # From a session's owner

    async def follow(self, session_key: str, deliver: Callable[[bytes], None]) -> None:
        """Have everything that is published to the session's edges. Raises BusDown, or ValueError if it is followed."""
        await self._bus.subscribe(self._bus.names.channel(session_key), deliver)

    def unfollow(self, session_key: str) -> None:
        """Deliver nothing more, from this call on."""
        # Nothing is delivered from the call on, not from Redis' answer on: the edge that it was for has ended.
        self._tasks.start(self._bus.unsubscribe(self._bus.names.channel(session_key)))

    async def read(self, session_key: str, after: int) -> list[bytes] | None:
        return await self._registry.read(session_key, after)

    # What is too large for one message

    def offer(self, content: bytes, ended: Callable[[], None] | None = None) -> str:
        return self._transfers.offer(content, ended)

    def withdraw_offer(self, transfer: str) -> None:
        self._transfers.withdraw(transfer)

    async def fetch(self, worker: str, transfer: str, size: int) -> bytes:
        return await self._transfers.fetch(worker, transfer, size)

    def on_chunk_request(self, request: ChunkRequest) -> None:
        """Another worker fetches what was offered."""
        self._tasks.start(self._answer(request))

    def on_chunk(self, chunk: Chunk) -> None:
        """Some of what is being fetched has come."""
        self._transfers.take(chunk)

    async def _answer(self, request: ChunkRequest) -> None:
        try:
            await self._transfers.answer(request)
        except BusDown:
            log.debug("a chunk is lost with the bus; it is asked for again")
