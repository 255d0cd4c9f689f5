"""Lists the workers and sessions of this node and of the others, and sends admin commands: end or move a session.

Runs in the gateway. This node's workers are asked directly, so that they answer also during a Redis outage. For the
other nodes, one worker of this node asks over the bus. No answer is waited for longer than `ANSWER_TIME`; a worker that
is late is listed as missing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Literal, Protocol

from msgspec import structs

from aperture.gateway.front.workers import Elsewhere, Survey
from aperture.wire.accounts import Command, Load, Outcome, SessionRow
from aperture.wire.node_messages import LoadReport

__all__ = ["ANSWER_TIME", "Inventory", "Place", "Seen", "Staff", "WorkerSeen"]

ANSWER_TIME = 1.0
"""Seconds that workers have to answer; one that takes longer is listed as missing."""

ORDER_TIME = 10.0
"""Seconds that a worker has to end or move a session: it waits for app code to return, and session hooks run."""

UNKNOWN_LOAD = Load(0, 0, 0.0, 0)
"""Of a worker that has just gone."""


class Standing(Protocol):
    """Which workers are up, and the last load report of each."""

    @property
    def up(self) -> Sequence[int]: ...

    def last_report(self, worker: int) -> LoadReport | None: ...


class Staff(Protocol):
    """What the admin endpoints ask of a node's workers. Implemented by the gateway's `NodeWorkers`, and for a server of
    one process by its only worker."""

    @property
    def draining(self) -> bool: ...

    @property
    def workers(self) -> Sequence[int]:
        """All places."""
        ...

    @property
    def pids(self) -> Mapping[int, int]: ...

    @property
    def table(self) -> Standing: ...

    def overdue(self) -> dict[int, float]:
        """Seconds by which the load report of each running worker is late."""
        ...

    async def ask(self, workers: Iterable[int], deadline: float) -> Survey: ...

    async def ask_elsewhere(self, prefix: str, deadline: float) -> Elsewhere: ...

    async def execute(self, worker: int | str, command: Command, deadline: float) -> Outcome | None: ...


@dataclass(frozen=True, slots=True)
class Place:
    """Where a worker runs. `name` is its name on the bus; None for a worker of this node."""

    node: str
    worker: int
    name: str | None = None


@dataclass(frozen=True, slots=True)
class WorkerSeen:
    """A worker, and the sessions that it has reported."""

    place: Place
    pid: int | None
    load: Load
    rows: tuple[SessionRow, ...]


@dataclass(frozen=True, slots=True)
class Seen:
    """What was found.

    Args:
        workers: those that answered.
        missing: those that did not.
        complete: False if other nodes could not be asked, because Redis cannot be reached.
        truncated: whether a worker has more sessions than it reported.
    """

    workers: tuple[WorkerSeen, ...]
    missing: tuple[Place, ...]
    complete: bool
    truncated: bool

    def sessions(self) -> Iterator[tuple[WorkerSeen, SessionRow]]:
        """Every session with its worker."""
        for worker in self.workers:
            for row in worker.rows:
                yield worker, row


class Inventory:
    """Asks the workers of this node, and through one of them those of other nodes.

    Args:
        node_workers: of this node.
        node: this node's name.
        has_bus: whether there may be other nodes.
    """

    def __init__(self, node_workers: Staff, node: str, *, has_bus: bool) -> None:
        self._node_workers = node_workers
        self._node = node
        self._has_bus = has_bus

    def reported(self) -> list[WorkerSeen]:
        """The running workers of this node as last reported, without their sessions.

        A worker whose report is overdue shows at least that time as its lag: its event loop is blocked.
        """
        owing = self._node_workers.overdue()
        seen = ((self._worker(worker, [], ""), seconds) for worker, seconds in owing.items())
        return [replace(worker, load=_at_least(worker.load, seconds)) for worker, seconds in seen]

    async def take(self, *, cluster: bool, prefix: str = "") -> Seen:
        """Ask all workers of this node, or of all nodes, for their sessions.

        Args:
            cluster: ask the other nodes, too.
            prefix: list only sessions whose ids begin with this.
        """
        asked = self._node_workers.ask(self._node_workers.table.up, ANSWER_TIME)
        if not (cluster and self._has_bus):
            survey = await asked
            return self._here(survey, prefix)
        survey, elsewhere = await asyncio.gather(asked, self._node_workers.ask_elsewhere(prefix, ANSWER_TIME))
        return _together(self._here(survey, prefix), elsewhere)

    async def execute(
        self, action: Literal["end", "move"], session_id: str, app: str | None, to: int | None
    ) -> Outcome:
        """End or move a session.

        Args:
            action: "end" or "move".
            session_id: of the session, or its first characters as the admin endpoints show them.
            app: the session's app; needed only where two apps use the same id.
            to: the index of the worker to move it to; None for any other worker.
        """
        seen = await self.take(cluster=True, prefix=session_id)
        found = [(worker, row) for worker, row in seen.sessions() if app in (None, row.app)]
        if not found:
            return _not_found(seen)
        if len(found) > 1:
            text = f"{len(found)} sessions begin like this; give more of the id, or ?app="
            return Outcome(HTTPStatus.CONFLICT, text)
        (worker, row), *_ = found
        place = worker.place
        command = Command(action, session_id, row.app, to)
        outcome = await self._node_workers.execute(place.name or place.worker, command, ORDER_TIME)
        return outcome or Outcome(HTTPStatus.GATEWAY_TIMEOUT, "the session's worker does not say whether it was done")

    def _here(self, survey: Survey, prefix: str) -> Seen:
        answered = [worker for worker in self._node_workers.table.up if worker in survey.sessions]
        late = [worker for worker in self._node_workers.workers if worker not in answered or worker in survey.missing]
        seen = [self._worker(worker, survey.sessions[worker], prefix) for worker in answered if worker not in late]
        return Seen(tuple(seen), tuple(Place(self._node, worker) for worker in late), True, False)

    def _worker(self, worker: int, sessions: list[SessionRow], prefix: str) -> WorkerSeen:
        report = self._node_workers.table.last_report(worker)
        return WorkerSeen(
            Place(self._node, worker),
            self._node_workers.pids.get(worker),
            UNKNOWN_LOAD if report is None else report.load,
            tuple(session.shown for session in sessions if session.id.startswith(prefix)),
        )


def _together(here: Seen, elsewhere: Elsewhere) -> Seen:
    workers, missing, truncated = list(here.workers), list(here.missing), False
    for name, account in sorted(elsewhere.accounts.items()):
        place = _place_of(name)
        if account is None or account.worker is None:
            missing.append(place)
            continue
        truncated = truncated or account.truncated
        workers.append(WorkerSeen(place, account.worker.pid, account.worker.load, tuple(account.sessions)))
    return Seen(tuple(workers), tuple(missing), not elsewhere.away, truncated)


def _at_least(load: Load, lag_seconds: float) -> Load:
    return structs.replace(load, lag_seconds=max(load.lag_seconds, lag_seconds))


def _place_of(name: str) -> Place:
    """Where the worker with this bus name runs; the worker that reported it has checked that it is a name."""
    node, index, _ = name.rsplit("/", 2)
    return Place(node, int(index), name)


def _not_found(seen: Seen) -> Outcome:
    if seen.missing or not seen.complete:
        text = "no such session among those that answered, and not all workers did"
        return Outcome(HTTPStatus.SERVICE_UNAVAILABLE, text)
    return Outcome(HTTPStatus.NOT_FOUND, "there is no such session")
