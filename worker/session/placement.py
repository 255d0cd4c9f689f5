"""Who may run a session: asked before any app code runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

__all__ = ["NO_FENCE", "NO_GATEWAY", "Fence", "Gateway", "LocalPlacement", "LostClaim", "Placement"]


@dataclass(frozen=True, slots=True)
class LostClaim:
    """A session that another worker has claimed since.

    Args:
        app: the session's app.
        session_id: of the session.
        epoch: at which it was claimed here. A session that was claimed here anew has a higher one.
    """

    app: str
    session_id: str
    epoch: int


class Placement(Protocol):
    """Tells the rest of the node, or of the cluster, which sessions are here.

    `claim` is awaited before the session's app code runs and before any response carries its id; from then on every
    request for the session finds this worker. `release` may come only after a `claim` of the same session.
    """

    async def claim(self, app: str, session_id: str, *, fresh: bool) -> int:
        """Take the session for this worker; returns its epoch, which grows with each claim.

        Args:
            app: the session's app.
            session_id: of the session.
            fresh: the id was made for this request, so no other worker can have it.

        Raises:
            OwnedElsewhere: another living worker has it.
            BusDown: the registry cannot be asked.
        """
        ...

    def release(self, app: str, session_id: str, *, last: bool) -> None:
        """The session is gone from this worker. `last`: no other app here has one of this id."""
        ...

    def forget(self, app: str, session_id: str, epoch: int) -> None:
        """The claim at this epoch is another worker's now: `release` must not touch the registry for it."""
        ...

    def steady(self) -> bool:
        """Whether what was claimed is still held, as far as this worker can know without asking."""
        ...

    async def renew(self) -> Sequence[LostClaim]:
        """Renew what was claimed; returns what is lost.

        Raises:
            BusDown: the registry cannot be asked.
        """
        ...

    async def owner(self, app: str, session_id: str) -> str | None:
        """The worker that has the session, by its name on the bus; None if none has, as far as can be known.

        Raises:
            BusDown: that cannot be found out now.
        """
        ...

    async def lives(self, app: str, session_id: str) -> bool:
        """Whether some other worker has the session, or could build it again.

        Raises:
            BusDown: that cannot be found out now; it does not say that there is none.
        """
        ...


class Gateway(Protocol):
    """Routes requests of this node to its workers."""

    async def announce(self, session_id: str) -> None:
        """Have requests for this session sent to this worker; returns when the gateway can know."""
        ...

    def retract(self, session_id: str) -> None:
        """Requests for this session need not come to this worker any more."""
        ...


class _NoGateway:
    """A process that takes all connections itself."""

    async def announce(self, session_id: str) -> None:
        """No-op."""

    def retract(self, session_id: str) -> None:
        """No-op."""


NO_GATEWAY = _NoGateway()


class LocalPlacement:
    """For a node that is all there is: every session is here, or in the worker that the gateway sends its requests to.

    Args:
        gateway: of this node.
    """

    def __init__(self, gateway: Gateway = NO_GATEWAY) -> None:
        self._gateway = gateway

    async def claim(self, app: str, session_id: str, *, fresh: bool) -> int:
        await self._gateway.announce(session_id)
        return 1

    def release(self, app: str, session_id: str, *, last: bool) -> None:
        if last:
            self._gateway.retract(session_id)

    def forget(self, app: str, session_id: str, epoch: int) -> None:
        """No-op: no session has two living workers."""

    def steady(self) -> bool:
        return True

    async def renew(self) -> Sequence[LostClaim]:
        return ()

    async def owner(self, app: str, session_id: str) -> str | None:
        """The gateway would have sent the request there."""
        return None

    async def lives(self, app: str, session_id: str) -> bool:
        """The gateway would have sent the request there."""
        return False


class Fence(Protocol):
    """Asked before each hold of a document whether the session is still this worker's to change."""

    def steady(self) -> bool:
        """Whether it is, as far as this worker can know without asking."""
        ...

    async def settle(self) -> None:
        """Ask; returns when every session that another worker has claimed is dropped."""
        ...


class _NoFence:
    """A session that no other worker can claim."""

    def steady(self) -> bool:
        return True

    async def settle(self) -> None:
        """No-op."""


NO_FENCE = _NoFence()
