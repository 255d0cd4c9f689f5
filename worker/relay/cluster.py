"""A worker among others: its rooms of the relay put together, and what comes over its channel and from the bus.

`claims` says which sessions are this worker's, `owner_side` serves their viewers in other workers, `edge_side` serves
connections here of sessions elsewhere, and `heartbeat` keeps all of it alive.
"""

from __future__ import annotations

import asyncio
import logging

from aperture.bus.bus import Bus
from aperture.bus.calls import BackgroundTasks
from aperture.errors import BusDown
from aperture.metrics import RelayTally
from aperture.protocol.closing import SERVICE_RESTART
from aperture.registry.lease import LeaseKeeper
from aperture.registry.registry import Registry
from aperture.wire.envelopes import Chunk, ChunkRequest, Envelope, Hostile
from aperture.worker.relay.edge_side import EdgeSide
from aperture.worker.relay.heartbeat import Heartbeat
from aperture.worker.relay.owner_side import OwnerSide
from aperture.worker.relay.post import Post
from aperture.worker.session.store import SessionStore

__all__ = ["Cluster"]

log = logging.getLogger(__name__)


class Cluster:
    """This worker's part in the cluster.

    Args:
        bus: not started yet.
        registry: on that bus, for this worker.
        post: on that bus.
        store: the sessions that are here.
        owners: their viewers elsewhere.
        edges: connections here of sessions elsewhere.
        lease: keeps the lease while app code keeps this worker's loop.
        tally: counts what comes.
        hostile: counts what comes and is no message.
    """

    def __init__(
        self,
        bus: Bus,
        registry: Registry,
        post: Post,
        store: SessionStore,
        owners: OwnerSide,
        edges: EdgeSide,
        *,
        lease: LeaseKeeper | None = None,
        tally: RelayTally,
        hostile: Hostile,
    ) -> None:
        self.bus = bus
        self.hostile = hostile
        self.heartbeat = Heartbeat(registry, store, owners, edges)
        self.edges = edges
        self._registry = registry
        self._post = post
        self._owners = owners
        self._lease = lease
        self._tally = tally
        self._withdrawn = False
        self._tasks = BackgroundTasks("work for the cluster failed")

    @property
    def me(self) -> str:
        """This worker's name."""
        return self._registry.me

    @property
    def up(self) -> bool:
        """Whether Redis answers."""
        return self.bus.up

    @property
    def full(self) -> bool:
        """Whether Redis is there, and has no memory for new sessions."""
        return self._registry.full

    @property
    def idle(self) -> bool:
        """Whether nothing of a session elsewhere is here, and nothing is in flight."""
        return self.edges.idle and self._owners.idle and self._post.idle and not self._tasks

    async def start(self, *, wait: bool) -> None:
        """Connect, listen, and begin the heartbeat.

        Raises:
            BusUnavailable: Redis cannot be reached, and `wait` is false.
        """
        await self.bus.start(wait=wait)
        # What a rolling upgrade across two versions of the wire means, where its operator looks.
        log.info(
            "bus: wire version %d, namespace %s; nodes of another wire version share no sessions with this one",
            self.bus.names.version,
            self.bus.names.namespace,
        )
        self.bus.on_resubscribed(self._on_resubscribed)
        self.bus.watch(self._on_bus_changed)
        if self.bus.up:
            try:
                await self._registry.bury_predecessors()
                await self._registry.renew({})
            except BusDown as problem:
                log.warning("this worker is not in the registry yet: %s", problem)
        self._tasks.start(self._post.listen(self._on_payload))
        self.heartbeat.start()
        if self._lease is not None:
            self._lease.start()

    async def withdraw(self) -> None:
        """Give all claims up at once; sessions and edges here end soon. Idempotent."""
        if self._withdrawn:
            return
        self._withdrawn = True
        self.heartbeat.stop()
        if self._lease is not None:
            self._lease.stop()
        try:
            async with asyncio.timeout(1.0):
                await self._registry.withdraw()
        except (BusDown, TimeoutError):
            log.warning("the bus is down: this worker's claims end with its lease")

    async def stop(self) -> None:
        """Leave the cluster."""
        await self.withdraw()
        self.edges.close_all(SERVICE_RESTART, "restarting")
        await self.bus.close()

    def _on_payload(self, payload: bytes) -> None:
        self._tally.received += 1
        try:
            self._handle(Envelope.unpack(payload))
        except ValueError as problem:
            self.hostile.count("an inbox", problem)

    def _handle(self, message: Envelope) -> None:
        match message:
            case ChunkRequest():
                self._post.on_chunk_request(message)
            case Chunk():
                self._post.on_chunk(message)
            case _:
                if not (self._owners.handle(message) or self.edges.handle(message)):
                    raise ValueError(f"a {type(message).__name__} does not belong there")

    def _on_resubscribed(self) -> None:
        self.heartbeat.distrust()
        self.edges.on_bus_back()
        self._owners.on_bus_back()

    def _on_bus_changed(self, up: bool) -> None:
        if self._withdrawn:
            return  # closed by ourselves
        log.log(logging.INFO if up else logging.WARNING, "the bus is %s", "up again" if up else "down")
        if up:
            self._tasks.start(self.heartbeat.renew())
