"""The sessions that this worker has claimed in the registry."""

from __future__ import annotations

import logging
from typing import Protocol

from aperture.bus.calls import BackgroundTasks
from aperture.errors import BusDown, OwnedElsewhere
from aperture.registry.registry import Registry
from aperture.wire.session_key import session_key_of, session_key_parts
from aperture.worker.session.placement import Gateway, LostClaim

__all__ = ["Claims"]

log = logging.getLogger(__name__)


class StoredSessions(Protocol):
    """Finds the stored state of sessions without an owner."""

    async def exists(self, app: str, session_id: str) -> bool:
        """Whether a session could be built again. Raises BusDown where that cannot be found out."""
        ...


class Claims:
    """An `aperture.worker.session.placement.Placement` in a cluster.

    Args:
        registry: for this worker.
        gateway: of this node.
        stored: which sessions could be built again.
    """

    def __init__(self, registry: Registry, gateway: Gateway, stored: StoredSessions) -> None:
        self._registry = registry
        self._gateway = gateway
        self._stored = stored
        self._epochs: dict[str, int] = {}
        self._releases = BackgroundTasks("releasing a claim failed; it ends with the lease")

    @property
    def releasing(self) -> int:
        """Claims that are being released."""
        return len(self._releases)

    async def claim(self, app: str, session_id: str, *, fresh: bool) -> int:
        session_key = session_key_of(app, session_id)
        claim = await self._registry.claim(session_key, fresh=fresh)
        if not claim.mine:
            raise OwnedElsewhere(claim.owner)
        # Before the next await: a claim that is not noted here would never be released.
        self._epochs[session_key] = claim.epoch
        # Awaited: the page must not be sent before the gateway knows the way to its websocket.
        await self._gateway.announce(session_id)
        return claim.epoch

    def release(self, app: str, session_id: str, *, last: bool) -> None:
        session_key = session_key_of(app, session_id)
        # None for a session that was lost: it is another's, and there is nothing to release.
        epoch = self._epochs.pop(session_key, None)
        if epoch is not None:
            self._releases.start(self._release(session_key, epoch))
        # The gateway knows session ids, not apps.
        if last:
            self._gateway.retract(session_id)

    def forget(self, app: str, session_id: str, epoch: int) -> None:
        session_key = session_key_of(app, session_id)
        # It may have been claimed anew while the loss was found out.
        if self._epochs.get(session_key) == epoch:
            del self._epochs[session_key]

    def steady(self) -> bool:
        return not self._registry.frozen

    async def renew(self) -> list[LostClaim]:
        asked = dict(self._epochs)  # what is claimed while Redis answers is not lost, whatever the answer says
        lost = await self._registry.renew(asked)
        return [LostClaim(*session_key_parts(session_key), asked[session_key]) for session_key in lost]

    async def owner(self, app: str, session_id: str) -> str | None:
        claim = await self._registry.owner_of(session_key_of(app, session_id))
        return None if claim is None else claim.owner

    async def lives(self, app: str, session_id: str) -> bool:
        # Nearly every session that is asked about has an owner: the store is asked about the others alone.
        if await self.owner(app, session_id) is not None:
            return True
        return await self._stored.exists(app, session_id)

    async def _release(self, session_key: str, epoch: int) -> None:
        try:
            await self._registry.release(session_key, epoch)
        except BusDown:
            log.debug("a claim could not be released; the next heartbeat releases it, or it ends with the lease")
