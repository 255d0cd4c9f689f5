"""A worker's heartbeat: renews its lease and claims, and looks after viewers and edges whose other side may be dead."""

from __future__ import annotations

import asyncio
import logging
from itertools import count

from aperture.errors import BusDown
from aperture.registry.registry import Registry
from aperture.worker.relay.edge_side import EdgeSide
from aperture.worker.relay.owner_side import OwnerSide
from aperture.worker.session.store import SessionStore

__all__ = ["Heartbeat"]

log = logging.getLogger(__name__)

ROLL_CALL = 15
"""Heartbeats between two times that an owner goes through its viewers elsewhere, so that a connection whose Leave was
lost does not keep a session for ever. Half a minute: it takes a message for each of them."""


class Heartbeat:
    """Beats every third of a lease.

    Args:
        registry: for this worker.
        store: the sessions that are here.
        owners: their viewers elsewhere.
        edges: connections here of sessions elsewhere.
    """

    def __init__(self, registry: Registry, store: SessionStore, owners: OwnerSide, edges: EdgeSide) -> None:
        self._registry = registry
        self._store = store
        self._owners = owners
        self._edges = edges
        self._beats = count(1)
        self._was_full = False
        self.fails = False
        """Whether the last beat failed although Redis answers: new sessions will fail too."""
        self._beating: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin, with a beat at once."""
        self._beating = asyncio.ensure_future(self.run())

    def stop(self) -> None:
        """Beat no more. Idempotent."""
        if self._beating is not None:
            self._beating.cancel()

    async def run(self) -> None:
        """Beat until cancelled. What fails is tried again at the next beat."""
        while True:
            try:
                await self.renew()
                await self._look_for_room()
                # One list for both sides: within a beat they must not disagree about who lives.
                dead = await self._dead()
                roll_call = next(self._beats) % ROLL_CALL == 0
                await self._owners.look_after_audiences(dead, roll_call=roll_call)
                await self._edges.look_after_edges(dead)
                self._went_well()
            except BusDown:
                log.debug("the bus is down; this heartbeat is left out")
            # The beat goes on: without it lost claims and dead owners would go unnoticed.
            except Exception:
                # Of a row of failures the first: a beat comes every two seconds, and the cause may stay.
                log.log(logging.DEBUG if self.fails else logging.ERROR, "the heartbeat failed", exc_info=True)
                self.fails = True
            # A pause and not a schedule: beats that a busy loop has missed are not made up for.
            await asyncio.sleep(self._registry.interval)

    async def renew(self) -> None:
        """Renew the lease and the claims.

        Raises:
            BusDown: Redis cannot be asked.
        """
        # A process that was stopped may have lost its sessions: no hold may begin until the registry has answered.
        await (self._store.settle() if self._registry.frozen else self._store.renew())

    def _went_well(self) -> None:
        if self.fails:
            log.info("the heartbeat goes on")
        self.fails = False

    async def _look_for_room(self) -> None:
        await self._registry.look_for_room()
        if self._registry.full != self._was_full:
            self._was_full = self._registry.full
            if self._was_full:
                log.warning("Redis is full (maxmemory): no new sessions here until it has room; those that live go on")
            else:
                log.info("Redis has room for new sessions again")

    async def _dead(self) -> frozenset[str]:
        """The workers that sessions or connections here depend on, and whose lease has ended."""
        # Only those that matter here: a cluster may have hundreds.
        workers = self._edges.owners().union(*(audience.edges() for audience in self._owners.audiences()))
        return frozenset(workers - await self._registry.living(workers))
