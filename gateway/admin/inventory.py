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
from typing import Protocol

from aperture.gateway.front.workers import Elsewhere, Survey
from aperture.wire.accounts import SHOWN_ID_LENGTH, SessionRow
from aperture.wire.node_messages import Acted, Load, Order, SessionInfo

__all__ = ["ANSWER_TIME", "Inventory", "Place", "Seen", "Staff", "WorkerSeen"]

ANSWER_TIME = 1.0
"""Seconds that workers have to answer; one that takes longer is listed as missing."""

ORDER_TIME = 10.0
"""Seconds that a worker has to end or move a session: it waits for app code to return, and session hooks run."""


class Standing(Protocol):
    """Which workers are up, and the last load report of each."""

    @property
    def up(self) -> Sequence[int]: ...

    def load(self, worker: int) -> Load | None: ...


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

    async def order(self, worker: int | None, order: Order, deadline: float) -> Acted | None: ...


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
    sessions: int
    connections: int
    lag_seconds: float
    rss_bytes: int
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
        return [replace(worker, lag_seconds=max(worker.lag_seconds, seconds)) for worker, seconds in seen]

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

    async def order(self, action: str, session_id: str, app: str | None, to: int) -> tuple[int, str]:
        """End or move a session.

        Args:
            action: "end" or "move".
            session_id: of the session, or its first characters as the admin endpoints show them.
            app: the session's app; needed only where two apps use the same id.
            to: the index of the worker to move it to; -1 for any other worker.

        Returns:
            An HTTP status, and a sentence.
        """
        seen = await self.take(cluster=True, prefix=session_id)
        found = [(worker, row) for worker, row in seen.sessions() if app in (None, row.app)]
        if not found:
            return _not_found(seen)
        if len(found) > 1:
            return HTTPStatus.CONFLICT, f"{len(found)} sessions begin like this; give more of the id, or ?app="
        (worker, row), *_ = found
        place = worker.place
        order = Order(0, action, session_id, row.app, place.name or "", to)
        acted = await self._node_workers.order(None if place.name else place.worker, order, ORDER_TIME)
        return _outcome_of(acted)

    def _here(self, survey: Survey, prefix: str) -> Seen:
        answered = [worker for worker in self._node_workers.table.up if worker in survey.sessions]
        late = [worker for worker in self._node_workers.workers if worker not in answered or worker in survey.missing]
        seen = [self._worker(worker, survey.sessions[worker], prefix) for worker in answered if worker not in late]
        return Seen(tuple(seen), tuple(Place(self._node, worker) for worker in late), True, False)

    def _worker(self, worker: int, sessions: list[SessionInfo], prefix: str) -> WorkerSeen:
        load = self._node_workers.table.load(worker) or Load(0, 0, 0.0, 0, 0)
        return WorkerSeen(
            Place(self._node, worker),
            self._node_workers.pids.get(worker),
            load.sessions,
            load.connections,
            load.lag_seconds,
            load.rss_bytes,
            tuple(_shown(info) for info in sessions if info.id.startswith(prefix)),
        )


def _shown(info: SessionInfo) -> SessionRow:
    shown = info.id[:SHOWN_ID_LENGTH]
    return SessionRow(shown, info.app, info.epoch, info.connections, info.edges, info.age_seconds)


def _together(here: Seen, elsewhere: Elsewhere) -> Seen:
    workers, missing, truncated = list(here.workers), list(here.missing), False
    for name, account in sorted(elsewhere.accounts.items()):
        place = _place_of(name)
        if account is None or account.worker is None:
            missing.append(place)
            continue
        row = account.worker
        truncated = truncated or account.truncated
        figures = (row.pid, row.sessions, row.connections, row.lag_seconds, row.rss_bytes)
        workers.append(WorkerSeen(place, *figures, tuple(account.sessions)))
    return Seen(tuple(workers), tuple(missing), not elsewhere.away, truncated)


def _place_of(name: str) -> Place:
    """Where the worker with this bus name runs; the worker that reported it has checked that it is a name."""
    node, index, _ = name.rsplit("/", 2)
    return Place(node, int(index), name)


def _not_found(seen: Seen) -> tuple[int, str]:
    if seen.missing or not seen.complete:
        return HTTPStatus.SERVICE_UNAVAILABLE, "no such session among those that answered, and not all workers did"
    return HTTPStatus.NOT_FOUND, "there is no such session"


def _outcome_of(acted: Acted | None) -> tuple[int, str]:
    if acted is None:
        return HTTPStatus.GATEWAY_TIMEOUT, "the session's worker does not say whether it was done"
    return acted.status, acted.text
