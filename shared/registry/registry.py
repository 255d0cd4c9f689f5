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
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from redis.exceptions import ResponseError

from aperture.bus.bus import Bus
from aperture.errors import BusFull, Fenced, OwnerUnknown
from aperture.log import short_id
from aperture.registry import scripts
from aperture.registry import stream as bounds
from aperture.registry.stream import StreamLedger
from aperture.wire.session_key import session_key_parts

__all__ = ["LEAST_GRACE", "Appended", "Claim", "Registry", "WorkerName"]

KEPT_LEASES = 10
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
class WorkerName:
    """One life of one worker; it is never used again.

    Args:
        node: of the worker, unique among the nodes.
        index: of the worker in its node.
        nonce: different each time the worker is started.
    """

    node: str
    index: int
    nonce: str

    def __str__(self) -> str:
        return f"{self.node}/{self.index}/{self.nonce}"

    @classmethod
    def parse(cls, text: str) -> WorkerName:
        """The name that has this text.

        Raises:
            ValueError: none has.
        """
        node, index, nonce = text.rsplit("/", 2)
        return cls(node, int(index), nonce)


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
        self._kept_ms = self._lease_ms * KEPT_LEASES
        self._grace_ms = round(1000 * (max(lease, LEAST_GRACE) if grace is None else grace))
        self._claims: dict[str, int] = {}
        self._streams: dict[str, StreamLedger] = {}
        """Of the sessions here that have been published, until they are given up."""
        self._claiming: Counter[str] = Counter()
        self._doubtful: set[str] = set()
        self._first_born = ""
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
        """
        if self._withdrawn:
            raise Fenced("this worker has left the cluster")
        self._claiming[session_key] += 1
        asked = self._bus.up  # otherwise nothing was sent, however many requests come in during an outage
        try:
            return await self._claim(session_key, fresh)
        except BaseException as problem:
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
            reply = await self._bus.run(
                scripts.CLAIM,
                [
                    self._names.session(session_key),
                    self._names.stream(session_key),
                    self._names.workers,
                    self._names.epoch,
                    self._names.born,
                    self._names.seasoned,
                ],
                [self.me, self._lease_ms, self._kept_ms, int(fresh), self._grace_ms, self._first_born],
            )
            if reply[0] == b"owned":
                return self._noted(session_key, reply[1].decode(), int(reply[2]))
            await asyncio.sleep(min(WAIT_STEP, reply[1] / 1000))

    async def release(self, session_key: str, epoch: int) -> None:
        """Give the session up, if it is still mine at that epoch. If that fails, the next heartbeat does it."""
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
        born = await self._bus.run(
            scripts.RENEW_LEASE,
            [self._names.workers, self._names.born, self._names.seasoned, self._names.epoch],
            [self.me, self._lease_ms, self._kept_ms, self._first_born, self._grace_ms],
        )
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
            await self._bus.command("SET", self._names.room, "", "PX", self._kept_ms)
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
            if name.startswith(place) and name != self.me:
                await self._bus.command("ZREM", self._names.workers, name)

    async def owner_of(self, session_key: str) -> Claim | None:
        """Who owns the session; None if it has no owner, or one that is dead.

        Raises:
            OwnerUnknown: Redis was emptied or paused a moment ago, and the owner may not have come back to it yet.
        """
        names = self._names
        keys = [names.session(session_key), names.workers, names.born, names.seasoned]
        reply = await self._bus.run(scripts.OWNER, keys, [self.me, self._lease_ms, self._grace_ms, self._first_born])
        if not reply:
            return None
        if reply[0] == b"unknown":
            raise OwnerUnknown("Redis was emptied or cut off; whose the session is will be known within seconds")
        owner = reply[0].decode()
        return Claim(owner, int(reply[1]), owner == self.me)

    async def living(self, owners: Iterable[str]) -> set[str]:
        """Those of the workers whose lease has not ended."""
        asked = sorted(set(owners))
        if not asked:
            return set()
        return {owner.decode() for owner in await self._bus.run(scripts.LIVING, [self._names.workers], asked)}

    async def withdraw(self) -> None:
        """End the lease and all claims, for the end of the worker."""
        self._withdrawn = True
        claims, self._claims = self._claims, {}
        self._streams.clear()
        await self._bus.command("ZREM", self._names.workers, self.me)  # without it, any worker may claim the sessions
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
        stream.note(last, len(payload))
        size = bounds.ENTRY_BYTES
        parts = [payload[start : start + size] for start in range(0, len(payload), size)] or [b""]
        published = payload if len(parts) == 1 else notice
        reached = 0
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
        except ResponseError as problem:
            raise ValueError(str(problem)) from None

    async def _read(self, session_key: str, after: int) -> list[bytes] | None:
        payloads: list[bytes] = []
        parts: list[bytes] = []
        async for entry in self._entries(session_key, after):
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
            if len(found) < READ_ENTRIES:
                return
            start = f"({found[-1][0].decode()}"

    async def _ends_at(self, session_key: str, sequence: int) -> bool:
        for name, fields in await self._bus.command("XREVRANGE", self._names.stream(session_key), "+", "-", "COUNT", 1):
            return _Entry.of(name, fields).last == sequence
        return False

    def _stream_of(self, session_key: str, epoch: int) -> StreamLedger:
        stream = self._streams.get(session_key)
        if stream is None or stream.epoch != epoch:
            stream = self._streams[session_key] = StreamLedger(epoch)
        return stream

    def _noted(self, session_key: str, owner: str, epoch: int) -> Claim:
        self._doubtful.discard(session_key)
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
            if session_key in self._claiming:
                continue
            self._doubtful.discard(session_key)
            if claim is not None and claim.mine and session_key not in self._claims:
                await self._release({session_key: claim.epoch})

    async def _renew_claims(self, sessions: Mapping[str, int]) -> set[str]:
        if not sessions:
            return set()
        asked = list(sessions)
        positions = await self._bus.run(
            scripts.RENEW_CLAIMS,
            [self._names.epoch, *map(self._names.session, asked)],
            [self.me, self._kept_ms, *sessions.values()],
        )
        lost = {asked[position] for position in positions}
        for session_key in lost:
            if self._claims.get(session_key) == sessions[session_key]:
                del self._claims[session_key]
                self._streams.pop(session_key, None)
        return lost

    async def _release(self, sessions: Mapping[str, int]) -> None:
        keys = [key for id_ in sessions for key in (self._names.session(id_), self._names.stream(id_))]
        await self._bus.run(scripts.RELEASE, keys, [self.me, self._kept_ms, *sessions.values()])


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
