"""How long to wait before a child that died is started again. Pure."""

from __future__ import annotations

__all__ = ["Backoff"]

FIRST_DELAY = 0.5
LONGEST_DELAY = 30.0
LONGEST_AFTER_SERVING = 2.0
"""For a child that had booted: it works until something kills it, and until it is back its node has one worker less."""
SOON = 10.0
"""Seconds: a child that dies sooner than this after its boot will probably do so again."""
HEALTHY = 60.0
"""Seconds: a child that has lived this long starts without a delay."""


class Backoff:
    """The delays for one slot: none the first time, then doubling while it dies soon after its boot."""

    def __init__(self) -> None:
        self._failures = 0

    def delay(self, lived: float) -> float:
        """Seconds to wait before the next start.

        Args:
            lived: seconds from boot to death; 0 for a child that never booted.
        """
        if lived >= HEALTHY:
            self._failures = 0
        self._failures += 1
        if self._failures == 1 or lived >= SOON:
            return 0.0
        longest = LONGEST_AFTER_SERVING if lived > 0 else LONGEST_DELAY
        # The exponent is bounded too: a slot may fail for weeks, and the float would overflow.
        return min(longest, FIRST_DELAY * 2.0 ** min(self._failures - 2, 16))
