"""A worker among others: its rooms of the relay put together, and what comes over its channel and from the bus.

`claims` says which sessions are this worker's, `owner_side` serves their viewers in other workers, `edge_side` serves
connections here of sessions elsewhere, and `heartbeat` keeps all of it alive.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Iterator
from typing import Never

from aperture.bus.bus import Bus
from aperture.bus.calls import BackgroundTasks
from aperture.errors import BusDown, WireError
from aperture.metrics import Reading, RelayTally, families
from aperture.registry.lease import LeaseThread
from aperture.registry.registry import Registry
from aperture.wire.envelopes import Chunk, ChunkRequest, Envelope, Hostile
from aperture.worker.relay.edge_side import EdgeSide
from aperture.worker.relay.heartbeat import Heartbeat
from aperture.worker.relay.owner_side import OwnerSide
from aperture.worker.relay.post import Post
from aperture.worker.session.store import SessionStore

__all__ = ["Alone", "Cluster"]

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
        lease: LeaseThread | None = None,
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
    def heartbeat_fails(self) -> bool:
        """Whether the last heartbeat failed although Redis answers."""
        return self.heartbeat.fails

    @property
    def idle(self) -> bool:
        """Whether nothing of a session elsewhere is here, and nothing is in flight."""
        return self.edges.idle and self._owners.idle and self._post.idle and not self._tasks

    @property
    def address(self) -> tuple[Bus, str]:
        """The way to other workers, and this worker's name there."""
        return self.bus, self.me

    def read(self) -> Iterator[Reading]:
        """What `/metrics` shows of the bus."""
        yield Reading(families.BUS_UP, (), self.up)
        yield Reading(families.BUS_FULL, (), self.full)
        yield Reading(families.HOSTILE, (), self.hostile.counts.total())

    async def start(self, *, wait: bool) -> None:
        """Connect, listen, and begin the heartbeat.

        Raises:
            BusUnavailable: Redis cannot be reached, and `wait` is false.
        """
        # Watchers come after: a failed start is reported by the exception, not by "the bus is down".
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
                # Before the first request: the sessions of the worker that this one replaces can be claimed at once.
                await self._registry.bury_predecessors()
                await self._registry.renew({})
            except BusDown as problem:
                log.warning("this worker is not in the registry yet: %s", problem)
        # Not awaited: with Redis down the worker serves, and listens as soon as it is back.
        self._tasks.start(self._post.listen(self._on_payload))
        self.heartbeat.start()
        if self._lease is not None:
            self._lease.start()

    async def withdraw(self) -> None:
        """Give all claims up at once; sessions and edges here end soon. Idempotent."""
        if self._withdrawn:
            return
        self._withdrawn = True
        # Before Redis is asked: a beat in between would put lease and claims back.
        self.heartbeat.stop()
        if self._lease is not None:
            self._lease.stop()
        try:
            # The grace period runs; what is not withdrawn costs others one lease of waiting, and no session.
            async with asyncio.timeout(1.0):
                await self._registry.withdraw()
        except (BusDown, TimeoutError):
            log.warning("the bus is down: this worker's claims end with its lease")

    async def stop(self) -> None:
        """Leave the cluster."""
        await self.withdraw()
        self.edges.close_all("restarting")
        await self.bus.close()

    def _on_payload(self, payload: bytes) -> None:
        self._tally.received += 1
        try:
            self._handle(Envelope.unpack(payload))
        except WireError as problem:
            self.hostile.count("an inbox", problem)

    def _handle(self, message: Envelope) -> None:
        match message:
            case ChunkRequest():
                self._post.on_chunk_request(message)
            case Chunk():
                self._post.on_chunk(message)
            case _:
                # Raised into `_on_payload`, which counts it as hostile: none of our workers sends it here.
                if not (self._owners.handle(message) or self.edges.handle(message)):
                    raise WireError(f"a {type(message).__name__} does not belong there")

    def _on_resubscribed(self) -> None:
        self.edges.on_bus_back()
        self._owners.on_bus_back()

    def _on_bus_changed(self, up: bool) -> None:
        if self._withdrawn:
            return  # closed by ourselves
        log.log(logging.INFO if up else logging.WARNING, "the bus is %s", "up again" if up else "down")
        if up:
            # At once and not with the next beat: until claims are back, other workers wait for them.
            self._tasks.start(self.heartbeat.renew())


class Alone:
    """In place of a `Cluster` where there is no Redis: every session is here, and no bus can be down."""

    up = True
    full = heartbeat_fails = False
    address = None

    def __init__(self) -> None:
        self.edges = _NoEdges()

    def read(self) -> Iterator[Reading]:
        """Nothing is shown of a bus that is not there."""
        return iter(())

    async def start(self, *, wait: bool) -> None:
        """No-op."""

    async def withdraw(self) -> None:
        """No-op."""

    async def stop(self) -> None:
        """No-op."""


class _NoEdges:
    """No session is elsewhere."""

    def connections(self) -> Counter[str]:
        return Counter()

    async def enter(self, *args: object, **kwargs: object) -> Never:
        raise AssertionError("a placement that knows other workers comes with a way to them")

    async def render(self, *args: object) -> Never:
        raise AssertionError("a placement that knows other workers comes with a way to them")
