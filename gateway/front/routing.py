"""Decides which worker a request is for. Pure: no clock, no socket; the caller passes the time.

A session lives in one worker. The table learns from the workers which sessions they have (`Claimed`, `Released`), and
remembers for a while where it has sent an unclaimed id, so that the second request for a new id follows the first.
Where the two disagree, the worker that claimed is right.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field

from aperture.wire.accounts import Load
from aperture.wire.node_messages import REPORT_INTERVAL, LoadReport

__all__ = ["RoutingTable"]

PROVISIONAL_LIFETIME = 120.0
"""Seconds an unclaimed id stays with the worker it was sent to: app code may run that long before it claims."""

MAX_PROVISIONAL = 50_000
"""Ids remembered without a claim, about 10 MB. Anyone can invent ids, so above it the oldest are forgotten."""

SILENCE = 1.5 * REPORT_INTERVAL
"""Seconds without a report after which a worker gets no new session while another one reports: app code keeps it from
reporting, and would keep the visitor waiting. Half an interval is what a busy machine may delay a timer by."""

WAIT_STEP = 0.1
"""Seconds that a visitor would wait for the event loop that count as more work, whatever the numbers of sessions say.
Below it, the worker with the fewest sessions is the one with the least work."""

ARRIVAL_COST = 0.02
"""Seconds of work that a connection is taken to bring that the worker has not confirmed yet. Reports come twice a
second: without it, all visitors of half a second would go to the worker that had nothing to do when it reported."""

LAG_STEP = 0.010
"""Seconds of event-loop lag that count as a difference between equals; below it, workers take turns."""

_WHOLE_IDS_UP_TO = 128
"""Longer ids are stored as a digest, so that the table's memory is bounded by its number of entries."""

_NO_REPORT = LoadReport(Load(0, 0, 0.0, 0), 0)
"""Of a worker that has just come up."""


@dataclass(slots=True)
class _Seat:
    """What is known about one worker that is up."""

    generation: int
    report: LoadReport
    reported_at: float
    sent: int
    """The number of the last connection handed over to it."""
    arrived: int
    """The number of the last one that it has confirmed. Earlier ones have arrived as well, or never will."""
    claimed: set[str] = field(default_factory=set)
    provisional: int = 0
    lag: float = 0.0
    """Of the event loop, in seconds; half of it is the last report's, so that one slow callback tips no scales."""

    def hear(self, report: LoadReport, now: float) -> None:
        # A worker older than this gateway may still report a number of the gateway before it, which is lower.
        self.arrived = max(self.arrived, report.adopted)
        self.report = report
        self.lag = (self.lag + report.load.lag_seconds) / 2
        self.reported_at = now

    @property
    def in_flight(self) -> int:
        """Connections handed over and not yet confirmed."""
        return self.sent - self.arrived

    @property
    def connections(self) -> int:
        """Websockets, and connections not yet confirmed."""
        return self.report.load.connections + self.in_flight

    def silence(self, now: float) -> float:
        """Seconds by which the next report is late."""
        return max(0.0, now - self.reported_at - REPORT_INTERVAL)

    def is_silent(self, now: float) -> bool:
        """Whether app code seems to keep the worker from reporting."""
        return now - self.reported_at > SILENCE

    def work(self, now: float) -> tuple[int, int, int]:
        """What to compare workers by: the wait for the event loop, the sessions, and then whatever lag there is."""
        wait = max(self.lag, self.silence(now)) + self.in_flight * ARRIVAL_COST
        load = self.report.load
        sessions = max(load.sessions, len(self.claimed)) + self.provisional
        return int(wait / WAIT_STEP), sessions + self.in_flight, int(load.lag_seconds / LAG_STEP)


@dataclass(frozen=True, slots=True)
class _Provisional:
    worker: int
    expires_at: float


class RoutingTable:
    """Which worker has which session, and which worker is the least loaded.

    Args:
        workers: how many worker slots the node has; a worker is identified by its slot's index.
        first: the first number for connections handed over; must be higher than any number of an earlier gateway.
    """

    def __init__(self, workers: int, first: int = 1) -> None:
        self._workers = workers
        self._sent = [first - 1] * workers
        self._up: dict[int, _Seat] = {}
        self._owners: dict[str, int] = {}
        self._provisional: OrderedDict[str, _Provisional] = OrderedDict()
        self._crowded: set[str] = set()
        self._last = workers - 1

    @property
    def up(self) -> tuple[int, ...]:
        """The workers that have said hello and are not known to be dead."""
        return tuple(sorted(self._up))

    def generation(self, worker: int) -> int | None:
        """The generation that last said hello; None while the worker is down."""
        seat = self._up.get(worker)
        return None if seat is None else seat.generation

    def last_report(self, worker: int) -> LoadReport | None:
        """The last load report of a worker that is up."""
        seat = self._up.get(worker)
        return None if seat is None else seat.report

    def overdue(self, worker: int, now: float) -> float:
        """Seconds by which the load report of a running worker is late."""
        seat = self._up.get(worker)
        return 0.0 if seat is None else seat.silence(now)

    def knows(self, session_id: str) -> bool:
        """Whether some worker is known to have this session."""
        return _key(session_id) in self._owners

    def hello(self, worker: int, generation: int, now: float) -> bool:
        """A worker is up. False if this is not new: it was up already, or a later generation is."""
        seat = self._up.get(worker)
        if seat is not None:
            if seat.generation >= generation:
                return False
            self._forget(worker)
        # Connections sent to the generation before are returned by the supervisor, or handed back by the new
        # generation.
        sent = self._sent[worker]
        self._up[worker] = _Seat(generation, _NO_REPORT, now, sent=sent, arrived=sent)
        return True

    def down(self, worker: int, generation: int) -> bool:
        """A worker is dead; everything known about it is forgotten. False if a later generation is already up."""
        seat = self._up.get(worker)
        if seat is None or seat.generation > generation:
            return False
        self._forget(worker)
        return True

    def report(self, worker: int, report: LoadReport, now: float) -> None:
        """Store a worker's load report."""
        if (seat := self._up.get(worker)) is not None:
            seat.hear(report, now)

    def claim(self, worker: int, session_ids: Iterable[str]) -> None:
        """A worker owns these sessions; overrides any earlier owner."""
        seat = self._up.get(worker)
        if seat is None:
            return
        for key in map(_key, session_ids):
            self._drop_provisional(key)
            if self._owners.get(key) == worker:
                continue
            self._disown(key)
            self._owners[key] = worker
            seat.claimed.add(key)

    def release(self, worker: int, session_ids: Iterable[str]) -> None:
        """A worker no longer owns these sessions; one that another worker has claimed since stays with that one."""
        for key in map(_key, session_ids):
            if self._owners.get(key) == worker:
                self._disown(key)

    def move(self, worker: int, session_id: str, to: int | None, now: float) -> None:
        """A worker passes a session to another: to the one named, or, with None, to the least loaded other one."""
        self.release(worker, [session_id])
        key = _key(session_id)
        self._drop_provisional(key)
        others = [other for other in self._up if other != worker]
        if to in others:
            self._remember(key, to, now)
        elif others and key not in self._owners:
            self._remember(key, self._least_work(others, now), now)

    def crowd(self, worker: int, session_id: str, crowded: bool) -> None:
        """Whether further viewers of a worker's session should go to other workers."""
        key = _key(session_id)
        if crowded and self._owners.get(key) == worker:
            self._crowded.add(key)
        else:
            self._crowded.discard(key)

    def next_number(self, worker: int) -> int:
        """The number of the next connection handed over to a worker."""
        return self._sent[worker] + 1

    def sent(self, worker: int) -> None:
        """A connection was handed over to a worker, with the next number."""
        self._sent[worker] += 1
        if (seat := self._up.get(worker)) is not None:
            seat.sent = self._sent[worker]

    def choose(self, session_id: str | None, now: float, *, viewer: bool = False) -> int | None:
        """The worker for a request, or None when no worker is up.

        Args:
            session_id: what `aperture.protocol.naming.session_named` found. An unknown id goes to the least
                loaded worker, and is remembered as that worker's for `PROVISIONAL_LIFETIME`.
            now: in seconds, from the same clock as the other calls.
            viewer: the request opens a websocket, which for a crowded session may go to a worker other than the owner.
        """
        self._expire(now)
        if session_id is None:
            return self._least_loaded(now)
        key = _key(session_id)
        if key in self._owners:
            owner = self._owners[key]
            return self._beside(owner, now) if viewer and key in self._crowded else owner
        if key in self._provisional:
            return self._provisional[key].worker
        worker = self._least_loaded(now)
        if worker is not None:
            self._remember(key, worker, now)
        return worker

    def _least_loaded(self, now: float) -> int | None:
        if not self._up:
            return None
        fresh = [worker for worker, seat in self._up.items() if not seat.is_silent(now)]
        # A worker out of descriptors turns connections away, and would look idle because of it.
        able = [worker for worker in fresh if not self._up[worker].report.exhausted]
        self._last = self._least_work(able or fresh or list(self._up), now)
        return self._last

    def _least_work(self, workers: Iterable[int], now: float) -> int:
        return min(workers, key=lambda worker: (self._up[worker].work(now), self._turn(worker)))

    def _beside(self, owner: int, now: float) -> int:
        """The worker with the fewest connections, other than the owner; the owner if it is the only one."""
        others = {worker: seat for worker, seat in self._up.items() if worker != owner and not seat.report.exhausted}
        if not others:
            return owner
        return min(others, key=lambda worker: (others[worker].is_silent(now), others[worker].connections, worker))

    def _turn(self, worker: int) -> int:
        """How many slots after the last chosen worker this one is: equals take turns."""
        return (worker - self._last - 1) % self._workers

    def _remember(self, key: str, worker: int, now: float) -> None:
        while len(self._provisional) >= MAX_PROVISIONAL:
            self._drop_provisional(next(iter(self._provisional)))
        self._provisional[key] = _Provisional(worker, now + PROVISIONAL_LIFETIME)
        self._up[worker].provisional += 1

    def _expire(self, now: float) -> None:
        while self._provisional:
            oldest = next(iter(self._provisional))
            if self._provisional[oldest].expires_at > now:
                return
            self._drop_provisional(oldest)

    def _drop_provisional(self, key: str) -> None:
        entry = self._provisional.pop(key, None)
        if entry is not None:
            self._up[entry.worker].provisional -= 1

    def _disown(self, key: str) -> None:
        owner = self._owners.pop(key, None)
        if owner is not None:
            self._up[owner].claimed.discard(key)
            self._crowded.discard(key)

    def _forget(self, worker: int) -> None:
        for key in tuple(self._up[worker].claimed):
            self._disown(key)
        for key in [key for key, entry in self._provisional.items() if entry.worker == worker]:
            self._drop_provisional(key)
        del self._up[worker]


def _key(session_id: str) -> str:
    if len(session_id) <= _WHOLE_IDS_UP_TO:
        return session_id
    return "blake2b:" + hashlib.blake2b(session_id.encode("utf-8", "surrogatepass"), digest_size=32).hexdigest()
