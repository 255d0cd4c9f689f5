"""Each rule of the ledger is broken here once: a soak that finds nothing would otherwise say nothing."""

from __future__ import annotations

from typing import Any

import pytest
from soak.history import History
from soak.ledger import Ledger, Losses
from soak.replica import Replica


class Clock:
    """Stands still, and is moved by hand."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def losses() -> Losses:
    return Losses(allowed=False)


@pytest.fixture
def history(clock: Clock) -> History:
    return History(clock)


@pytest.fixture
def ledger(history: History, losses: Losses) -> Ledger:
    return Ledger("session", 2, history, losses)


def document(cells: tuple[int, int] = (0, 0), rows: tuple[tuple[int, int, int], ...] = (), made: str = "") -> Replica:
    """As the app would show it."""
    columns = {name: [row[place] for row in ((0, -1, 0), *rows)] for place, name in enumerate(("at", "who", "n"))}
    shelf = [{"type": "object", "name": "Div", "id": "new", "attributes": {"name": made}}] if made else []
    models: list[tuple[str, dict[str, Any]]] = [
        *((f"cell-{who}", {"value": value}) for who, value in enumerate(cells)),
        ("log", {"data": columns}),
        ("notes", {"data": {"who": [], "n": []}}),
        ("shelf", {"children": shelf}),
    ]
    roots = [{"type": "object", "id": name, "attributes": {"name": name, **rest}} for name, rest in models]
    return Replica({"roots": roots})


def just(n: int) -> range:
    """A message with one change."""
    return range(n, n + 1)


def broken(history: History) -> list[str]:
    return [violation.check for violation in history.violations]


def test_what_is_right_breaks_nothing(ledger: Ledger, history: History) -> None:
    """Two changes, acknowledged and pulled."""
    ledger.sent[0] = 2
    ledger.acknowledge(0, just(2), weak=False)
    ledger.pulled(1, document((2, 0), ((1, 0, 1), (2, 0, 2))), [2, 0])
    ledger.row(1, 7, 1, 0, 1)
    ledger.row(0, 7, 1, 0, 1)
    ledger.ran(7)
    ledger.ran(8)
    assert broken(history) == []


def test_an_acknowledged_change_that_is_gone(ledger: Ledger, history: History) -> None:
    """Once: it is not lost again with every pull."""
    ledger.sent[0] = 2
    ledger.acknowledge(0, just(2), weak=False)
    ledger.pulled(1, document((1, 0)), [2, 0])
    ledger.pulled(1, document((1, 0)), list(ledger.floor))
    ledger.pulled(0, document((1, 0)), [2, 0])
    assert broken(history) == ["acknowledged"]


@pytest.mark.parametrize(("before", "found"), [(0.05, []), (0.3, []), (0.8, ["acknowledged"])])
def test_async_loses_the_last_moment_only(before: float, found: list[str], clock: Clock, history: History) -> None:
    """A tenth of a second, and what this clock may be late by."""
    losses = Losses(allowed=True)
    ledger = Ledger("session", 2, history, losses)
    ledger.sent[0] = 1
    clock.now = 10.0
    ledger.acknowledge(0, just(1), weak=False)
    losses.disturbed.append(10.0 + before)
    ledger.pulled(1, document(), [1, 0])
    assert broken(history) == found
    assert len(losses.seconds) == 1 - len(found)


def test_a_change_that_nobody_has_made(ledger: Ledger, history: History) -> None:
    """A value above all that were sent."""
    ledger.pulled(1, document((3, 0)), [0, 0])
    assert broken(history) == ["made by nobody"]


def test_a_log_with_a_hole(ledger: Ledger, history: History) -> None:
    """Rows are numbered one by one."""
    ledger.pulled(1, document(rows=((1, 0, 1), (3, 0, 2))), [0, 0])
    assert broken(history) == ["order"]


@pytest.mark.parametrize("second", [1, 2])
def test_a_change_that_comes_late_or_twice(second: int, ledger: Ledger, history: History) -> None:
    """Each person's changes are in the log in the order in which they were made."""
    ledger.pulled(1, document(rows=((1, 0, 2), (2, 0, second))), [0, 0])
    assert broken(history) == ["order"]


def test_a_change_that_was_left_open_may_come_late_but_not_twice(ledger: Ledger, history: History) -> None:
    """It was in the socket of a process that stood still."""
    ledger.leave_open(0, just(1), None)
    ledger.pulled(1, document(rows=((1, 0, 2), (2, 0, 1))), [0, 0])
    assert broken(history) == []
    ledger.pulled(1, document(rows=((1, 0, 1), (2, 0, 2), (3, 0, 1))), [0, 0])
    assert broken(history) == ["order"]


def test_two_people_who_see_different_rows(ledger: Ledger, history: History) -> None:
    """In one epoch; in another the first may have been lost."""
    ledger.row(0, 7, 1, 0, 1)
    ledger.row(1, 8, 1, 1, 1)
    assert broken(history) == []
    ledger.row(0, 8, 1, 0, 1)
    assert broken(history) == ["one history"]


def test_an_id_that_means_two_models(ledger: Ledger, history: History) -> None:
    """The first of which was there for good."""
    ledger.acknowledge(0, just(16), weak=False)
    ledger.pulled(1, document(made="made-0-16"), [0, 0])
    ledger.pulled(1, document(made="made-1-16"), [0, 0])
    assert broken(history) == ["ids"]


def test_an_id_of_a_model_that_was_lost_may_be_given_again(ledger: Ledger, history: History) -> None:
    """By the next owner, which has never known it."""
    ledger.named(0, 7, "new", "made-0-16")
    ledger.named(1, 8, "new", "made-1-16")
    assert broken(history) == []
    ledger.named(1, 8, "new", "made-0-32")
    assert broken(history) == ["ids"]


def test_an_id_of_a_model_whose_change_was_left_open_may_be_given_again(ledger: Ledger, history: History) -> None:
    """Though its author has had later changes acknowledged."""
    ledger.named(0, 7, "new", "made-0-16")
    ledger.leave_open(0, just(16), None)
    ledger.acknowledge(0, just(17), weak=False)
    ledger.named(1, 8, "new", "made-1-16")
    assert broken(history) == []


def test_an_owner_that_is_cut_off_gives_ids_of_its_own(ledger: Ledger, history: History) -> None:
    """It does not know yet that another has followed it; what it makes then is acknowledged to nobody."""
    ledger.named(0, 8, "new", "made-0-16")
    ledger.acknowledge(0, just(16), weak=False)
    ledger.named(1, 7, "new", "made-1-16")
    ledger.pulled(1, document(made="made-1-16"), [0, 0], weak=True)
    assert broken(history) == []
    ledger.named(1, 8, "new", "made-1-16")
    assert broken(history) == ["ids"]


def test_app_code_that_runs_twice(ledger: Ledger, history: History) -> None:
    """In one epoch."""
    ledger.ran(7)
    ledger.ran(7)
    assert broken(history) == ["app code"]
