"""Ending sessions, and giving them to other workers: for an operator, and all of them when the worker stops."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

from aperture.protocol.closing import NORMAL_CLOSURE, SERVICE_RESTART
from aperture.worker.session.durability import Keeper
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
        keeper: writes them down.
    """

    def __init__(self, store: SessionStore, keeper: Keeper) -> None:
        self._store = store
        self._keeper = keeper

    @property
    def keeps(self) -> bool:
        """Whether sessions can go on in another worker."""
        return self._keeper.keeps

    async def hand_over_all(self, timeout: float) -> None:
        """Bring every session to rest and write it down, so that other workers can go on with it.

        Args:
            timeout: seconds for stopping the worker, of which this takes `HANDOVER_SHARE` at most.
        """
        if not self.keeps:
            return
        share = timeout * HANDOVER_SHARE / 3
        await self._store.close(share)  # what is still being made would be changed after all others are written down
        resting = [asyncio.ensure_future(session.held.freeze()) for session in self._store]
        if resting:
            _, busy = await asyncio.wait(resting, timeout=share)
            for session in busy:
                session.cancel()
        await self._keeper.flush(share)

    async def end(self, session: Session) -> None:
        """End one session, in the middle of app code if that does not let go of the document."""
        with suppress(TimeoutError):
            await asyncio.wait_for(session.held.freeze(), REST_TIME)
        try:
            await self._store.end(session, NORMAL_CLOSURE, "the session was ended")
        finally:
            session.held.thaw()

    async def move(self, session: Session, going: Callable[[], None]) -> bool:
        """Write one session down and give it up, for another worker to go on with.

        Args:
            session: one that is here.
            going: called once it is written down, before its viewers are sent away.

        Returns:
            False if it cannot be moved now; then it goes on here, and its viewers have not noticed.

        Raises:
            BusDown: Redis is down, with the same effect.
        """
        if not self.keeps:
            return False
        try:
            async with asyncio.timeout(REST_TIME):
                await session.held.freeze()
                written = await self._keeper.write_down(session)
            if written:
                going()
                await self._store.hand_off(session, SERVICE_RESTART, "the session is moving")
            return written
        except TimeoutError:
            return False
        finally:
            session.held.thaw()
