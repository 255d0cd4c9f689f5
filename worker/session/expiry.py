"""How long a session has been unused, and what keeps it from being discarded for that.

The store decides by these whether a session has expired; apps and Panel ask and block through the session's own names.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from math import inf

__all__ = ["Expiry"]


class Expiry:
    """One session's times and blocks.

    Args:
        clock: seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.requested = False
        """Whether the app wants the session to end once it has no connection, however short a time it is unused."""
        self.blocks = 0
        """How many hold the session or wait for it. Changed by `block` and `unblock` only."""
        self._clock = clock
        self._created = self.last_used = clock()
        self.last_lost = -inf
        # App code blocks from its threads, and `+=` on an attribute is a read and a write.
        self._counting = threading.Lock()

    @property
    def age(self) -> float:
        """Seconds since the session was made."""
        return self._clock() - self._created

    @property
    def unused_for(self) -> float:
        """Seconds since the last page was sent, or the last connection ended."""
        return self._clock() - self.last_used

    @property
    def since_lost(self) -> float:
        """Seconds since a connection ended whose page may come back; infinite, if none has."""
        return self._clock() - self.last_lost

    def touch(self) -> None:
        """Count the unused time from now: a page of the session has just been sent."""
        self.last_used = self._clock()

    def note_left(self, *, lost: bool) -> None:
        """A connection has ended; `lost`, if its page did not say goodbye and may come back."""
        self.touch()
        if lost:
            self.last_lost = self.last_used

    def block(self) -> None:
        """Keep the session, until `unblock` was called as often as this. From any thread."""
        with self._counting:
            self.blocks += 1

    def unblock(self) -> None:
        """Take back one block. From any thread.

        Raises:
            RuntimeError: there is none.
        """
        with self._counting:
            if self.blocks <= 0:
                raise RuntimeError("mismatched block_expiration / unblock_expiration")
            self.blocks -= 1
