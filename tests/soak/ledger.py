"""What one session promises, held against what its people see.

The rules:

- `acknowledged`: a change that was acknowledged is in every document that is pulled afterwards. With `ack` always; with
  `async` all but those of the last 100 ms before something happened.
- `made by nobody`: nothing is there that nobody has sent.
- `order`: rows of the log come one by one, and each person's changes in the order in which they were made, once.
- `one history`: two people who see the same row of the log in one epoch see the same change in it.
- `epoch`: a connection belongs to one owner; no one hears of an owner that another has followed.
- `ids`: a model's id means one model, as long as the session lives.
- `app code`: it runs once for each epoch of a session.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from soak.history import History
from soak.replica import Replica

__all__ = ["Ledger", "Losses"]

PROMISED = 0.1
"""Seconds that `async` may lose."""

SLACK = 0.4
"""Seconds that these clocks may be late by: they share the machine with what they watch."""

KEPT = 4000
"""Rows, and acknowledgements of each person, that are remembered."""


@dataclass(slots=True)
class Losses:
    """Of acknowledged changes, which only `async` may have; and when something happened that may cost some.

    Args:
        allowed: whether any are.
    """

    allowed: bool
    disturbed: list[float] = field(default_factory=list)
    """Seconds of the run."""
    seconds: list[float] = field(default_factory=list)
    """How long before a disturbance the oldest lost change was acknowledged, for each time."""

    def of(self, acknowledged: float) -> float | None:
        """How long before the next disturbance a lost change was acknowledged; None if there was none."""
        later = [moment for moment in self.disturbed if moment >= acknowledged - SLACK]
        return max(0.0, later[0] - acknowledged) if later else None


@dataclass(frozen=True, slots=True)
class Row:
    """One of the log."""

    epoch: int
    who: int
    n: int


class Ledger:
    """Of one session.

    Args:
        session: its id.
        seats: people, each with a cell.
        history: where violations go.
        losses: of the whole run.
    """

    def __init__(self, session: str, seats: int, history: History, losses: Losses) -> None:
        self.session = session
        self.sent = [0] * seats
        """The highest that each person has sent."""
        self.floor = [0] * seats
        """The highest that was acknowledged to each."""
        self.noted = [0] * seats
        """The highest note of each."""
        self._open: list[set[int]] = [set() for _ in range(seats)]
        self._open_notes: list[set[int]] = [set() for _ in range(seats)]
        self._gone = [0] * seats
        """The highest of each that was acknowledged and is known to be lost, and what was there instead."""
        self._left = [0] * seats
        self._acknowledged: list[deque[tuple[float, int]]] = [deque(maxlen=KEPT) for _ in range(seats)]
        self._history = history
        self._losses = losses
        self._rows: dict[int, Row] = {}
        self._names: dict[str, tuple[str, int]] = {}
        """By id: the model's name, and the latest epoch in which it was seen."""
        self._runs: set[int] = set()

    def violate(self, check: str, what: str) -> None:
        """Note that a rule was broken."""
        self._history.violate(check, self.session, what)

    def note(self, *event: object) -> None:
        """Keep an event."""
        self._history.note(self.session, *event)

    # What people do

    def acknowledge(self, who: int, cells: range, *, weak: bool) -> None:
        """An answer has come; from where an owner may have been followed by another, with `async`, it says nothing."""
        if weak and self._losses.allowed:
            self._open[who].update(cells)
            return
        self.floor[who] = max(self.floor[who], cells[-1])
        self._acknowledged[who].append((self._history.now(), cells[-1]))

    def leave_open(self, who: int, cells: range, note: int | None) -> None:
        """Something was not answered before its connection ended: it may come at any time, or never.

        A worker that stands still has it in a socket, and reads it when its person has long come back elsewhere.
        """
        self.note(who, "left open", list(cells), note)
        self._open[who].update(cells)
        if note is not None:
            self._open_notes[who].add(note)

    def has_open(self) -> bool:
        """Whether anything may still come."""
        return any(self._open) or any(self._open_notes)

    # What people see

    def glimpsed(self, who: int, other: int, value: int, floor: int) -> None:
        """One cell of a document that was loaded, with what had been acknowledged before."""
        if value > self.sent[other]:
            self.violate("made by nobody", f"{who} sees {value} in cell {other}, {self.sent[other]} was sent")
        # What others have found lost before: this may have been asked for earlier, and come later.
        floor = self._left[other] if floor <= self._gone[other] else floor
        if value < floor and value not in self._open[other]:
            self._lose(who, other, value)

    def pulled(self, who: int, replica: Replica, floor: list[int], *, weak: bool = False) -> None:
        """A document, with what had been acknowledged when it was asked for; or it may be of the past."""
        floor = [] if weak else floor
        for other, least in enumerate(floor):
            self.glimpsed(who, other, replica.cell(other), least)
        self._check_rows(who, replica)
        for name in () if weak else ("log", "notes", *replica.shelf()):
            self.named(who, 0, replica.id(name), name)

    def _lose(self, who: int, other: int, value: int) -> None:
        lost = [when for when, n in self._acknowledged[other] if n > value]
        before = self._losses.of(min(lost)) if lost else None
        if not self._losses.allowed or before is None or before > PROMISED + SLACK:
            what = f"{who} pulls {value} in cell {other}, {self.floor[other]} was acknowledged"
            self.violate("acknowledged", what if before is None else f"{what}, {before:.3f} s before the fault")
        else:
            self._losses.seconds.append(before)
        # Not again with every pull: what is gone is gone.
        self._gone[other], self._left[other] = self.floor[other], value
        self.floor[other] = value
        self._acknowledged[other].clear()

    def _check_rows(self, who: int, replica: Replica) -> None:
        log = replica.columns("log")
        if log["at"] != list(range(log["at"][0], log["at"][0] + len(log["at"]))):
            self.violate("order", f"{who} pulls a log with holes: {log['at']}")
        self._check_rising(who, "log", log, self._open)
        self._check_rising(who, "notes", replica.columns("notes"), self._open_notes)

    def _check_rising(self, who: int, name: str, columns: dict[str, list[int]], left_open: list[set[int]]) -> None:
        seen: list[set[int]] = [set() for _ in left_open]
        latest = [0] * len(left_open)
        for author, n in zip(columns["who"], columns["n"], strict=True):
            if author < 0:
                continue  # the app's own first row
            if n in seen[author]:
                self.violate("order", f"{who} pulls {name} where {author}'s {n} is twice")
            elif n < latest[author] and n not in left_open[author]:
                self.violate("order", f"{who} pulls {name} where {author}'s {n} comes after {latest[author]}")
            seen[author].add(n)
            latest[author] = max(n, latest[author])

    def moved(self, who: int, other: int, before: int, value: int) -> None:
        """A cell's new value, in a patch.

        The owner sends a value that was contested to everybody once more: where its author has moved on already, that
        is a step back, until the owner has the next.
        """
        if value < before and who != other and value not in self._open[other]:
            self.violate("order", f"{who} sees cell {other} go from {before} to {value}")

    def row(self, who: int, epoch: int, at: int, author: int, n: int) -> None:
        """One row of the log, in a patch."""
        known = self._rows.get(at)
        # In another epoch a change that was not acknowledged may have been lost, and its place taken.
        if known is not None and known.epoch == epoch and (known.who, known.n) != (author, n):
            what = f"{who} sees {author}'s {n} as row {at}, where {known.who}'s {known.n} was"
            self.violate("one history", what)
        self._rows[at] = Row(epoch, author, n)
        if len(self._rows) > KEPT:
            del self._rows[next(iter(self._rows))]

    def named(self, who: int, epoch: int, model_id: str, name: str) -> None:
        """Which model has which name; the epoch is 0 where it is not known.

        What was not acknowledged may be lost with its owner, and the next gives its models' ids to others. An owner
        that is cut off, and has been followed by then, gives them to its own: people there have all of it anew in a
        moment.
        """
        known, seen = self._names.get(model_id, (name, 0))
        if epoch and epoch < seen:
            return
        if known != name and ((epoch and epoch == seen) or self._is_acknowledged(known)):
            self.violate("ids", f"{who} sees {name} as {model_id}, which was {known}")
        self._names[model_id] = name, max(epoch, seen)

    def _is_acknowledged(self, name: str) -> bool:
        if not name.startswith("made-"):
            return True
        _, author, n = name.split("-")
        return not self._losses.allowed and int(n) <= self.floor[int(author)] and int(n) not in self._open[int(author)]

    def ran(self, epoch: int) -> None:
        """The app's code has run."""
        self.note("app code", epoch)
        if epoch in self._runs:
            self.violate("app code", f"it has run twice at epoch {epoch}")
        self._runs.add(epoch)
