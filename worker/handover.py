"""Ending sessions, and giving them to other workers: for an operator, and all of them when the worker stops."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

from aperture.protocol.closing import NORMAL_CLOSURE, SERVICE_RESTART
from aperture.worker.session.durability import Recovery
from aperture.worker.session.session import Session
from aperture.worker.session.store import SessionStore

__all__ = ["HANDOVER_SHARE", "Handover"]

REST_TIME = 3.0
"""Seconds in which a session must come to rest that an operator wants ended or moved."""

HANDOVER_SHARE = 0.3
"""Of the time for stopping, what may be spent on writing down the sessions that other workers go on with."""


class Handover:
    """Brings sessions to rest, then ends them or gives them up.

    Args:
        store: the sessions.
        recovery: writes them down.
    """

    def __init__(self, store: SessionStore, recovery: Recovery) -> None:
        self._store = store
        self._recovery = recovery

    @property
    def enabled(self) -> bool:
        """Whether sessions can go on in another worker."""
        return self._recovery.enabled

    async def hand_over_all(self, timeout: float) -> None:
        """Bring every session to rest and write it down, so that other workers can go on with it.

        Args:
            timeout: seconds for stopping the worker, of which this takes `HANDOVER_SHARE` at most.
        """
        if not self.enabled:
            return
        # Three steps, none of which may take the time of another: what is made, what is at rest, what is written.
        share = timeout * HANDOVER_SHARE / 3
        await self._store.close(share)  # what is still being made would be changed after all others are written down
        # Frozen and not only written: a change after the last writing would be acknowledged and lost.
        resting = [asyncio.ensure_future(session.held.freeze()) for session in self._store]
        if resting:
            _, busy = await asyncio.wait(resting, timeout=share)
            for session in busy:
                session.cancel()
        # Of busy sessions, too: what they had changed by their last hold is worth having.
        await self._recovery.flush(share)

    async def end(self, session: Session) -> None:
        """End one session, in the middle of app code if that does not let go of the document."""
        # Without rest, too: a session whose code never comes back is what operators end.
        with suppress(TimeoutError):
            await asyncio.wait_for(session.held.freeze(), REST_TIME)
        try:
            await self._store.end(session, NORMAL_CLOSURE, "the session was ended")
        finally:
            # Callbacks that wait for the lock must find out that the session is gone, or they wait for ever.
            session.held.thaw()

    async def move(self, session: Session, going: Callable[[], None]) -> bool:
        """Write one session down and give it up, for another worker to go on with.

        Args:
            session: one that is here.
            going: called once it is written down, before its viewers are sent away.

        Returns:
            False if it cannot be moved now; then it stays here, and its viewers have not noticed.

        Raises:
            BusDown: Redis is down, with the same effect.
        """
        if not self.enabled:
            return False
        try:
            async with asyncio.timeout(REST_TIME):
                await session.held.freeze()
                # Within the lock: what is written is all there is.
                written = await self._recovery.write_down(session)
            if written:
                # First the gateway, then the viewers: they come back at once, and have to be routed to the next owner.
                going()
                await self._store.hand_off(session, SERVICE_RESTART, "the session is moving")
            return written
        except TimeoutError:
            return False
        finally:
            session.held.thaw()
