"""Journals one session to Redis: every patch in order, and now and then a snapshot.

Nothing here delays a patch. Patches gather for a moment and go to Redis in one call; when the journal has grown, a
snapshot replaces it. While Redis cannot be reached, patches queue up to a bound; above it the queue is dropped, and
the next write begins with a new snapshot.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from aperture.errors import ApertureError, BusDown, Fenced, SessionGone, StoredStateBroken, TooLarge, Unencodable
from aperture.log import short_id
from aperture.worker.document.snapshot import pack_patch, snapshot
from aperture.worker.patch.batch import Patch
from aperture.worker.session.session import Session
from aperture.worker.session.turns import Turns

__all__ = ["JournalStore", "SessionJournal"]

log = logging.getLogger(__name__)

GATHER = 0.05
"""Seconds that patches gather: half of what may be lost with a worker; the other half is for Redis."""

RETRY = 0.5
"""Seconds between two attempts while Redis cannot be reached."""

SETTLE = 1.0
"""Seconds that a session which is built again may wait for Redis: its viewers wait with it."""

PENDING_LIMIT = 8 * 1024 * 1024
"""Bytes that wait for Redis, per session."""

UNENCODABLE_PAUSE = 5.0
"""Seconds between two attempts while the document holds what cannot be encoded: each costs most of a snapshot."""

JOURNAL_LIMIT = 512 * 1024
"""Bytes of journal, and half of the snapshot's where that is more, until a snapshot is due: below that it costs more to
make than is saved."""

ENTRIES_LIMIT = 1000
"""Patches in the journal until a snapshot is due: a rebuild takes 0.15 ms for each, however small. One more is allowed
for each so many bytes of the snapshot, which cost as much to make:"""
BYTES_PER_ENTRY = 4096

SNAPSHOT_PAUSE = 1.0
"""Seconds between two snapshots: without it, a session that changes all the time would be written whole twenty times a
second."""

LONGEST_JOURNAL = 8 * 1024 * 1024
"""Bytes for which that pause is not waited for."""

HELD_LIMIT = 10_000
"""Answers of one session that wait for Redis. Above it a viewer's connection is closed with 1013, to retry later."""


class JournalStore(Protocol):
    """Where the journal is stored; see `aperture.registry.snapshots.SnapshotStore`."""

    async def begin(
        self, session_key: str, epoch: int, origin: bytes, snapshot: bytes, *, sequence: int = 0
    ) -> None: ...

    async def add(self, session_key: str, epoch: int, first: int, last: int, entries: Sequence[bytes]) -> int: ...

    async def snapshot(self, session_key: str, epoch: int, sequence: int, snapshot: bytes) -> None: ...


class SessionJournal:
    """Writes down one session. Also the session's `aperture.worker.patch.receivers.Journal`.

    Args:
        session: the one to journal.
        session_key: its name on the bus.
        origin: what it was created from.
        store: where to.
        turns: taken for each snapshot; shared by all journals of a worker.
        at_once: do not gather: a reply waits for each patch to be stored (`--durability ack`).
        fenced: called when the session turns out to be another worker's.
    """

    writes = True

    def __init__(
        self,
        session: Session,
        session_key: str,
        origin: bytes,
        store: JournalStore,
        *,
        turns: Turns,
        at_once: bool,
        fenced: Callable[[Session], Awaitable[None]],
    ) -> None:
        self._fenced = fenced
        self.session_key = session_key
        self.acknowledges = at_once
        self._session = session
        self._origin = origin
        self._store = store
        # Of the whole worker: after an outage every session needs a snapshot, and each takes the event loop for
        # milliseconds.
        self._turns = turns
        self._begun = False
        self._pending: deque[tuple[int, bytes]] = deque()
        self._pending_bytes = 0
        self._held: deque[tuple[int, Callable[[], None]]] = deque()
        self._task: asyncio.Task[None] | None = None
        self._entries = 0
        """In the journal, since the snapshot."""
        self._snapshot_bytes = 0
        self._snapshot_at = -math.inf
        self._dropped = 0
        """How often what was pending has been dropped."""
        self._closed = False
        self._given_up = False
        self._unencodable = False
        """Whether nothing is stored because the document holds a value that cannot be encoded."""
        # The first snapshot, in the background: a new page must not wait for Redis.
        self._soon()

    def record(self, sequence: int, patch: Patch) -> None:
        """Write a patch down, soon."""
        if self._closed:
            return
        if self._pending and self._pending[-1][0] != sequence - 1:
            self.start_over()  # something between was not recorded
        entry = pack_patch(patch)
        self._pending.append((sequence, entry))
        self._pending_bytes += len(entry)
        if self._pending_bytes > PENDING_LIMIT:
            self.start_over()
        self._soon()

    def when_safe(self, act: Callable[[], None], refuse: Callable[[], None]) -> None:
        """Call `act` once all that was recorded so far is in Redis; at once if it is, or if the session is not stored.

        Never, once another worker owns the session. If too many wait already, `refuse` is called instead.
        """
        # Where nothing is stored any more, an answer would wait for ever: send it. Not where another worker owns the
        # session: what was not stored by then is lost, and must not be acknowledged.
        if (
            not self.acknowledges
            or self._given_up
            or self._unencodable
            or (self._begun and not self._pending and not self._closed)
        ):
            act()
        elif len(self._held) >= HELD_LIMIT:
            refuse()
        elif not self._closed:
            # By number: patches that come later need not be stored for this answer.
            self._held.append((self._session.fanout.sequence, act))
            self._soon()

    @property
    def safe(self) -> bool:
        """Whether all that was recorded is in Redis, and the session can be built again from it."""
        # A queue that was dropped leaves nothing pending, and is not safe: `_begun` is false from then on.
        return self._begun and not self._pending and not self._closed and not self._given_up

    def lost(self) -> None:
        """Redis has nothing of the session: it was restarted, or has evicted it."""
        if self._begun and not self._closed:
            self.start_over()

    def start_over(self) -> None:
        """The stored journal is incomplete or missing: drop the queue; the next write begins with a snapshot."""
        self._begun = False
        # A snapshot that is being stored at this moment may have been taken before: `_begin` compares.
        self._dropped += 1
        self._pending.clear()
        self._pending_bytes = 0
        self._soon()

    async def flush(self) -> None:
        """Write all that is pending, now; gives up if Redis does."""
        if self._task is not None and self._task is not asyncio.current_task():
            # Its writing may be on its way to Redis, which then has it: entries are numbered, and those that are there
            # already are passed over.
            self._task.cancel()
            self._task = None
        if self._closed:
            return
        try:
            await self._write()
        # Redis has lost or evicted a part: once more, from a snapshot. The caller wants to know that it is stored.
        except StoredStateBroken:
            self._begun = False
            await self._write()
        finally:
            self._soon()  # a failed hand-over leaves the session here, so what is left must still be written

    async def settle(self) -> None:
        """Store a rebuilt session before a viewer gets it; later, if Redis does not answer within `SETTLE`.

        Raises:
            SessionGone: another worker has claimed it meanwhile.
        """
        # The previous owner's journal cannot be continued, as it has a lower epoch. After a crash many sessions are
        # rebuilt at once: stored some time later, they would lose all changes until then in a second crash.
        try:
            async with asyncio.timeout(SETTLE):
                await self.flush()
        except Fenced:
            self.close()
            raise SessionGone("another worker has claimed the session") from None
        except (ApertureError, TimeoutError) as problem:
            log.debug("session %s is not stored yet, retrying: %s", short_id(self._session.id), problem)

    def close(self) -> None:
        """Stop writing, and drop the waiting answers. Idempotent."""
        self._closed = True
        self._pending.clear()
        self._held.clear()
        # The task may be what closes it, when Redis says that the session is another's.
        if self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()

    def _soon(self) -> None:
        if self._task is None and not self._closed:
            self._task = asyncio.ensure_future(self._work())

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time() + GATHER
        try:
            while not self._closed and (self._pending or not self._begun):
                if not self.acknowledges:
                    # Before each writing, not only the first: in a steady stream half of all patches were a call. What
                    # has come during a long one, of a snapshot perhaps, has gathered for long enough.
                    await asyncio.sleep(max(0.0, due - loop.time()))
                due = loop.time() + GATHER
                try:
                    await self._write()
                # Not dropped: what is pending stays, up to its bound, and is written when Redis is back.
                except BusDown:
                    await asyncio.sleep(RETRY)
                except Unencodable as problem:
                    self._wait_for_better(problem)
                    await asyncio.sleep(UNENCODABLE_PAUSE)
                except StoredStateBroken:
                    self.start_over()
        except Fenced:
            self.close()
            await self._fenced(self._session)
        except SessionGone:
            self.close()  # at its end
        # For good: each attempt would cost a snapshot.
        except TooLarge:
            log.warning("session %s is too large to be stored", short_id(self._session.id))
            self._give_up()
        except Exception:
            log.exception("session %s cannot be stored", short_id(self._session.id))
            self._give_up()
        finally:
            if self._task is asyncio.current_task():
                self._task = None

    async def _write(self) -> None:
        if not self._begun:
            await self._begin()
        if not self._pending:
            self._release(self._session.fanout.sequence)
            return
        # A copy: patches go on coming while Redis answers, and are for the next call.
        entries = list(self._pending)
        first, last = entries[0][0], entries[-1][0]
        size = await self._store.add(
            self.session_key, self._session.fanout.epoch, first, last, [entry for _, entry in entries]
        )
        # Only now: what Redis has not confirmed is sent again.
        while self._pending and self._pending[0][0] <= last:
            self._pending_bytes -= len(self._pending.popleft()[1])
        self._entries += len(entries)
        # Before a snapshot is made: answers need not wait for that.
        self._release(last)
        if self._is_long(size):
            # Its number may be beyond the journal's end: patches that were recorded meanwhile are in it, and the next
            # `add` passes them over.
            sequence, state = await self._snapshot()
            await self._store.snapshot(self.session_key, self._session.fanout.epoch, sequence, state)
            self._entries = max(0, last - sequence)

    def _is_long(self, size: int) -> bool:
        """Whether a snapshot had better take the journal's place."""
        if asyncio.get_running_loop().time() - self._snapshot_at < SNAPSHOT_PAUSE and size < LONGEST_JOURNAL:
            return False
        entries = ENTRIES_LIMIT + self._snapshot_bytes // BYTES_PER_ENTRY
        return size > max(JOURNAL_LIMIT, self._snapshot_bytes // 2) or self._entries > entries

    async def _begin(self) -> None:
        dropped = self._dropped
        sequence, state = await self._snapshot()
        await self._store.begin(self.session_key, self._session.fanout.epoch, self._origin, state, sequence=sequence)
        if dropped != self._dropped:
            raise StoredStateBroken("what was changed meanwhile is neither in the snapshot nor pending")
        while self._pending and self._pending[0][0] <= sequence:
            self._pending_bytes -= len(self._pending.popleft()[1])
        self._entries = 0
        self._begun = True
        self._unencodable = False

    async def _snapshot(self) -> tuple[int, bytes]:
        # Before the lock is taken: a session must not be held while others make their snapshots.
        await self._turns.take()
        return await self._session.read_locked(self._state)

    def _state(self) -> tuple[int, bytes]:
        session = self._session
        try:
            # The number is read under the same lock as the document, so that no patch is both in the snapshot and
            # behind it.
            state = snapshot(session.document)
        except Exception as problem:
            raise Unencodable(f"its document cannot be encoded ({type(problem).__name__})") from problem
        self._snapshot_bytes = len(state)
        self._snapshot_at = asyncio.get_running_loop().time()
        return session.fanout.sequence, state

    def _wait_for_better(self, problem: Unencodable) -> None:
        """Nothing can be stored until the app replaces what cannot be encoded: send the answers that wait for it."""
        if not self._unencodable:
            log.warning("session %s is not stored for now: %s", short_id(self._session.id), problem)
            self._session.fanout.tally.not_stored += 1
        # Answers do not wait from now on: what they would wait for may never come.
        self._unencodable = True
        self.start_over()
        self._release(self._session.fanout.sequence)

    def _give_up(self) -> None:
        """Stop journaling; the session continues without. Sends the answers that wait for it."""
        self._given_up = True
        self._session.fanout.tally.not_stored += 1
        held = [act for _, act in self._held]
        self.close()
        for act in held:
            act()

    def _release(self, sequence: int) -> None:
        """Send the answers that waited for patches up to this one."""
        while self._held and self._held[0][0] <= sequence:
            self._held.popleft()[1]()
