"""What a session is rebuilt from after the death of its worker, stored in Redis by the worker that owns it.

Per session there is a hash, with the origin and a snapshot, and a list, the journal of what happened since. None of it
is understood here: it is bytes, numbered by the session's sequence. What matters here is that no worker ever gets a
session that is silently wrong. So every write is one script that looks first whether the session is still the writer's,
and whether what it adds continues what is there; and every part carries its number and a checksum, because Redis may
have lost one key and kept the other (eviction), and because other things write to a Redis, too. What is not whole
counts as nothing.
"""

from __future__ import annotations

import logging
import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from redis.exceptions import ResponseError

from aperture.bus.bus import Bus, Script
from aperture.errors import Fenced, StoredStateBroken, TooLarge
from aperture.log import short_id
from aperture.registry import scripts
from aperture.registry.members import WorkerName
from aperture.wire.session_key import session_key_parts

__all__ = ["ENTRY_OVERHEAD", "SnapshotStore", "StoredState"]

log = logging.getLogger(__name__)

FORMAT = b"1"
"""Of what is written here. A worker of another version, during a rolling deploy, must not misread it."""

TOUCH_BATCH = 250
"""Sessions per call of the script: Redis serves no other client meanwhile, for about a millisecond."""

_ENTRY = struct.Struct(">QI")
ENTRY_OVERHEAD = _ENTRY.size
"""Bytes by which an entry is longer in the journal: its number and its checksum."""

_FIELDS = ("format", "epoch", "origin", "origin_sum", "sequence", "snapshot", "snapshot_sum", "last")

_STRANGER = -1
_BROKEN = -2


@dataclass(frozen=True, slots=True)
class StoredState:
    """All that is known of a session whose worker may be dead.

    Args:
        origin: what the app was created from.
        epoch: at which the owner had the session who stored this.
        snapshot: of the document.
        sequence: as of which the snapshot is.
        entries: what happened since, one for each number that follows, without a hole.
    """

    origin: bytes
    epoch: int
    snapshot: bytes
    sequence: int
    entries: tuple[bytes, ...]

    @property
    def last(self) -> int:
        """The number up to which the session can be rebuilt."""
        return self.sequence + len(self.entries)


class SnapshotStore:
    """One worker's way to the stored state of sessions. Every call may raise `BusDown`: it may have been done or not.

    So does a Redis that is full. Whatever is repeated after that does no harm. Calls for one session take effect in the
    order in which they are begun. A session is named as the registry knows it, and must have been claimed there.

    Args:
        bus: started or not; may be down at any time.
        me: this worker.
        lifetime: seconds for which a session is stored after the last call here that concerned it, `load`, `exists` and
            `size` not among them.
        max_snapshot: bytes; a session whose document is larger is not stored.
    """

    def __init__(self, bus: Bus, me: WorkerName | str, *, lifetime: float, max_snapshot: int) -> None:
        self._bus = bus
        self._names = bus.names
        self._me = str(me)
        self._lifetime_ms = max(1, round(lifetime * 1000))
        self._max_snapshot = max_snapshot
        self.broken_loads = 0
        """How many sessions have been found not to be whole."""

    async def begin(self, session_key: str, epoch: int, origin: bytes, snapshot: bytes, *, sequence: int = 0) -> None:
        """Store a session anew; this replaces its stored state.

        Args:
            session_key: the session.
            epoch: at which it is mine.
            origin: what the app was created from.
            snapshot: of the document.
            sequence: as of which the snapshot is: more than 0 when Redis has lost a session that goes on.

        Raises:
            Fenced: the session is not mine at that epoch; nothing was changed.
            TooLarge: the snapshot is; nothing is stored of the session any more.
            StoredStateBroken: Redis refuses it; nothing is stored of the session any more.
        """
        await self._check_size(session_key, epoch, snapshot)
        fields: dict[str, bytes | int] = {
            "format": FORMAT,
            "epoch": epoch,
            "origin": origin,
            "origin_sum": _sum(epoch, origin),
            "sequence": sequence,
            "last": sequence,
            "bytes": 0,
            "snapshot": snapshot,
            "snapshot_sum": _sum(sequence, snapshot),
        }
        pairs = [part for pair in fields.items() for part in pair]
        await self._write(scripts.STATE_BEGIN, session_key, epoch, self._lifetime_ms, *pairs)

    async def add(self, session_key: str, epoch: int, first: int, last: int, entries: Sequence[bytes]) -> int:
        """Continue the journal. Of what is there already, by its number, the first copy stays.

        Args:
            session_key: the session.
            epoch: at which it is mine.
            first: number of the first entry.
            last: number of the last.
            entries: one for each number.

        Returns:
            The journal's size in bytes, with `ENTRY_OVERHEAD` for each entry.

        Raises:
            Fenced: the session is not mine at that epoch; nothing was changed.
            StoredStateBroken: there would be a hole, or nothing is stored at that epoch; nothing was changed.
            ValueError: there are not as many entries as numbers.
        """
        if len(entries) != last + 1 - first:
            raise ValueError(f"{len(entries)} entries cannot be number {first} to {last}")
        sealed = (_seal(number, entry) for number, entry in enumerate(entries, first))
        return await self._write(scripts.JOURNAL_ADD, session_key, epoch, self._lifetime_ms, first, *sealed)

    async def snapshot(self, session_key: str, epoch: int, sequence: int, snapshot: bytes) -> None:
        """Replace the snapshot, and drop the entries that are in it. One that is older than what is stored is ignored.

        The journal need not have reached that number: it goes on after it, as if all before had been added.

        Raises:
            Fenced: the session is not mine at that epoch; nothing was changed.
            TooLarge: the snapshot is; nothing is stored of the session any more.
            StoredStateBroken: nothing is stored at that epoch, or not all of it; nothing was changed.
        """
        await self._check_size(session_key, epoch, snapshot)
        await self._write(
            scripts.STATE_SNAPSHOT, session_key, epoch, self._lifetime_ms, sequence, snapshot, _sum(sequence, snapshot)
        )

    async def load(self, session_key: str) -> StoredState | None:
        """All the stored state of a session, as it is at one moment; None if that is nothing, or not whole.

        What is not whole is counted and logged, and stays until it is replaced or expires.
        """
        reply = await self._run(
            scripts.STATE_LOAD, [self._names.stored(session_key), self._names.journal(session_key)], _FIELDS
        )
        if not reply:
            return None
        try:
            return _whole(*reply)
        except ValueError as problem:
            self.broken_loads += 1
            # Only these reasons are written down: what Redis holds is the session's own, and secret.
            reason = problem if isinstance(problem, _NotWhole) else "a number is none"
            log.warning(
                "session %s: its stored state is not whole and cannot be used (%s)", _short(session_key), reason
            )
            return None

    async def exists(self, session_key: str) -> bool:
        """Whether something is stored of a session, in this version's format. Reads one field, whatever the size.

        A `load` may still find that it is not whole.
        """
        try:
            return bool(await self._bus.command("HGET", self._names.stored(session_key), "format") == FORMAT)
        except ResponseError as problem:
            raise StoredStateBroken(f"Redis refuses: {problem}") from None

    async def forget(self, session_key: str, epoch: int) -> None:
        """Keep nothing of the session any more. Comes before the claim is released.

        Raises:
            Fenced: the session is not mine at that epoch; nothing was changed.
        """
        await self._write(scripts.STATE_FORGET, session_key, epoch)

    async def touch(self, session_keys: Iterable[str]) -> set[str]:
        """Keep these sessions for another lifetime, as far as they are mine.

        Returns:
            Those of mine of which nothing is stored, or nothing that could be continued: Redis was restarted, or has
            evicted it. They need a `begin`.
        """
        lacking: set[str] = set()
        for batch in _batches(session_keys):
            keys = [key for session_key in batch for key in self._keys(session_key)]
            positions = await self._run(scripts.STATE_TOUCH, keys, [self._me, self._lifetime_ms])
            lacking.update(batch[position] for position in positions)
        return lacking

    async def size(self, session_key: str) -> int:
        """Bytes of Redis' memory that the session takes here; of its contents alone where the server cannot tell.

        Looks at each node of the journal: for figures and tests, not for every patch.
        """
        return int(
            await self._run(scripts.STATE_SIZE, [self._names.stored(session_key), self._names.journal(session_key)], [])
        )

    async def _check_size(self, session_key: str, epoch: int, snapshot: bytes) -> None:
        if len(snapshot) > self._max_snapshot:
            # Or the session would be rebuilt as it was before it grew.
            await self.forget(session_key, epoch)
            raise TooLarge(
                f"session {_short(session_key)} is not stored: its document takes {len(snapshot)} bytes,"
                f" of {self._max_snapshot} at most"
            )

    def _keys(self, session_key: str) -> list[str]:
        return [self._names.session(session_key), self._names.stored(session_key), self._names.journal(session_key)]

    async def _write(self, script: Script, session_key: str, epoch: int, *args: bytes | str | int) -> int:
        outcome = int(await self._run(script, self._keys(session_key), [self._me, epoch, *args]))
        if outcome == _STRANGER:
            raise Fenced(f"session {_short(session_key)} is not this worker's any more")
        if outcome == _BROKEN:
            raise StoredStateBroken(f"the stored state of session {_short(session_key)} does not continue to here")
        return outcome

    async def _run(self, script: Script, keys: Sequence[str], args: Sequence[bytes | str | int]) -> Any:
        try:
            return await self._bus.run(script, keys, args)
        except ResponseError as problem:
            # Of a cluster, or of a proxy before it; the text names no key, but the script's own lines.
            raise StoredStateBroken(f"Redis refuses: {problem}") from None


class _NotWhole(ValueError):
    """Why something that is stored cannot be used; the text quotes none of it."""


def _sum(number: int, content: bytes) -> int:
    """The number goes in as well, so that no part is taken for that of another moment."""
    return zlib.crc32(content, zlib.crc32(b"%d" % number))


def _seal(number: int, entry: bytes) -> bytes:
    return _ENTRY.pack(number, _sum(number, entry)) + entry


def _unseal(number: int, sealed: bytes) -> bytes:
    if len(sealed) < ENTRY_OVERHEAD:
        raise _NotWhole("an entry of the journal is cut short")
    found, checksum = _ENTRY.unpack_from(sealed)
    entry = sealed[ENTRY_OVERHEAD:]
    if found != number:
        raise _NotWhole("the journal has a hole")
    if checksum != _sum(number, entry):
        raise _NotWhole("an entry of the journal has changed")
    return entry


def _whole(values: list[bytes | None], journal: list[bytes]) -> StoredState:
    """What the reply of `STATE_LOAD` says.

    Raises:
        ValueError: it is not whole.
    """
    fields = [value for value in values if value is not None]
    if len(fields) != len(_FIELDS):
        raise _NotWhole("a part is missing")
    form, epoch_text, origin, origin_sum, sequence_text, snapshot, snapshot_sum, last = fields
    if form != FORMAT:
        raise _NotWhole("another version has written it")
    epoch, sequence = int(epoch_text), int(sequence_text)
    if int(origin_sum) != _sum(epoch, origin) or int(snapshot_sum) != _sum(sequence, snapshot):
        raise _NotWhole("a part has changed")
    if sequence + len(journal) != int(last):
        raise _NotWhole("the journal has a hole")
    entries = tuple(_unseal(number, sealed) for number, sealed in enumerate(journal, sequence + 1))
    return StoredState(origin, epoch, snapshot, sequence, entries)


def _short(session_key: str) -> str:
    return short_id(session_key_parts(session_key)[1])


def _batches(session_keys: Iterable[str]) -> Iterator[list[str]]:
    remaining = iter(session_keys)
    while batch := list(islice(remaining, TOUCH_BATCH)):
        yield batch
