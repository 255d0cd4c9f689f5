"""Every metric by its name, its labels and what it says: one table, from which come the exposition and the checks.

Labels have few values, whatever users do: an `app` is one of the routes that are served, a `worker` is a place in the
node and not a process, so that neither strangers' requests nor restarts make new time series. `docs/metrics.md` says of
each what to do about it; a test compares.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

__all__ = ["FAMILIES", "NO_APP", "Family", "Kind"]

NO_APP = "none"
"""The app of a request that is for none: the index, an asset, a path that is not served. Routes begin with a slash."""


class Kind(Enum):
    """How values are added up: over processes, and over time."""

    COUNTER = "counter"
    HISTOGRAM = "histogram"
    GAUGE = "gauge"


@dataclass(frozen=True, slots=True)
class Family:
    """One metric.

    Args:
        name: as queries name it; a counter's ends in `_total`.
        kind: of its values.
        help: what it is, in one sentence.
        labels: their names.
        buckets: upper bounds, of a histogram.
        merge: what becomes of a gauge that several processes have: `sum`, `min` or `max`. Dead ones do not count.
    """

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    merge: str = "sum"

    @property
    def metric_name(self) -> str:
        """Without the ending of a counter's samples."""
        return self.name.removesuffix("_total") if self.kind is Kind.COUNTER else self.name


_SHORT = (0.00002, 0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.05, 0.25)
_MIDDLE = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
_LONG = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Seconds."""


def _counter(name: str, text: str, *labels: str) -> Family:
    return Family(name, Kind.COUNTER, text, labels)


def _gauge(name: str, text: str, *labels: str, merge: str = "sum") -> Family:
    return Family(name, Kind.GAUGE, text, labels, merge=merge)


def _histogram(name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Family:
    return Family(name, Kind.HISTOGRAM, text, labels, buckets)


SESSIONS = _gauge("aperture_sessions", "Sessions that have their document here.", "app")
CONNECTIONS = _gauge(
    "aperture_connections",
    "Websockets of viewers, by whether the session is in the same worker (owner) or in another one (edge).",
    "app",
    "role",
)
PATCHES = _counter(
    "aperture_patches_total",
    "Patches that viewers sent (in), and that were written to viewers (out).",
    "app",
    "direction",
)
PATCH_BYTES = _counter(
    "aperture_patch_bytes_total", "Bytes of those patches, before any compression.", "app", "direction"
)
PATCH_ENCODE = _histogram(
    "aperture_patch_encode_seconds", "Time to make ready frames of one patch, however many viewers get it.", _SHORT
)
PATCH_EVENTS = _counter("aperture_patch_events_total", "Changes of documents in the patches that were made.", "app")
SESSION_CREATE = _histogram(
    "aperture_session_create_seconds",
    "Time to create a session: the claim, the app's code, and a rebuild.",
    _LONG,
    "app",
)
CALLBACK = _histogram(
    "aperture_callback_seconds",
    "Time of one turn of the app's Python code, from a viewer's change or a timer, its awaits included.",
    _MIDDLE,
    "app",
)
SLOW_CALLBACKS = _counter(
    "aperture_slow_callbacks_total",
    "Times that app code has kept a session or the event loop for longer than --slow-callback-warning.",
    "app",
)
THREADS_BUSY = _gauge("aperture_app_threads_busy", "Threads that run app code now (--num-threads).")
THREAD_WAIT = _histogram("aperture_app_thread_wait_seconds", "Time that app code has waited for a thread.", _MIDDLE)
OUTBOX_BYTES = _gauge("aperture_outbox_bytes", "Bytes that wait because viewers read slowly.")
VIEWERS_BEHIND = _gauge(
    "aperture_viewers_behind", "Viewers that get present values instead of patches, when their sockets have drained."
)
COALESCED = _counter(
    "aperture_patches_coalesced_total", "Patches that slow viewers were not sent, as later values replace them.", "app"
)
SLOW_CLOSES = _counter(
    "aperture_slow_closes_total", "Viewers closed because they read nothing, or less than they asked for.", "app"
)
VIEWER_TIMEOUTS = _counter(
    "aperture_viewer_timeouts_total", "Those of them whose sockets took nothing for --viewer-timeout.", "app"
)
WARM_READY = _gauge("aperture_warm_sessions", "Sessions made ahead that no visitor has taken yet.", "app")
WARM_TAKEN = _counter("aperture_warm_sessions_taken_total", "Pages that were given a session made ahead.", "app")
WARM_GIVEN_UP = _counter(
    "aperture_warm_sessions_given_up_total",
    "Attempts to make a session ahead that failed, by what the app's code asked for, or error.",
    "app",
    "reason",
)
RELAY_MESSAGES = _counter("aperture_relay_messages_total", "Messages between workers, through Redis.", "direction")
RELAY_LAG = _histogram(
    "aperture_relay_lag_seconds", "Time from a patch to its publication, if viewers are in other workers.", _MIDDLE
)
RELAY_GAPS = _counter(
    "aperture_relay_gaps_total",
    "Holes in the sequence of patches from another worker: filled from the stream (repaired), or not (lost).",
    "outcome",
)
RESTORES = _counter(
    "aperture_session_restores_total",
    "Sessions of workers that ended: as they were (restored), made anew from their values (remade), or lost (fresh).",
    "app",
    "outcome",
)
WORKER_RESTARTS = _counter("aperture_worker_restarts_total", "Workers started in the place of one that ended.")
WORKER_FAILURES = _counter(
    "aperture_worker_failures_total", "Workers that ended with an error or by a signal, without being asked to."
)
GENERATION = _gauge(
    "aperture_worker_generation",
    "How many workers have been in this place, with the one that is.",
    "worker",
    merge="max",
)
GATEWAY_RESTARTS = _counter("aperture_gateway_restarts_total", "Gateways started in the place of one that ended.")
LOOP_LAG = _gauge(
    "aperture_event_loop_lag_seconds",
    "Longest lag of the event loop in the last 15 seconds; of one that is stuck, since when it has been.",
    "worker",
    merge="max",
)
BUS_UP = _gauge("aperture_bus_up", "1 if all workers are connected to Redis; absent without one.", merge="min")
BUS_FULL = _gauge(
    "aperture_bus_full", "1 if Redis has no memory for new sessions (maxmemory); absent without one.", merge="max"
)
BUILD_INFO = _gauge("aperture_build_info", "Versions; the value is 1.", "version", "bokeh", "python", merge="max")
NOT_STORED = _counter(
    "aperture_sessions_not_kept_total", "Sessions that will not outlive their worker: too large, or refused.", "app"
)
DAMAGED_STATE = _counter("aperture_kept_state_damaged_total", "Kept sessions that were found not to be whole.")
HOSTILE = _counter("aperture_relay_foreign_messages_total", "Messages on our channels that are none of ours.")
HTTP_REQUESTS = _counter(
    "aperture_http_requests_total", "Requests answered by workers, by class of status.", "app", "code"
)
HTTP_SECONDS = _histogram("aperture_http_request_seconds", "Time to answer a request.", _LONG, "app")
WORKERS_UP = _gauge("aperture_workers_up", "Workers that serve, as the gateway sees it.")
WORKERS_WANTED = _gauge("aperture_workers_wanted", "Workers that the node should have.")
GATEWAY_CONNECTIONS = _counter(
    "aperture_gateway_connections_total", "Connections handed to a worker, or refused by the gateway.", "outcome"
)
GATEWAY_WAITING = _gauge(
    "aperture_gateway_waiting", "Connections in the gateway: sending their head, or waiting for a worker.", "waits_for"
)
GC_PAUSE = _histogram("aperture_gc_pause_seconds", "Pauses for garbage collection in workers.", _MIDDLE)
MEMORY = _gauge("aperture_process_resident_memory_bytes", "Resident memory of a process of the node.", "process")
CPU = _counter("aperture_process_cpu_seconds_total", "Processor time of a process of the node.", "process")
OPEN_FDS = _gauge("aperture_process_open_fds", "Open file descriptors of a process of the node.", "process")
STARTED = _gauge(
    "aperture_process_start_time_seconds", "When a process of the node began, in seconds since the epoch.", "process"
)

FAMILIES = {family.name: family for family in list(globals().values()) if isinstance(family, Family)}
"""All of them, by name."""
