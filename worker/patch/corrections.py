"""When to send everyone the value of what two viewers have been changing at once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from aperture.worker.patch.contention import Key

__all__ = ["Corrections"]

PAUSE = 0.25
"""Seconds without a contested change after which a drag counts as over: a drag reports every few milliseconds."""


class Corrections:
    """Remembers contested places until the contest pauses.

    Args:
        correct: sends the places' values; changes made meanwhile are contested again.
    """

    def __init__(self, correct: Callable[[set[Key]], Awaitable[None]]) -> None:
        self._correct: Callable[[set[Key]], Awaitable[None]] | None = correct
        self._keys: set[Key] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._quiet_at = 0.0
        self._working: asyncio.Future[None] | None = None

    def expect(self, contested: set[Key]) -> None:
        """These places were contested just now."""
        if not contested or self._correct is None:
            return
        self._keys |= contested
        # Not at once: a correction in the middle of a drag moves the slider under the hand that holds it.
        loop = asyncio.get_running_loop()
        self._quiet_at = loop.time() + PAUSE
        if self._timer is None:
            self._timer = loop.call_at(self._quiet_at, self._look)

    def take(self) -> set[Key]:
        """The places that wait for a correction, which is the caller's to make from here on."""
        keys, self._keys = self._keys, set()
        return keys

    def close(self) -> None:
        """Drop pending corrections: the session has ended. Idempotent."""
        self._correct = None
        self._keys.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        # A drag changes something every few milliseconds: to cancel and set a timer each time would cost more than to
        # look a few times whether the pause has come.
        if loop.time() < self._quiet_at:
            self._timer = loop.call_at(self._quiet_at, self._look)
            return
        self._timer = None
        keys = self.take()
        # Stored: the event loop holds tasks weakly.
        if keys and self._correct is not None:
            self._working = asyncio.ensure_future(self._correct(keys))
