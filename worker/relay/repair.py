"""Filling the holes in what an edge has received: patches of one session that were lost, or too large to be published.

Redis loses what it publishes while a subscriber is cut off, and does not say so. The owner stores what it publishes in
the session's stream, too, by its sequence number; a hole is filled from there, all of it or nothing. What comes over
the channel meanwhile is held, and follows what was read.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Protocol

from aperture.errors import BusDown, WireError
from aperture.log import short_id
from aperture.metrics import RelayTally
from aperture.wire.envelopes import MAX_STORED, Envelope, Hostile, Patches
from aperture.wire.session_key import session_key_parts

__all__ = ["Patched", "Repair"]

log = logging.getLogger(__name__)

HELD_BYTES = 16 * 1024 * 1024
"""Patches that may come in while a hole is being filled."""

REPAIR_TIME = 15.0
"""Seconds that the bus may be away while browsers wait for a hole to be filled; then they are sent to pull afresh."""

RETRY = 0.3
"""Seconds between two attempts to read the stream while the bus is down."""

Read = Callable[[str, int], Awaitable[list[bytes] | None]]
"""As `aperture.worker.relay.edge.EdgePost.read`."""


class Patched(Protocol):
    """What a repair needs of its edge."""

    @property
    def epoch(self) -> int | None:
        """Of the claim whose patches are shown here."""
        ...

    @property
    def sequence(self) -> int:
        """The number of the last patch that was written to the viewers."""
        ...

    def apply(self, patches: Patches) -> None:
        """Write those that are new. The first of them is not beyond the next."""
        ...

    def answer_due(self) -> None:
        """Give the answers that have waited for patches which are here now."""
        ...

    def close_all(self, reason: str) -> None:
        """Have all viewers here pull afresh. Ends the repair, too."""
        ...


class Repair:
    """The repairs of one edge, of which at most one is running.

    Args:
        edge: whose patches they are.
        session_key: of its session.
        read: reads the session's stream behind a sequence number.
        hostile: counts what is in the stream and is none of ours.
        tally: counts what was repaired, and what was lost.
    """

    def __init__(
        self, edge: Patched, session_key: str, read: Read, *, hostile: Hostile, tally: RelayTally | None
    ) -> None:
        self._edge = edge
        self._session_key = session_key
        self._read = read
        self._hostile = hostile
        self._tally = tally
        self._latest = 0
        """The highest sequence number that is known to exist."""
        self._held: deque[Patches] = deque()
        self._held_bytes = 0
        self._missed = False
        """Whether patches were lost on the way: else those that are read from the stream were never on it."""
        self._task: asyncio.Task[None] | None = None
        self._over = False

    @property
    def running(self) -> bool:
        """Whether what comes now has to be held."""
        return self._task is not None

    def start(self) -> None:
        """Look into the stream for what may be missing here."""
        # One at a time: what is missed meanwhile raises `_latest`, up to which the running one reads.
        if self._task is None and not self._over:
            self._task = asyncio.ensure_future(self._fill_hole())

    def read_up_to(self, latest: int) -> None:
        """There are patches up to this one, and not all of them are here."""
        self._latest = max(self._latest, latest)
        self.start()

    def miss(self, latest: int) -> None:
        """There are patches up to this one, and some that are not here were lost on the way."""
        self._missed = True
        self.read_up_to(latest)

    def hold(self, patches: Patches) -> None:
        """Keep what came over the channel until it follows what was read from the stream."""
        if self._over:
            return
        self._held.append(patches)
        self._latest = max(self._latest, patches.last)
        # What is written out for single viewers may be most of a patch.
        for relayed in patches.patches:
            self._held_bytes += len(relayed.frames) + sum(map(len, relayed.variants.values()))
        # Not dropped from one end instead: with a second hole the viewers would have to pull afresh all the same.
        if self._held_bytes > HELD_BYTES:
            self._lose("too much came while a hole was being filled")

    def stop(self) -> None:
        """Its edge has ended. Idempotent."""
        self._over = True
        # A repair that fails comes here by itself, through `close_all`, and has a few lines to go.
        if self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()

    async def _fill_hole(self) -> None:
        known = self._edge.sequence
        problem = await self._try_to_catch_up()
        # Before the answers that are due: they may find another hole, which needs a repair of its own.
        missed, self._missed = self._missed, False
        self._task = None
        if problem is not None:
            self._lose(problem)
            return
        if self._tally is not None and not self._over:
            self._tally.repaired += missed and self._edge.sequence > known
        # Those behind the last patch that was read: `apply` gives only what stands before a patch.
        self._edge.answer_due()

    async def _try_to_catch_up(self) -> str | None:
        """As `_catch_up`, but never raises: until the repair ends, nothing that comes is written to anyone."""
        try:
            return await self._catch_up()
        except ValueError as problem:
            self._hostile.count("a session's stream", problem)
            # Not tried again: what is in the stream stays there until it expires.
            return "its stream holds what is none of ours"
        except Exception:
            log.exception("session %s: a hole could not be filled", self._short())
            return "patches are lost"

    async def _catch_up(self) -> str | None:
        """Take what is missing from the stream; returns why that cannot be done.

        A stream that is gone is no loss by itself: perhaps nothing is missing, as the owner's answer to a Join tells.
        """
        while True:
            # The owner goes on publishing: what is read ends somewhere before the newest.
            known = self._latest
            try:
                missing = await self._read_stream()
            except TimeoutError:
                return "the bus was away too long"
            for payload in missing or ():
                self._apply_from_stream(payload)
            # What came over the channel since the stream was read follows it without a gap, as a rule.
            self._let_go()
            if self._edge.sequence >= self._latest:
                return None
            # Each time around brings the newest of the time before: it cannot go on for ever without progress.
            if self._latest == known:  # else more were published since the stream was read
                return "patches are lost"

    async def _read_stream(self) -> list[bytes] | None:
        """Everything behind the last patch that is here, or None if some of it is gone. Raises TimeoutError."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + REPAIR_TIME
        while True:
            try:
                # From Redis and not from the owner, which may be busy with app code, or be the one that was cut off.
                # May itself take longer than `REPAIR_TIME`, as it reads in parts: that bounds an outage, not this.
                return await self._read(self._session_key, self._edge.sequence)
            except BusDown:
                if loop.time() > deadline:
                    raise TimeoutError from None
                await asyncio.sleep(RETRY)

    def _apply_from_stream(self, payload: bytes) -> None:
        try:
            envelope = Envelope.unpack(payload, MAX_STORED)
        except WireError as problem:
            self._hostile.count("a session's stream", problem)
            return
        edge = self._edge
        # The registry has checked the numbers of the entries, and not those inside, which must say the same. The epoch
        # is looked at again: an owner that has lost the session since may have been the last to write.
        if isinstance(envelope, Patches) and envelope.epoch == edge.epoch and envelope.first <= edge.sequence + 1:
            edge.apply(envelope)

    def _let_go(self) -> None:
        """Go on with what came meanwhile, as far as it now follows."""
        held, self._held, self._held_bytes = self._held, deque(), 0
        for patches in held:
            # What was published in between, too, may be lost: then it is held on, and the stream is read once more.
            if patches.first <= self._edge.sequence + 1:
                self._edge.apply(patches)
            else:
                self.hold(patches)

    def _lose(self, problem: str) -> None:
        if self._over:
            return
        if self._tally is not None:
            self._tally.lost += 1
        log.warning("session %s: %s; its viewers here pull afresh", self._short(), problem)
        self._edge.close_all(problem)

    def _short(self) -> str:
        return short_id(session_key_parts(self._session_key)[1])
