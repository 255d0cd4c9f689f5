"""What a row is, and what measuring one gives."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

__all__ = ["Group", "Plan", "Result", "Row", "Target"]


@dataclass(frozen=True, slots=True)
class Target:
    """What a row must show. None asks for nothing.

    Args:
        faster: so many times better than stock.
        at_most: in the row's unit.
        of_limit: this share of what the machine allows.
        growth: another row's name, which ends with its size, and how many times its value ours may take here.
        adds: at most so much more than the peer, in the row's unit.
    """

    faster: float | None = None
    at_most: float | None = None
    of_limit: float | None = None
    growth: tuple[str, float] | None = None
    adds: float | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table.

    Args:
        name: on the command line.
        title: in the table.
        unit: of its values; of a rate it begins with "/".
        stock: what the peer is called, where it is not plain stock Bokeh.
        limit: what the physical limit is, where there is one.
        ours: what our side is called, where both sides are ours.
    """

    name: str
    title: str
    unit: str
    target: Target = Target()
    stock: str = "stock"
    limit: str = ""
    ours: str = "ours"

    @property
    def rising(self) -> bool:
        """Whether more is better."""
        return self.unit.endswith("/s")


@dataclass(slots=True)
class Result:
    """The samples of a row, in the order in which they were taken, in its unit."""

    row: Row
    stock: list[float] = field(default_factory=list)
    ours: list[float] = field(default_factory=list)
    limit: list[float] = field(default_factory=list)
    note: str = ""

    @property
    def medians(self) -> tuple[float | None, float, float | None]:
        """Of stock, of ours and of the physical limit."""
        return _median(self.stock), statistics.median(self.ours), _median(self.limit)

    @property
    def ratio(self) -> float | None:
        """How many times better than stock: above 1 ours is better, whatever the unit."""
        stock, ours, _ = self.medians
        return None if stock is None else _better(ours, stock, rising=self.row.rising)

    @property
    def added(self) -> float | None:
        """How much more ours is than the peer, in the row's unit."""
        stock, ours, _ = self.medians
        return None if stock is None else ours - stock

    @property
    def distance(self) -> float | None:
        """How many times better the physical limit is than ours."""
        _, ours, limit = self.medians
        return None if limit is None else _better(limit, ours, rising=self.row.rising)


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure.

    Args:
        rows: names.
        repeat: how often each server has its turn.
        quick: short turns, and no row that takes a minute.
    """

    rows: frozenset[str]
    repeat: int
    quick: bool

    def seconds(self, full: float) -> float:
        """How long a turn is."""
        return full / 2 if self.quick else full


@dataclass(frozen=True, slots=True)
class Group:
    """Rows that are measured together.

    Args:
        rows: all of them.
        measure: measures those that the plan names.
    """

    rows: tuple[Row, ...]
    measure: Callable[[Plan], Iterator[Result]]


def _median(samples: list[float]) -> float | None:
    return statistics.median(samples) if samples else None


def _better(value: float, than: float, *, rising: bool) -> float:
    best, worst = (value, than) if rising else (than, value)
    return best / worst if worst else float("inf")
