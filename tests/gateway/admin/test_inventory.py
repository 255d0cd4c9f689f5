"""What the admin port finds of workers and sessions, and what it answers to an order."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

from aperture.gateway.admin.inventory import Inventory
from aperture.gateway.front.workers import Elsewhere, Survey
from aperture.wire.accounts import Command, Load, Outcome, SessionRow
from aperture.wire.node_messages import LoadReport


class Table:
    """Workers 0 and 1 are up."""

    up: Sequence[int] = (0, 1)

    def last_report(self, worker: int) -> LoadReport | None:
        return LoadReport(Load(3, 5, 0.25, 1000), 0) if worker == 0 else None


class Workers:
    """Two workers that answer at once with these sessions; one that has none given does not answer."""

    def __init__(self, sessions: dict[int, list[SessionRow]], outcome: Outcome | None = None) -> None:
        self.draining = False
        self.workers = range(2)
        self.pids = {0: 71, 1: 72}
        self.table = Table()
        self.ordered: list[tuple[int | str, Command]] = []
        self._sessions = sessions
        self._outcome = outcome

    def overdue(self) -> dict[int, float]:
        return {0: 0.0, 1: 4.0}

    async def ask(self, workers: Iterable[int], deadline: float) -> Survey:
        return Survey(1, set(workers) - set(self._sessions), sessions=self._sessions)

    async def ask_elsewhere(self, prefix: str, deadline: float) -> Elsewhere:
        return Elsewhere()

    async def execute(self, worker: int | str, command: Command, deadline: float) -> Outcome | None:
        self.ordered.append((worker, command))
        return self._outcome


def session(name: str, app: str = "/app") -> SessionRow:
    return SessionRow(name, app, 1, 2, 0, 3.0)


def end(workers: Workers, name: str, app: str | None = None) -> tuple[int, str]:
    outcome = asyncio.run(Inventory(workers, "node", has_bus=True).execute("end", name, app, None))
    return outcome.status, outcome.text


def test_a_worker_that_owes_its_report_lags_for_as_long() -> None:
    """One that has reported shows what it said."""
    seen = Inventory(Workers({}), "node", has_bus=False).reported()
    assert [(worker.pid, worker.load.lag_seconds, worker.load.sessions) for worker in seen] == [
        (71, 0.25, 3),
        (72, 4.0, 0),
    ]


def test_a_worker_that_does_not_answer_is_missing() -> None:
    """The sessions of the others are shown, those that begin as asked."""
    inventory = Inventory(Workers({0: [session("abc"), session("xyz")]}), "node", has_bus=False)
    seen = asyncio.run(inventory.take(cluster=False, prefix="a"))
    assert [row.id for _, row in seen.sessions()] == ["abc"]
    assert [place.worker for place in seen.missing] == [1]


def test_an_order_goes_to_the_worker_that_has_the_session() -> None:
    """Its answer is the answer."""
    workers = Workers({0: [], 1: [session("abc")]}, Outcome(200, "ended"))
    assert end(workers, "ab") == (200, "ended")
    ((worker, order),) = workers.ordered
    assert (worker, order.action, order.app) == (1, "end", "/app")


def test_an_order_for_several_sessions_is_refused() -> None:
    """Unless the app tells them apart."""
    workers = Workers({0: [session("abc", "/one")], 1: [session("abd", "/two")]}, Outcome(200, "ended"))
    assert end(workers, "ab")[0] == 409
    assert workers.ordered == []
    assert end(workers, "ab", "/two")[0] == 200


def test_no_session_is_not_the_same_as_a_worker_that_does_not_answer() -> None:
    """A 404 is for one that is nowhere; a 503 says that it may be where no answer came from."""
    assert end(Workers({0: [], 1: []}), "abc")[0] == 404
    assert end(Workers({0: []}), "abc")[0] == 503


def test_an_order_without_an_answer_times_out() -> None:
    """It may have been done or not."""
    assert end(Workers({0: [session("abc")], 1: []}), "abc")[0] == 504
