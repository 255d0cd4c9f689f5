"""Which sessions are this worker's: claimed before their app code runs, and renewed by the heartbeat."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Protocol

from aperture.bus.calls import BackgroundTasks
from aperture.errors import BusDown, OwnedElsewhere
from aperture.registry.registry import Registry
from aperture.wire.session_key import session_key_of
from aperture.worker.session.durability import Keeper
from aperture.worker.session.session import Session

__all__ = ["Claims", "Gateway", "NoGateway"]

log = logging.getLogger(__name__)

RETRY = 0.2
"""Seconds between two attempts to ask which claims are left, while Redis is down."""


class Gateway(Protocol):
    """What the relay tells this node's gateway."""

    async def announce(self, session_id: str) -> None:
        """Have requests for this session sent here; returns when the gateway can know."""
        ...

    def retract(self, session_id: str) -> None:
        """Requests for this session need not come here any more."""
        ...


class NoGateway:
    """Of a server inside a program: all requests come here."""

    async def announce(self, session_id: str) -> None:
        """No-op."""

    def retract(self, session_id: str) -> None:
        """No-op."""


class Claims:
    """The claims of one worker: an `aperture.worker.session.placement.Placement` for one with others beside it.

    Args:
        registry: of this worker.
        gateway: is told what comes and goes.
        keeper: finds the stored state of sessions without an owner.
    """

    def __init__(self, registry: Registry, gateway: Gateway, keeper: Keeper) -> None:
        self.registry = registry
        self.gateway = gateway
        self._keeper = keeper
        self._epochs: dict[str, int] = {}
        self._settling: asyncio.Task[None] | None = None
        self._tasks = BackgroundTasks("a claim could not be released and ends with the lease")
        self._on_lost: list[Callable[[str, int], Awaitable[None]]] = []

    @property
    def idle(self) -> bool:
        """Whether nothing is under way."""
        return not len(self._tasks)

    def on_lost(self, act: Callable[[str, int], Awaitable[None]]) -> None:
        """Have this called when another worker has claimed a session: with its key, and the epoch of the lost claim."""
        self._on_lost.append(act)

    # Placement

    async def claim(self, app: str, session_id: str, *, fresh: bool) -> int:
        session_key = session_key_of(app, session_id)
        claim = await self.registry.claim(session_key, fresh=fresh)
        if not claim.mine:
            raise OwnedElsewhere(claim.owner)
        self._epochs[session_key] = claim.epoch
        await self.gateway.announce(session_id)
        return claim.epoch

    def release(self, app: str, session_id: str, *, last: bool) -> None:
        session_key = session_key_of(app, session_id)
        epoch = self._epochs.pop(session_key, None)
        if epoch is not None:
            self._tasks.start(self._release(session_key, epoch))
        if last:
            self.gateway.retract(session_id)

    def steady(self) -> bool:
        return self._settling is None and not self.registry.frozen

    async def settle(self) -> None:
        if self._settling is None:
            log.warning("this worker was stopped for longer than its lease; asking which sessions are still its own")
            self._settling = asyncio.ensure_future(self._ask_what_is_left())
        await asyncio.shield(self._settling)

    async def lives(self, app: str, session_id: str) -> bool:
        if await self.registry.owner_of(session_key_of(app, session_id)) is not None:
            return True
        return await self._keeper.exists(app, session_id)

    # Their renewal

    async def renew(self) -> None:
        """Renew the lease and all claims. Those that are another worker's by now are dropped here."""
        # A worker that was stopped must not take itself for the owner while it finds out that it is not.
        await (self.settle() if self.registry.frozen else self._renew())

    def forget(self, session: Session) -> None:
        """The session is another worker's: there is nothing to release. A newer claim of ours stands."""
        session_key = session_key_of(session.app, session.id)
        if self._epochs.get(session_key) == session.fanout.epoch:
            del self._epochs[session_key]

    async def withdraw(self) -> None:
        """Give all claims up at once."""
        try:
            async with asyncio.timeout(1.0):
                await self.registry.withdraw()
        except (BusDown, TimeoutError):
            log.warning("the bus is away: this worker's claims end with its lease")

    async def _renew(self) -> None:
        asked = dict(self._epochs)
        for session_key in await self.registry.renew(asked):
            for act in self._on_lost:
                await act(session_key, asked[session_key])

    async def _ask_what_is_left(self) -> None:
        try:
            while True:
                try:
                    await self._renew()
                    return
                except BusDown:
                    await asyncio.sleep(RETRY)
        finally:
            self._settling = None

    async def _release(self, session_key: str, epoch: int) -> None:
        try:
            await self.registry.release(session_key, epoch)
        except BusDown:
            log.debug("a claim could not be released and ends with the lease")
