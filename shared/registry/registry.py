"""Which worker owns which session: claimed before app code runs, kept by a heartbeat, fenced by an epoch.

A worker lives as long as its lease, which its heartbeat renews; its claims live as long as it does. A worker that
claims a session of a dead one gets a higher epoch, and from then on Redis refuses what the old owner publishes, however
long it was suspended. When Redis comes back empty, the heartbeats put the claims back; until all had the chance, a
session that Redis does not know is not given away.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from redis.exceptions import ResponseError

from aperture.bus.bus import Bus, Script
from aperture.errors import BusFull, Fenced, OwnerUnknown
from aperture.log import short_id
from aperture.registry import scripts
from aperture.registry import stream as bounds
from aperture.registry.members import WorkerName
from aperture.registry.stream import StreamLedger
from aperture.wire.session_key import session_key_parts

__all__ = ["Appended", "Claim", "Registry"]

RETENTION_LEASES = 10
"""After so many leases without a heartbeat, what a worker left in Redis goes away by itself; its claims, in a day."""

LEAST_GRACE = 10.0
"""Seconds. The bus tries to connect every five at least, one attempt may take three, and then comes the heartbeat."""

STREAM_SECONDS = 60.0
"""How long a session's stream is kept after its last patch. A gap is noticed, and repaired, within seconds."""

BATCH = 500
"""Sessions per call of a script: Redis serves no other client meanwhile, for about a millisecond."""

MOST_DOUBTS = 10_000
"""Sessions whose owner is looked up after an outage; what is more than that stands until its worker ends."""

READ_ENTRIES = 8
"""Entries of a stream in one answer, of a megabyte each at most: what others ask for comes between two."""

WAIT_STEP = 0.1
"""Seconds between two looks whether an old owner has put its claim back."""


@dataclass(frozen=True, slots=True)
class Claim:
    """Who owns a session.

    Args:
        owner: the text of its worker's `WorkerName`.
        epoch: grows with each claim, over all sessions.
        mine: whether that is the worker that asked.
    """

    owner: str
    epoch: int
    mine: bool


@dataclass(frozen=True, slots=True)
class Appended:
    """What became of patches: how many edges Redis has passed them to."""

    receivers: int


class Registry:
    """One worker's view of the registry. Every call may raise `BusDown`.

    Args:
        bus: started or not; may be down at any time.
        me: this worker.
        lease: seconds that a worker is believed to live after its last heartbeat. `renew` is due every `interval`, and
            as soon as the bus is up again.
        grace: seconds for which a Redis that was emptied does not give away what it does not know; by default the
            lease, and long enough for every worker to have connected again.
    """

    def __init__(self, bus: Bus, me: WorkerName, *, lease: float = 6.0, grace: float | None = None) -> None:
        self._bus = bus
        self._names = bus.names
        self.me = str(me)
        self._lease = lease
        self._lease_ms = round(lease * 1000)
        self._retention_ms = self._lease_ms * RETENTION_LEASES
        self._grace_ms = round(1000 * (max(lease, LEAST_GRACE) if grace is None else grace))
        self._claims: dict[str, int] = {}
        self._streams: dict[str, StreamLedger] = {}
        """Of the sessions here that have been published, until they are given up."""
        self._claiming: Counter[str] = Counter()
        self._doubtful: set[str] = set()
        # The millisecond in which this worker first saw Redis born: another one means that Redis was emptied since.
        self._first_born = ""
        # Attempted, not achieved: a Redis that is down says nothing about this process having been stopped.
        self._attempted_at = time.monotonic()
        self._suspected = False
        self._withdrawn = False
        self.full = False
        """Whether Redis has refused a claim, or the last `look_for_room`, for want of memory."""

    @property
    def interval(self) -> float:
        """Seconds between two heartbeats."""
        return self._lease / 3

    @property
    def frozen(self) -> bool:
        """Whether the heartbeat is so late that others may have taken this worker for dead.

        A process that was stopped finds this true until its next `renew` begins.
        """
        return self._suspected or time.monotonic() - self._attempted_at > self._lease

    def note_beat(self) -> None:
        """The lease thread has just renewed the lease, so this process runs. From any thread."""
        self._attempted_at = time.monotonic()

    def suspect(self) -> None:
        """The whole process was stopped for longer than its lease. From any thread."""
        self._suspected = True

    async def claim(self, session_key: str, *, fresh: bool) -> Claim:
        """Make the session mine unless a living worker has it; says whose it is.

        Claiming again what is mine changes nothing. When Redis has come back empty, a session that it does not know is
        claimed only after its owner, if there is one, has had the time to put its claim back; so this may take as long
        as `grace`. With a Redis that no worker has used before, no claim waits.

        Args:
            session_key: the session.
            fresh: the id was made just now, so that no worker can own it.

        Raises:
            Fenced: this worker has withdrawn.
            OwnerUnknown: another program has written there.
        """
        # It would bring back what `withdraw` gives up, and no heartbeat would renew it.
        if self._withdrawn:
            raise Fenced("this worker has left the cluster")
        # Counted: `_settle_doubts` must not release what is being claimed at this moment.
        self._claiming[session_key] += 1
        asked = self._bus.up  # otherwise nothing was sent, however many requests come in during an outage
        try:
            return await self._claim(session_key, fresh)
        except BaseException as problem:
            # The claim may have succeeded and its answer be lost, a cancelled request included: the next heartbeat
            # finds out.
            if asked:
                self._doubt(session_key)
            self.full = self.full or isinstance(problem, BusFull)
            raise
        finally:
            self._claiming[session_key] -= 1
            if not self._claiming[session_key]:
                del self._claiming[session_key]

    async def _claim(self, session_key: str, fresh: bool) -> Claim:
        while True:
            reply = await self._run(
                scripts.CLAIM,
                [
                    self._names.session(session_key),
                    self._names.stream(session_key),
                    self._names.workers,
                    self._names.epoch,
                    self._names.born,
                    self._names.seasoned,
                ],
                [self.me, self._lease_ms, self._retention_ms, int(fresh), self._grace_ms, self._first_born],
            )
            if reply[0] == b"owned":
                return self._noted(session_key, reply[1].decode(), int(reply[2]))
            # Asked again and not waited for once: as a rule the owner comes back long before the time is over.
            await asyncio.sleep(min(WAIT_STEP, reply[1] / 1000))

    async def _run(self, script: Script, keys: Sequence[str], args: Sequence[str | int]) -> Any:
        with _written_by_others():
            return await self._bus.run(script, keys, args)

    async def release(self, session_key: str, epoch: int) -> None:
        """Give the session up, if it is still mine at that epoch. If that fails, the next heartbeat does it."""
        # Before Redis is asked: a heartbeat in between would put the claim back.
        self._claims.pop(session_key, None)
        self._streams.pop(session_key, None)
        try:
            await self._release({session_key: epoch})
        except BaseException:
            self._doubt(session_key)
            raise

    async def renew(self, sessions: Mapping[str, int]) -> set[str]:
        """The heartbeat: renew the lease, and put back claims that Redis has forgotten.

        Args:
            sessions: what this worker believes to own, with the epochs.

        Returns:
            Those of them that belong to another now, or were claimed anew. They are dropped here, too.
        """
        self._attempted_at = time.monotonic()
        self._suspected = False
        if self._withdrawn:
            return set()
        self._claims.update(sessions)
        # The lease first, and by itself: claims come in batches, and none of them may keep it waiting.
        born = await self._bus.run(
            scripts.RENEW_LEASE,
            [self._names.workers, self._names.born, self._names.seasoned, self._names.epoch],
            [self.me, self._lease_ms, self._retention_ms, self._first_born, self._grace_ms],
        )
        # Of the first answer: the scripts compare it with the present one, to see whether Redis was emptied since.
        self._first_born = self._first_born or born.decode()
        await self._settle_doubts()
        lost: set[str] = set()
        for batch in _batches(sessions):
            # Not those released during an earlier batch: that would block every claim of them for a minute.
            lost |= await self._renew_claims({key: sessions[key] for key in batch if key in self._claims})
        return lost

    async def look_for_room(self) -> None:
        """Find out whether a claim would be refused for want of memory; `full` says so afterwards.

        Only this ends it, and not a claim that has succeeded: near the limit some do and some do not.
        """
        try:
            # An empty value will do: Redis refuses every write by what it holds already.
            await self._bus.command("SET", self._names.room, "", "PX", self._retention_ms)
        except BusFull:
            self.full = True
        else:
            self.full = False

    async def bury_predecessors(self) -> None:
        """End the leases of those who had this worker's place in its node before: it is only given to one at a time.

        So a killed worker's sessions can be claimed as soon as its successor runs, not a lease later.
        """
        place = self.me.rpartition("/")[0] + "/"
        for member in await self._bus.command("ZRANGE", self._names.workers, 0, -1):
            name = member.decode()
            # Names end in a nonce, so predecessors differ from this worker in that alone.
            if name.startswith(place) and name != self.me:
                await self._bus.command("ZREM", self._names.workers, name)

    async def owner_of(self, session_key: str) -> Claim | None:
        """Who owns the session; None if it has no owner, or one that is dead.

        Raises:
            OwnerUnknown: Redis was emptied or paused a moment ago, and the owner may not have come back to it yet;
                or another program has written there.
        """
        names = self._names
        keys = [names.session(session_key), names.workers, names.born, names.seasoned]
        reply = await self._run(scripts.OWNER, keys, [self.me, self._lease_ms, self._grace_ms, self._first_born])
        if not reply:
            return None
        if reply[0] == b"unknown":
            raise OwnerUnknown("Redis was emptied or cut off; whose the session is will be known within seconds")
        owner = reply[0].decode()
        return Claim(owner, int(reply[1]), owner == self.me)

    async def living(self, owners: Iterable[str]) -> set[str]:
        """Those of the workers whose lease has not ended; all that may live, where Redis was emptied a moment ago."""
        asked = sorted(set(owners))
        if not asked:
            return set()
        names = self._names
        keys = [names.workers, names.born, names.seasoned]
        reply = await self._bus.run(scripts.LIVING, keys, [self._grace_ms, self._first_born, *asked])
        return {owner.decode() for owner in reply}

    async def withdraw(self) -> None:
        """End the lease and all claims, for the end of the worker."""
        # Before anything is awaited: no claim and no heartbeat may begin that would bring the lease back.
        self._withdrawn = True
        claims, self._claims = self._claims, {}
        self._streams.clear()
        with _written_by_others():
            # Without it, any worker may claim the sessions.
            await self._bus.command("ZREM", self._names.workers, self.me)
        # Others need not wait for these: an owner without a lease is as one that is dead.
        for batch in _batches(claims):
            await self._release({key: claims[key] for key in batch})

    async def append(
        self, session_key: str, epoch: int, first: int, last: int, payload: bytes, notice: bytes = b""
    ) -> Appended:
        """Publish patches on the session's channel, and keep them for those who miss them. One call of Redis.

        Appends of one session keep their order if they are begun in it; none has to wait for the one before. What was
        appended before, because its outcome is unknown, is published again and stored once.

        More than `ENTRY_BYTES` are kept in parts, one call for each, and the notice is published in their place. The
        next append of that session has to wait for these.

        Args:
            session_key: the session.
            epoch: at which it is mine.
            first: sequence number of the first patch in the payload; 1 or more.
            last: sequence number of the last.
            payload: as edges shall receive it.
            notice: tells them that a payload is there to be read.

        Raises:
            BusDown: unknown whether it was stored or published. So does a Redis that is full raise for what
                needs its memory, which is a payload in parts.
            Fenced: the session is not mine at that epoch; nothing was published.
        """
        stream = self._stream_of(session_key, epoch)
        # Before it is sent: where the outcome is unknown, the bytes count as stored.
        stream.note(last, len(payload))
        size = bounds.ENTRY_BYTES
        parts = [payload[start : start + size] for start in range(0, len(payload), size)] or [b""]
        published = payload if len(parts) == 1 else notice
        reached = 0
        # One call each: Redis serves no other client while it copies a part.
        for part, content in enumerate(parts):
            reached = await self._bus.run(
                scripts.APPEND,
                [self._names.session(session_key), self._names.stream(session_key)],
                [
                    self.me,
                    epoch,
                    self._names.channel(session_key),
                    first,
                    last,
                    part,
                    len(parts),
                    content,
                    published,
                    stream.floor,
                    round(STREAM_SECONDS * 1000),
                ],
            )
            # By the script, in one step with the write: a look and a write apart could have another worker's claim in
            # between.
            if reached < 0:
                self._streams.pop(session_key, None)
                raise Fenced(f"session {short_id(session_key_parts(session_key)[1])} is not this worker's any more")
        return Appended(reached)

    async def read(self, session_key: str, after: int) -> list[bytes] | None:
        """The payloads that follow a sequence number, all of them without a hole; or None.

        None also says that nothing is kept: then Redis cannot tell whether anything is missing. The first payload may
        begin at or before that number.

        Raises:
            ValueError: another program has written there.
        """
        try:
            return await self._read(session_key, after)
        # Of another type than a stream, or ids that are none of ours.
        except ResponseError as problem:
            raise ValueError(str(problem)) from None

    async def _read(self, session_key: str, after: int) -> list[bytes] | None:
        payloads: list[bytes] = []
        parts: list[bytes] = []
        async for entry in self._entries(session_key, after):
            # A hole, or parts of which the first were trimmed: filled completely or not at all.
            if entry.first > after + 1 or entry.part != len(parts):
                return None
            parts.append(entry.payload)
            if len(parts) == entry.parts:
                payloads.append(b"".join(parts))
                parts.clear()
                after = entry.last
        # Parts at the end are of what is just being appended.
        return payloads if payloads or await self._ends_at(session_key, after) else None

    async def _entries(self, session_key: str, after: int) -> AsyncIterator[_Entry]:
        """What the stream holds behind a sequence number: a few entries in each call, so that others have a turn."""
        start = f"{after + 1}-0"
        while True:
            found = await self._bus.command(
                "XRANGE", self._names.stream(session_key), start, "+", "COUNT", READ_ENTRIES
            )
            for name, fields in found:
                yield _Entry.of(name, fields)
            # Fewer than were asked for: the end, as of now. What is appended later is announced by itself.
            if len(found) < READ_ENTRIES:
                return
            # "(": behind that id (Redis 6.2).
            start = f"({found[-1][0].decode()}"

    async def _ends_at(self, session_key: str, sequence: int) -> bool:
        for name, fields in await self._bus.command("XREVRANGE", self._names.stream(session_key), "+", "-", "COUNT", 1):
            return _Entry.of(name, fields).last == sequence
        return False

    def _stream_of(self, session_key: str, epoch: int) -> StreamLedger:
        # Of another epoch: the claim's script has deleted the stream.
        stream = self._streams.get(session_key)
        if stream is None or stream.epoch != epoch:
            stream = self._streams[session_key] = StreamLedger(epoch)
        return stream

    def _noted(self, session_key: str, owner: str, epoch: int) -> Claim:
        self._doubtful.discard(session_key)
        # Also where it was mine before: the answer to the first attempt may have been lost.
        mine = owner == self.me
        if mine:
            self._claims[session_key] = epoch
        return Claim(owner, epoch, mine)

    def _doubt(self, session_key: str) -> None:
        if len(self._doubtful) < MOST_DOUBTS:
            self._doubtful.add(session_key)

    async def _settle_doubts(self) -> None:
        """Release claims that Redis holds for this worker and it does not know of, because an answer was lost."""
        for session_key in list(self._doubtful):
            try:
                claim = await self.owner_of(session_key)
            except OwnerUnknown:
                continue  # the next heartbeat asks again
            # Asked again: the answer of a moment ago may be from before that claim.
            if session_key in self._claiming:
                continue
            self._doubtful.discard(session_key)
            # Mine in Redis, and unknown here: no session lives behind it, and no other worker could ever claim it.
            if claim is not None and claim.mine and session_key not in self._claims:
                await self._release({session_key: claim.epoch})

    async def _renew_claims(self, sessions: Mapping[str, int]) -> set[str]:
        if not sessions:
            return set()
        asked, names = list(sessions), self._names
        keys = [key for session_key in asked for key in (names.session(session_key), names.stream(session_key))]
        positions = await self._bus.run(
            scripts.RENEW_CLAIMS, [names.epoch, *keys], [self.me, self._retention_ms, *sessions.values()]
        )
        lost = {asked[position] for position in positions}
        for session_key in lost:
            # Claimed anew while Redis answered: then what is lost is the old claim.
            if self._claims.get(session_key) == sessions[session_key]:
                del self._claims[session_key]
                self._streams.pop(session_key, None)
        return lost

    async def _release(self, sessions: Mapping[str, int]) -> None:
        keys = [key for id_ in sessions for key in (self._names.session(id_), self._names.stream(id_))]
        await self._bus.run(scripts.RELEASE, keys, [self.me, self._retention_ms, *sessions.values()])


@contextmanager
def _written_by_others() -> Iterator[None]:
    """Another program has put something else under a key of ours. Its owner's heartbeat may put that right."""
    try:
        yield
    except ResponseError as problem:
        raise OwnerUnknown(f"a key of ours in Redis holds something else: {problem}") from problem


def _batches(sessions: Mapping[str, Any]) -> list[Sequence[str]]:
    ids = list(sessions)
    return [ids[start : start + BATCH] for start in range(0, len(ids), BATCH)]


@dataclass(frozen=True, slots=True)
class _Entry:
    """One entry of a stream: a payload, or a part of one."""

    first: int
    last: int
    part: int
    parts: int
    payload: bytes

    @classmethod
    def of(cls, name: bytes, fields: list[bytes]) -> _Entry:
        """Raises ValueError for what is none."""
        named = dict(zip(fields[::2], fields[1::2], strict=True))
        try:
            first, last, parts = int(named[b"first"]), int(named[b"last"]), int(named[b"parts"])
            return cls(first, last, int(name.partition(b"-")[2]), parts, named[b"payload"])
        except KeyError as problem:
            raise ValueError(f"an entry without {problem}") from None
