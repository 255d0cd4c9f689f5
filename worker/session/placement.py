"""Who may run a session: asked before any app code runs."""

from __future__ import annotations

from typing import Protocol

__all__ = ["LocalPlacement", "Placement"]


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
            fresh: the id was made for this request, so that nobody can have it.

        Raises:
            OwnedElsewhere: another living worker has it.
            BusDown: nobody can be asked.
        """
        ...

    def release(self, app: str, session_id: str, *, last: bool) -> None:
        """The session is gone from this worker. `last`: no other app here has one of this id."""
        ...

    def steady(self) -> bool:
        """Whether what was claimed is still held, as far as this worker can know without asking."""
        ...

    async def settle(self) -> None:
        """Ask; returns when every session that is another's by now has been dropped."""
        ...

    async def lives(self, app: str, session_id: str) -> bool:
        """Whether some other worker has the session, or could build it again.

        Raises:
            BusDown: that cannot be found out now; it does not say that there is none.
        """
        ...


class LocalPlacement:
    """For a server that is all there is: every session is here."""

    async def claim(self, app: str, session_id: str, *, fresh: bool) -> int:
        """Nobody else could have it."""
        return 1

    def release(self, app: str, session_id: str, *, last: bool) -> None:
        """Nobody else would want it."""

    def steady(self) -> bool:
        return True

    async def settle(self) -> None:
        """Nothing can have happened."""

    async def lives(self, app: str, session_id: str) -> bool:
        return False
