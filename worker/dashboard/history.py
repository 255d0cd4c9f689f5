"""Turns samples of the counters into rates, quantiles and time series. No I/O; all of it is bounded.

Counters may restart (a replaced node, damaged files), so a value below the one before counts from zero: no rate is ever
negative. A worker's rate is its difference over the time between two of its own writes, not between two of our samples:
two samples in the time of three writes would turn an even load into waves.

The dashboard's own sessions and patches are in its row of the table of apps, and in no sum over apps.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from aperture.metrics import Family, families
from aperture.wire.node_figures import Key, NodeFigures, ProcessFigures
from aperture.worker.dashboard.rows import AppRow, Buckets, Totals, WorkerRow, quantile

__all__ = ["APP_SLOTS", "COLUMNS", "POINTS", "WORKER_SLOTS", "History"]

POINTS = 300
"""Ten minutes, at a sample every two seconds."""

WINDOW = 5
"""Samples over which quantiles are taken: one sample may have no callback, or a single one."""

SILENT_AFTER = 5.0
"""Seconds without a write after which a worker, which writes every second, is shown as silent."""

FORGOTTEN_AFTER = 60.0
"""Seconds after which a process that its node no longer lists is not shown any more."""

NEW_FOR = 60.0
"""Seconds for which a worker that replaced another is shown as restarted."""

MAX_WORKERS = 512
MAX_APPS = 200
"""Processes and apps that are stored; further ones are left out."""

APP_SLOTS = 6
WORKER_SLOTS = 8
"""Lines in one chart: more are hard to distinguish."""

_SCALARS = (
    "sessions",
    "connections",
    "patches_in",
    "patches_out",
    "callback_p50",
    "callback_p95",
    "create_p95",
    "encode_p95",
    "lag",
    "relay_p95",
    "memory",
)
COLUMNS = (
    "t",
    *_SCALARS,
    *(f"app{slot}_patches" for slot in range(APP_SLOTS)),
    *(f"worker{slot}_{what}" for slot in range(WORKER_SLOTS) for what in ("lag", "memory")),
)
"""Columns of the time series. Times of day are in milliseconds as BokehJS takes them, durations too, memory in MB."""

NAN = math.nan
_MS, _MB = 1e3, 1e6

ROLES = ("owner", "edge")
OUTCOMES = ("restored", "remade", "fresh")

Place = tuple[str, str]
"""A process by its node and its name."""


@dataclass(slots=True, eq=False)
class _Seen:
    """A process as it was last seen."""

    figures: ProcessFigures
    heard: float
    """When its figures last changed, by our clock."""
    deltas: dict[Key, float] = field(default_factory=dict)
    """Growth of its counters between its last two writes."""
    seconds: float = 0.0
    """Time between those two writes."""
    listed: float = 0.0
    """When its node last listed it, changed or not."""
    sums: dict[str, float] = field(init=False)
    """Sums of its values over all labels, by name."""
    outgoing: float = field(init=False)
    """Patches to viewers between its last two writes."""

    def __post_init__(self) -> None:
        self.sums = {}
        for (name, _), value in self.figures.values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.outgoing = sum(
            delta
            for (name, labels), delta in self.deltas.items()
            if name == families.PATCHES.name and labels[-1:] == ("out",)
        )
        self.listed = self.heard

    @property
    def started(self) -> float:
        return self.sum(families.STARTED)

    @property
    def state(self) -> str:
        """The state of a worker that is not silent. It comes from the figures alone, because the page may itself be
        rebuilt in a new worker that has no history."""
        if not self.figures.alive:
            return "down"
        new = self.sum(families.GENERATION) > 1 and self.figures.at - self.started < NEW_FOR
        return "new" if new else "up"

    def sum(self, family: Family) -> float:
        """The sum of all series of a counter or gauge."""
        return self.sums.get(family.name, 0.0)

    def value(self, family: Family, *labels: str) -> float:
        """One series of a counter or gauge."""
        return self.figures.values.get((family.name, labels), 0.0)

    def rate(self, family: Family, *labels: str) -> float:
        """The rate per second of one series of a counter."""
        return self.per_second(self.deltas.get((family.name, labels), 0.0))

    def per_second(self, gained: float) -> float:
        """The growth between the last two writes, as a rate."""
        return gained / self.seconds if self.seconds > 0 else 0.0


class History:
    """The samples of the last ten minutes.

    Args:
        own: the dashboard's route.
    """

    def __init__(self, own: str) -> None:
        self._own = own
        self._seen: dict[Place, _Seen] = {}
        self._missing: frozenset[str] = frozenset()
        self._windows: deque[dict[str, dict[str, Buckets]]] = deque(maxlen=WINDOW)
        self.points: deque[dict[str, float]] = deque(maxlen=POINTS)
        """One for each sample, with all `COLUMNS`."""
        self.apps: list[AppRow] = []
        self.workers: list[WorkerRow] = []
        self.totals: Totals | None = None
        self.app_slots: list[str] = []
        self.worker_slots: list[tuple[str, int]] = []
        """The worker of each line; a new worker takes the line of one that is gone when all are in use."""

    def interrupt(self, now: float) -> None:
        """Start again after a pause in sampling: no line is drawn over that time."""
        if self.points:
            self.points.append({**dict.fromkeys(COLUMNS, NAN), "t": now * _MS})
        self._windows.clear()

    def look(self, nodes: Iterable[NodeFigures], now: float, missing: Iterable[str] = ()) -> None:
        """Add a sample.

        Args:
            nodes: the figures of those that answered.
            now: seconds since the epoch, by our clock.
            missing: the names of those that should have answered.
        """
        self._missing = frozenset(missing)
        fresh = [self._take(node.node, process, now) for node in nodes for process in node.processes]
        for place in [place for place, seen in self._seen.items() if now - seen.listed > FORGOTTEN_AFTER]:
            del self._seen[place]
        self._windows.append(_observed(seen for seen in fresh if seen is not None))
        living = [seen for seen in self._seen.values() if now - seen.heard <= SILENT_AFTER]
        self.workers = self._worker_rows(now)
        self.apps = self._app_rows(living)
        self.totals = self._total(living, now)
        self._assign_slots()
        self.points.append(self._point(now))

    # One process

    def _take(self, node: str, process: ProcessFigures, now: float) -> _Seen | None:
        """Store the figures of a process; None if they have not changed."""
        place = (node, process.name)
        before = self._seen.get(place)
        if before is None:
            if len(self._seen) < MAX_WORKERS:
                self._seen[place] = _Seen(process, now)
            return None
        before.listed = now
        if process.at == before.figures.at and process.alive == before.figures.alive:
            return None
        seen = _Seen(
            process,
            now if process.at != before.figures.at else before.heard,
            deltas=_differences(before.figures.values, process.values),
            seconds=process.at - before.figures.at,
        )
        seen.listed = now
        self._seen[place] = seen
        return seen

    # All of them

    def _worker_rows(self, now: float) -> list[WorkerRow]:
        rows = []
        for (node, _), seen in sorted(self._seen.items(), key=lambda item: (item[0][0], item[1].figures.worker or 0)):
            if (index := seen.figures.worker) is not None:
                rows.append(self._worker_row(node, index, seen, now))
        return rows

    def _worker_row(self, node: str, index: int, seen: _Seen, now: float) -> WorkerRow:
        silent_for = now - seen.heard
        state = "silent" if silent_for > SILENT_AFTER and seen.state != "down" else seen.state
        return WorkerRow(
            node=node,
            worker=index,
            state=state,
            sessions=int(seen.sum(families.SESSIONS)),
            connections=int(seen.sum(families.CONNECTIONS)),
            rate_out=0.0 if state in ("silent", "down") else seen.per_second(seen.outgoing),
            lag=seen.sum(families.LOOP_LAG),
            memory=seen.sum(families.MEMORY),
            up_for=max(0.0, seen.figures.at - seen.started) if seen.started else NAN,
            silent_for=silent_for,
        )

    def _app_rows(self, living: list[_Seen]) -> list[AppRow]:
        names = sorted(
            {
                labels[0]
                for seen in self._seen.values()
                for name, labels in seen.figures.values
                if _of_app(name) and labels
            }
        )
        return [self._app_row(name, living) for name in names[:MAX_APPS]]

    def _app_row(self, app: str, living: list[_Seen]) -> AppRow:
        def total(family: Family, *labels: str) -> int:
            return int(sum(seen.value(family, app, *labels) for seen in self._seen.values()))

        def present(family: Family, *labels: str) -> int:
            return int(sum(seen.value(family, app, *labels) for seen in living))

        return AppRow(
            app=app,
            sessions=present(families.SESSIONS),
            connections=sum(present(families.CONNECTIONS, role) for role in ROLES),
            patches_in=total(families.PATCHES, "in"),
            patches_out=total(families.PATCHES, "out"),
            rate_in=sum(seen.rate(families.PATCHES, app, "in") for seen in living),
            rate_out=sum(seen.rate(families.PATCHES, app, "out") for seen in living),
            bytes_out_rate=sum(seen.rate(families.PATCH_BYTES, app, "out") for seen in living),
            callback_p95=self._quantile(0.95, families.CALLBACK, app),
            create_p95=self._quantile(0.95, families.SESSION_CREATE, app),
            restores=sum(total(families.RESTORES, outcome) for outcome in OUTCOMES),
            restores_fresh=total(families.RESTORES, "fresh"),
            slow_closes=total(families.SLOW_CLOSES),
            own=app == self._own,
        )

    def _total(self, living: list[_Seen], now: float) -> Totals:
        apps = [row for row in self.apps if not row.own]
        nodes = {node for node, _ in self._seen} | self._missing
        heard = {node for (node, _), seen in self._seen.items() if now - seen.heard <= SILENT_AFTER}
        bus = [seen.sum(families.BUS_UP) for seen in living if families.BUS_UP.name in seen.sums]
        seen_all = list(self._seen.values())
        return Totals(
            nodes=len(nodes),
            silent_nodes=len(nodes - heard),
            workers=len(self.workers),
            silent_workers=sum(row.state in ("silent", "down") for row in self.workers),
            sessions=sum(row.sessions for row in apps),
            connections=sum(row.connections for row in apps),
            rate_in=sum(row.rate_in for row in apps),
            rate_out=sum(row.rate_out for row in apps),
            callback_p50=self._quantile(0.5, families.CALLBACK),
            callback_p95=self._quantile(0.95, families.CALLBACK),
            create_p95=self._quantile(0.95, families.SESSION_CREATE),
            encode_p95=self._quantile(0.95, families.PATCH_ENCODE),
            lag=max((row.lag for row in self.workers if row.state in ("up", "new")), default=NAN),
            relay_p95=self._quantile(0.95, families.RELAY_LAG),
            relay_rate=sum(seen.rate(families.RELAY_MESSAGES, "out") for seen in living),
            memory=sum(seen.sum(families.MEMORY) for seen in living),
            restores=sum(row.restores for row in apps),
            restores_fresh=sum(row.restores_fresh for row in apps),
            restarts=int(sum(seen.sum(families.WORKER_RESTARTS) for seen in seen_all)),
            gaps_lost=int(sum(seen.value(families.RELAY_GAPS, "lost") for seen in seen_all)),
            slow_closes=sum(row.slow_closes for row in apps),
            behind=int(sum(seen.sum(families.VIEWERS_BEHIND) for seen in living)),
            bus=all(bus) if bus else None,
        )

    def _quantile(self, share: float, family: Family, app: str | None = None) -> float:
        """The quantile for one app, or for all but the dashboard."""
        merged: Buckets = {}
        for window in self._windows:
            by_app = window.get(family.name, {})
            for of_app in [app] if app is not None else by_app.keys() - {self._own}:
                for bound, count in by_app.get(of_app, {}).items():
                    merged[bound] = merged.get(bound, 0.0) + count
        return quantile(merged, share)

    # Lines

    def _assign_slots(self) -> None:
        apps = [row.app for row in self.apps if not row.own]
        _fill(self.app_slots, apps, APP_SLOTS)
        _fill(self.worker_slots, [(row.node, row.worker) for row in self.workers], WORKER_SLOTS)

    def _point(self, now: float) -> dict[str, float]:
        totals = self.totals
        assert totals is not None, "the totals were just made"
        point = dict.fromkeys(COLUMNS, NAN)
        point |= {
            "t": now * _MS,
            "sessions": totals.sessions,
            "connections": totals.connections,
            "patches_in": totals.rate_in,
            "patches_out": totals.rate_out,
            "callback_p50": totals.callback_p50 * _MS,
            "callback_p95": totals.callback_p95 * _MS,
            "create_p95": totals.create_p95 * _MS,
            "encode_p95": totals.encode_p95 * _MS,
            "lag": totals.lag * _MS,
            "relay_p95": totals.relay_p95 * _MS,
            "memory": totals.memory / _MB,
        }
        rates = {row.app: row.rate_out for row in self.apps}
        for slot, app in enumerate(self.app_slots):
            point[f"app{slot}_patches"] = rates.get(app, NAN)
        rows = {(row.node, row.worker): row for row in self.workers if row.state in ("up", "new")}
        for slot, place in enumerate(self.worker_slots):
            if (row := rows.get(place)) is not None:
                point[f"worker{slot}_lag"] = row.lag * _MS
                point[f"worker{slot}_memory"] = row.memory / _MB
        return point


def _fill(slots: list, present: list, limit: int) -> None:  # type: ignore[type-arg]
    """Give each new name a line, if need be that of a name that is gone."""
    for name in present:
        if name in slots:
            continue
        if len(slots) < limit:
            slots.append(name)
            continue
        free = next((slot for slot, held in enumerate(slots) if held not in present), None)
        if free is None:
            return
        slots[free] = name


_APP_SAMPLES = frozenset({families.SESSIONS.name, families.PATCHES.name})


def _of_app(name: str) -> bool:
    return name in _APP_SAMPLES


def _differences(before: Mapping[Key, float], now: Mapping[Key, float]) -> dict[Key, float]:
    """The growth of each counter; one that is less than before has restarted from zero."""
    gained = {}
    for key, value in now.items():
        if key[0].endswith(("_total", "_bucket")):
            was = before.get(key, 0.0)
            gained[key] = max(0.0, value - was if value >= was else value)
    return gained


def _observed(fresh: Iterable[_Seen]) -> dict[str, dict[str, Buckets]]:
    """New observations by metric and app; the app is empty for a metric without one."""
    observed: dict[str, dict[str, Buckets]] = {}
    for seen in fresh:
        for metric, app, bound, count in _buckets(seen.deltas):
            buckets = observed.setdefault(metric, {}).setdefault(app, {})
            buckets[bound] = buckets.get(bound, 0.0) + count
    return observed


def _buckets(deltas: Mapping[Key, float]) -> Iterator[tuple[str, str, float, float]]:
    for (name, labels), delta in deltas.items():
        if delta > 0 and name.endswith("_bucket") and labels:
            yield name.removesuffix("_bucket"), labels[0] if len(labels) > 1 else "", _bound(labels[-1]), delta


def _bound(text: str) -> float:
    try:
        return float(text)
    except ValueError:  # figures of other nodes are not trusted
        return math.inf
