"""Counters, incremented where things happen: plain numbers, which another module reads once a second.

A patch costs a few additions here and nothing else; no lock, no system call, no look-up of labels. Everything belongs
to one event loop, but for what says otherwise.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from prometheus_client.utils import floatToGoString

from aperture.metrics import families
from aperture.metrics.families import NO_APP, Family

__all__ = [
    "AppTally",
    "Distribution",
    "HttpTally",
    "Reading",
    "RelayTally",
    "Source",
    "Tallies",
    "ThreadTally",
    "bound_text",
]

OUTCOMES = ("restored", "remade", "fresh")
_CODES = ("1xx", "2xx", "3xx", "4xx", "5xx")


def bound_text(bound: float) -> str:
    """A bucket's upper bound as its label has it."""
    text: str = floatToGoString(bound)  # type: ignore[no-untyped-call]
    return text


class Distribution:
    """Observations by size.

    Args:
        bounds: the largest value of each bucket but the last, ascending.
    """

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        """Of each bucket for itself, not added up."""
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


class SharedDistribution(Distribution):
    """One that several threads add to."""

    __slots__ = ("_adding",)

    def __init__(self, bounds: tuple[float, ...]) -> None:
        super().__init__(bounds)
        self._adding = threading.Lock()

    def observe(self, value: float) -> None:
        with self._adding:
            super().observe(value)


@dataclass(frozen=True, slots=True)
class Reading:
    """The state of one time series, counted from the start of this process.

    Args:
        family: the metric.
        labels: values, in the order of the family's names.
        value: a distribution, of a histogram.
    """

    family: Family
    labels: tuple[str, ...]
    value: float | Distribution


Source = Callable[[], Iterable[Reading]]
"""Reads what is counted somewhere. Never gives one time series twice, and never gives fewer than before."""


class AppTally:
    """What the sessions of one app do in one worker.

    Args:
        app: the route.
        encode: of the whole worker.
        threaded: whether its code runs in several threads.
    """

    __slots__ = (
        "app",
        "callback",
        "coalesced",
        "create",
        "encode",
        "not_stored",
        "patch_bytes_in",
        "patch_bytes_out",
        "patch_events",
        "patches_in",
        "patches_out",
        "restores",
        "slow_callbacks",
        "slow_closes",
        "viewer_timeouts",
        "warm_given_up",
        "warm_ready",
        "warm_taken",
    )

    def __init__(self, app: str, encode: Distribution, *, threaded: bool = False) -> None:
        self.app = app
        self.encode = encode
        self.callback = (SharedDistribution if threaded else Distribution)(families.CALLBACK.buckets)
        self.create = Distribution(families.SESSION_CREATE.buckets)
        self.patches_in = self.patches_out = 0
        self.patch_bytes_in = self.patch_bytes_out = 0
        self.patch_events = 0
        self.coalesced = 0
        self.slow_callbacks = 0
        """Counted by the thread that watches."""
        self.slow_closes = self.viewer_timeouts = 0
        self.warm_ready = self.warm_taken = 0
        self.warm_given_up: Counter[str] = Counter()
        self.not_stored = 0
        self.restores: Counter[str] = Counter()

    @classmethod
    def unread(cls, app: str) -> AppTally:
        """One that counts for no one: what a session has with `--disable-metrics`."""
        return cls(app, Distribution(families.PATCH_ENCODE.buckets))

    def read(self) -> Iterator[Reading]:
        """All of it; a `Source`."""
        app = self.app
        yield Reading(families.PATCHES, (app, "in"), self.patches_in)
        yield Reading(families.PATCHES, (app, "out"), self.patches_out)
        yield Reading(families.PATCH_BYTES, (app, "in"), self.patch_bytes_in)
        yield Reading(families.PATCH_BYTES, (app, "out"), self.patch_bytes_out)
        yield Reading(families.PATCH_EVENTS, (app,), self.patch_events)
        yield Reading(families.SESSION_CREATE, (app,), self.create)
        yield Reading(families.CALLBACK, (app,), self.callback)
        yield Reading(families.SLOW_CALLBACKS, (app,), self.slow_callbacks)
        yield Reading(families.COALESCED, (app,), self.coalesced)
        yield Reading(families.SLOW_CLOSES, (app,), self.slow_closes)
        yield Reading(families.VIEWER_TIMEOUTS, (app,), self.viewer_timeouts)
        yield Reading(families.WARM_READY, (app,), self.warm_ready)
        yield Reading(families.WARM_TAKEN, (app,), self.warm_taken)
        for reason, count in self.warm_given_up.items():
            yield Reading(families.WARM_GIVEN_UP, (app, reason), count)
        yield Reading(families.NOT_STORED, (app,), self.not_stored)
        for outcome in OUTCOMES:
            yield Reading(families.RESTORES, (app, outcome), self.restores[outcome])


class RelayTally:
    """What one worker says to others and hears from them."""

    __slots__ = ("lag", "lost", "received", "repaired", "sent")

    def __init__(self) -> None:
        self.sent = self.received = 0
        self.repaired = self.lost = 0
        self.lag = Distribution(families.RELAY_LAG.buckets)

    def read(self) -> Iterator[Reading]:
        """All of it; a `Source`."""
        yield Reading(families.RELAY_MESSAGES, ("in",), self.received)
        yield Reading(families.RELAY_MESSAGES, ("out",), self.sent)
        yield Reading(families.RELAY_LAG, (), self.lag)
        yield Reading(families.RELAY_GAPS, ("repaired",), self.repaired)
        yield Reading(families.RELAY_GAPS, ("lost",), self.lost)


class ThreadTally:
    """What the threads for app code do in one worker; the event loop adds to it."""

    __slots__ = ("busy", "waited")

    def __init__(self) -> None:
        self.busy: Callable[[], int] = int
        """How many run app code now: none, where there are none."""
        self.waited = Distribution(families.THREAD_WAIT.buckets)

    def read(self) -> Iterator[Reading]:
        """All of it; a `Source`."""
        yield Reading(families.THREADS_BUSY, (), self.busy())
        yield Reading(families.THREAD_WAIT, (), self.waited)


class HttpTally:
    """The requests that one worker has answered for one app, or for none."""

    __slots__ = ("_app", "_codes", "_seconds")

    def __init__(self, app: str) -> None:
        self._app = app
        self._codes = dict.fromkeys(_CODES, 0)
        self._seconds = Distribution(families.HTTP_SECONDS.buckets)

    def answered(self, status: int, seconds: float) -> None:
        """Count one request. A status that does not exist counts as an error of ours."""
        code = f"{status // 100}xx"
        self._codes[code if code in self._codes else "5xx"] += 1
        self._seconds.observe(seconds)

    def read(self) -> Iterator[Reading]:
        """All of it; a `Source`."""
        yield Reading(families.HTTP_SECONDS, (self._app,), self._seconds)
        for code, count in self._codes.items():
            yield Reading(families.HTTP_REQUESTS, (self._app, code), count)


class Tallies:
    """Everything that one worker counts itself.

    Args:
        routes: of the apps that it serves.
        threaded: whether their code runs in several threads.
    """

    def __init__(self, routes: Iterable[str], *, threaded: bool = False) -> None:
        routes = list(routes)
        self.encode = Distribution(families.PATCH_ENCODE.buckets)
        self.apps = {route: AppTally(route, self.encode, threaded=threaded) for route in routes}
        self.threads = ThreadTally()
        self.http = {route: HttpTally(route) for route in (*routes, NO_APP)}
        self.relay = RelayTally()

    def answered(self, app: str | None, status: int, seconds: float) -> None:
        """Count a request."""
        self.http.get(app or NO_APP, self.http[NO_APP]).answered(status, seconds)

    def read(self) -> Iterator[Reading]:
        """All of it; a `Source`."""
        yield Reading(families.PATCH_ENCODE, (), self.encode)
        for app in self.apps.values():
            yield from app.read()
        for http in self.http.values():
            yield from http.read()
        yield from self.relay.read()
        yield from self.threads.read()
