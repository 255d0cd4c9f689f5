"""A worker among others: its inbox, its heartbeat, and how it comes and goes.

Every session is claimed in the registry before its app code runs (`aperture.worker.relay.claims`). What belongs to
another worker is reached through that worker's inbox (`edge_side`); what other workers want of sessions here comes
through ours (`owner_side`). A session that turns out to be another worker's is dropped here, and its browsers are sent
there.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter

from aperture.bus.bus import Bus
from aperture.bus.calls import listen
from aperture.errors import BusDown
from aperture.registry.lease import LeaseKeeper
from aperture.registry.registry import LEAST_GRACE
from aperture.wire.envelopes import (
    Chunk,
    ChunkRequest,
    Envelope,
    FromClient,
    Hostile,
    Join,
    Joined,
    Leave,
    Refused,
    Render,
    Rendered,
    Reply,
)
from aperture.worker.relay.claims import Claims
from aperture.worker.relay.edge_side import EdgeSide
from aperture.worker.relay.owner_side import OwnerSide
from aperture.worker.relay.relay_bus import RelayBus

__all__ = ["Cluster"]

log = logging.getLogger(__name__)


class Cluster:
    """This worker's part in the cluster.

    Args:
        bus: the way to the other workers; not started yet.
        claims: of this worker.
        owner: its sessions, for other workers.
        edges: its connections of other workers' sessions.
        keeper: keeps the lease while app code keeps this worker's loop; None where time is made up.
    """

    def __init__(
        self, bus: RelayBus, claims: Claims, owner: OwnerSide, edges: EdgeSide, keeper: LeaseKeeper | None = None
    ) -> None:
        self.claims = claims
        self.owner = owner
        self.edges = edges
        self._relay = bus
        self._bus = bus.bus
        self._registry = claims.registry
        self._keeper = keeper
        self._withdrawn = False
        self._was_full = False
        self._trusted_at = 0.0
        """Until then Redis may have been emptied, and a worker without a lease is not dead for that."""
        self._beating: asyncio.Task[None] | None = None

    # Life

    async def start(self, *, wait: bool) -> None:
        """Connect, listen, and begin the heartbeat.

        Raises:
            BusUnavailable: Redis cannot be reached, and `wait` is false.
        """
        await self._bus.start(wait=wait)
        # What a rolling upgrade across two versions of the wire means, where its operator looks.
        log.info(
            "bus: wire version %d, namespace %s; nodes of another wire version share no sessions with this one",
            self._bus.names.version,
            self._bus.names.namespace,
        )
        self._bus.on_resubscribed(self._on_resubscribed)
        self._bus.watch(self._on_bus_changed)
        if self._bus.up:
            try:
                await self._registry.bury_predecessors()
                await self._registry.renew({})
            except BusDown as problem:
                log.warning("not known to others yet: %s", problem)
        self._relay.tasks.start(listen(self._bus, self._bus.names.inbox(self.me), self._on_letter))
        self._beating = asyncio.ensure_future(self._beat())
        if self._keeper is not None:
            self._keeper.start()

    async def withdraw(self) -> None:
        """Give all claims up at once; sessions and edges here end soon. Idempotent."""
        if self._withdrawn:
            return
        self._withdrawn = True
        if self._beating is not None:
            self._beating.cancel()
        if self._keeper is not None:
            self._keeper.stop()
        await self.claims.withdraw()

    async def stop(self) -> None:
        """Leave the cluster."""
        await self.withdraw()
        self.edges.close()
        await self._bus.close()

    @property
    def up(self) -> bool:
        return self._bus.up

    @property
    def full(self) -> bool:
        """Whether Redis is there, and has no memory for new sessions."""
        return self._registry.full

    @property
    def hostile(self) -> Hostile:
        """Counts what nobody of ours can have sent."""
        return self._relay.hostile

    @property
    def idle(self) -> bool:
        """Whether nothing of any session elsewhere, and nothing under way, is left here."""
        return (
            self.edges.idle
            and self.owner.idle
            and self.claims.idle
            and self._relay.transfers.idle
            and not len(self._relay.tasks)
        )

    def edge_connections(self) -> Counter[str]:
        """Connections here of sessions elsewhere, by app."""
        return self.edges.connections()

    @property
    def bus(self) -> Bus:
        return self._bus

    @property
    def me(self) -> str:
        return self._registry.me

    # Inbox

    def _on_letter(self, payload: bytes) -> None:
        self._relay.tally.received += 1
        try:
            envelope = Envelope.unpack(payload)
        except ValueError as problem:
            self.hostile.count("an inbox", problem)
            return
        match envelope:
            case FromClient():
                self.owner.take(envelope)
            case Reply() | Joined() | Refused():
                self.edges.take(envelope)
            case Join():
                self.owner.join(envelope)
            case Leave():
                self.owner.leave(envelope)
            case Render():
                self.owner.render(envelope)
            case ChunkRequest():
                self._relay.tasks.start(self._relay.transfers.answer(envelope))
            case Chunk():
                self._relay.transfers.take(envelope)
            case Rendered():
                self.edges.rendered(envelope)
            case _:
                self.hostile.count("an inbox", ValueError(f"a {type(envelope).__name__} does not belong there"))

    # Heartbeat

    async def _beat(self) -> None:
        while True:
            try:
                await self.claims.renew()
                await self._look_for_room()
                await self.owner.look_after(await self._dead(self.owner.edges()))
                await self.edges.look_after(await self._dead(self.edges.owners()))
            except BusDown:
                log.debug("the bus is away; this heartbeat is left out")
            except Exception:
                log.exception("the heartbeat failed")
            await asyncio.sleep(self._registry.interval)

    async def _look_for_room(self) -> None:
        await self._registry.look_for_room()
        if self._registry.full != self._was_full:
            self._was_full = self._registry.full
            if self._was_full:
                log.warning("Redis is full (maxmemory): no new sessions here until it has room; those that live go on")
            else:
                log.info("Redis has room for new sessions again")

    async def _dead(self, workers: set[str]) -> set[str]:
        dead = workers - await self._registry.living(workers)
        return dead if asyncio.get_running_loop().time() >= self._trusted_at else set()

    def _on_resubscribed(self) -> None:
        self._trusted_at = asyncio.get_running_loop().time() + LEAST_GRACE + self._registry.interval
        self.edges.bus_is_back()
        self.owner.bus_is_back()

    def _on_bus_changed(self, up: bool) -> None:
        if self._withdrawn:
            return  # closed by ourselves
        log.log(logging.INFO if up else logging.WARNING, "the bus is %s", "back" if up else "away")
        if up:
            self._relay.tasks.start(self.claims.renew())
