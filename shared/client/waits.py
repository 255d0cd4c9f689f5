"""Those who wait on a loop for what a connection brings, and how long they wait."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aperture.errors import ServerSilent
from aperture.wakeups import Wakeups

__all__ = ["Waits"]


class Waits:
    """What the tasks of one session wait for. All calls come from its event loop.

    Args:
        timeout: seconds that the server has for an answer.
    """

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._wakeups = Wakeups()
        self._bounds: set[asyncio.Timeout] = set()
        self._suspended = False

    async def next_event(self) -> None:
        """Return after the next message, or the next change of the connection."""
        await self._wakeups.wait()

    def happened(self) -> None:
        """Wake all who wait for an event."""
        self._wakeups.wake()

    @asynccontextmanager
    async def bounded(self, text: str) -> AsyncIterator[None]:
        """Bound a wait by the timeout, which is suspended while the client reconnects.

        Args:
            text: what the server has not done, for the error.

        Raises:
            ServerSilent: the block has taken longer.
        """
        bound = asyncio.timeout(None if self._suspended else self._timeout)
        self._bounds.add(bound)
        try:
            async with bound:
                yield
        except TimeoutError:
            if not bound.expired():
                raise  # the block's own
            raise ServerSilent(f"{text} within {self._timeout:g} s") from None
        finally:
            self._bounds.discard(bound)

    def suspend(self) -> None:
        """The connection is lost: from now on only the attempts to reconnect bound the time."""
        self._set(suspended=True)

    def restart(self) -> None:
        """The documents are equal again: every wait has the whole timeout from now on."""
        self._set(suspended=False)

    def _set(self, *, suspended: bool) -> None:
        self._suspended = suspended
        when = None if suspended else asyncio.get_running_loop().time() + self._timeout
        for bound in self._bounds:
            if not bound.expired():
                bound.reschedule(when)
        self.happened()
