"""What the two sides of the relay send over the bus, and what they fetch of each other."""

from __future__ import annotations

import logging
from collections.abc import Callable

from aperture.bus.bus import Bus
from aperture.bus.calls import BackgroundTasks
from aperture.errors import BusDown
from aperture.metrics import RelayTally
from aperture.registry.registry import Registry
from aperture.wire.envelopes import Envelope, Hostile
from aperture.worker.relay.transfers import Transfers

__all__ = ["RelayBus"]

log = logging.getLogger(__name__)


class RelayBus:
    """One worker's way to the others.

    It is the `aperture.worker.relay.audience.Post` of audiences and the `aperture.worker.relay.edge.EdgePost` of edges.

    Args:
        bus: started or not.
        registry: on that bus, for this worker.
        tally: counts what is sent and received.
    """

    def __init__(self, bus: Bus, registry: Registry, tally: RelayTally) -> None:
        self.bus = bus
        self.tally = tally
        self.hostile = Hostile()
        self.transfers = Transfers(registry.me, self.tell)
        self.tasks = BackgroundTasks("work for the cluster failed")
        self._registry = registry

    @property
    def me(self) -> str:
        return self._registry.me

    async def append(self, session_key: str, epoch: int, first: int, last: int, payload: bytes, notice: bytes) -> None:
        self.tally.sent += 1
        await self._registry.append(session_key, epoch, first, last, payload, notice)

    async def read(self, session_key: str, after: int) -> list[bytes] | None:
        return await self._registry.read(session_key, after)

    async def tell(self, worker: str, envelope: Envelope) -> None:
        await self.send(worker, envelope)

    async def send(self, worker: str, envelope: Envelope) -> int:
        self.tally.sent += 1
        return await self.bus.publish(self.bus.names.inbox(worker), envelope.pack())

    async def announce(self, session_key: str, envelope: Envelope) -> None:
        self.tally.sent += 1
        await self.bus.publish(self.bus.names.channel(session_key), envelope.pack())

    def tell_soon(self, worker: str, envelope: Envelope) -> None:
        """Send an answer that may be lost with the bus."""
        self.tasks.start(self._tell_if_up(worker, envelope))

    async def _tell_if_up(self, worker: str, envelope: Envelope) -> None:
        try:
            await self.tell(worker, envelope)
        except BusDown:
            log.debug("an answer to another worker is lost with the bus")

    def offer(self, content: bytes, ended: Callable[[], None] | None = None) -> str:
        return self.transfers.offer(content, ended)

    def withdraw_offer(self, transfer: str) -> None:
        self.transfers.withdraw(transfer)

    async def fetch(self, worker: str, transfer: str, size: int) -> bytes:
        return await self.transfers.fetch(worker, transfer, size)
