"""A worker process from its first function after the fork to its exit code."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import Callable, Mapping, Set
from types import FrameType

import uvloop
from bokeh.application import Application

from aperture import tracing
from aperture.config.settings import Settings
from aperture.errors import AppLoadError, BusUnavailable, ConfigurationError, ExitCode
from aperture.inheritance import open_descriptors, restore_signals_in_children, withhold_descriptors
from aperture.wire.node_messages import REPORT_INTERVAL, WorkerSeat
from aperture.worker.adopt import StickyServer, http_options
from aperture.worker.gateway_link import GatewayLink
from aperture.worker.pulse import every, resident_bytes
from aperture.worker.worker import Worker

__all__ = ["worker_main"]

log = logging.getLogger(__name__)

_RETIREMENT_INTERVAL = 1.0
_AGE_SPREAD = 0.2
"""Of the greatest age, over which the workers of a node spread their retirement."""

_LAST_SPANS = 0.5
"""Seconds for the last spans to reach their collector; the browsers have been told to go by then."""

_STOP_SHARE = 0.8
"""Of the node's grace period, what a worker takes at most, so that it ends by itself before it is killed."""


def worker_main(
    seat: WorkerSeat,
    settings: Settings,
    applications: Mapping[str, Application] | None,
    load: Callable[[], Mapping[str, Application]] | None = None,
) -> int:
    """Serve until SIGTERM, or until the supervisor is gone. Runs in the child, after the fork.

    Args:
        seat: the worker's place in the node.
        settings: of the node.
        applications: by route, as the supervisor has loaded them; None where that is for each worker to do.
        load: loads them again, for a worker that is started later: the apps' code may have changed since.

    Returns:
        An `ExitCode`.
    """
    _part_from_children(seat)
    try:
        if load is not None and (applications is None or seat.generation > 0):
            applications = load()
        if applications is None:
            raise AssertionError("who loads no apps gives a way to load them")
        before = open_descriptors()
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(seat, settings, applications, before))
    except AppLoadError as problem:
        log.critical("%s", problem)
        return ExitCode.APP_BROKEN
    except ConfigurationError as problem:
        log.critical("%s", problem)
        return ExitCode.USAGE
    except BusUnavailable as problem:
        log.critical("%s", problem)
        return ExitCode.NO_BUS
    return ExitCode.OK


def _part_from_children(seat: WorkerSeat) -> None:
    """What this worker is told by signals, and has for talking to the supervisor, its app's children do not get.

    A handler that does nothing, because what is ignored would be so in every program that the app starts.
    """
    signal.signal(signal.SIGINT, _pass_over)  # Ctrl-C reaches the whole group; the supervisor decides
    restore_signals_in_children({signal.SIGTERM: signal.SIG_DFL, signal.SIGINT: signal.default_int_handler})
    withhold_descriptors((seat.lifeline, seat.pipe))


def _pass_over(number: int, frame: FrameType | None) -> None:
    """No-op."""


async def _serve(
    seat: WorkerSeat, settings: Settings, applications: Mapping[str, Application], before: Set[tuple[int, int]]
) -> None:
    # uvloop says nowhere what it has opened for polls, wake-ups and signals; it is all that has come so far.
    withhold_descriptors(number for number, _ in open_descriptors() - before)
    tracing.start(os.environ)
    stop = _stop_signal(seat)
    link = GatewayLink(
        seat,
        adopt=lambda stream: server.adopt(stream),
        describe=lambda: worker.store.describe(),
        owns=lambda session_id: worker.store.has(session_id),
        creates=lambda path: worker.creates(path),
    )
    worker = Worker(settings, applications, index=seat.index, generation=seat.generation, link=link)
    server = StickyServer(
        worker.application,
        handing_back=link,
        **http_options(settings),
    )
    # One that takes a dead one's place comes back with the bus, if that is away as well.
    await worker.start(wait=settings.redis_wait or seat.generation > 0)
    link.obey(worker.operations)
    link.open()
    await _report(link, worker)
    reporting = every(REPORT_INTERVAL, lambda: _report(link, worker))
    retirement = _Retirement(seat, settings)
    retiring = every(_RETIREMENT_INTERVAL, retirement.look)
    seat.booted()
    log.info("worker %d serves (pid %d)", seat.index, os.getpid())
    await stop.wait()
    reporting.cancel()
    retiring.cancel()
    link.stop_adopting()
    await worker.stop(settings.shutdown_grace * _STOP_SHARE)
    tracing.stop(_LAST_SPANS)


def _stop_signal(seat: WorkerSeat) -> asyncio.Event:
    """Set by SIGTERM, and by the end of the supervisor."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)

    def orphaned() -> None:
        loop.remove_reader(seat.lifeline)
        log.error("worker %d: the supervisor is gone", seat.index)
        stop.set()

    loop.add_reader(seat.lifeline, orphaned)
    return stop


class _Retirement:
    """Asks to be replaced, once, when this worker has grown too large or too old; SIGTERM is the answer.

    The supervisor has the gateway send nothing more to a worker that it tells to end.
    """

    def __init__(self, seat: WorkerSeat, settings: Settings) -> None:
        self._seat = seat
        # Workers that were started together do not retire together.
        self._most_age = settings.max_worker_age * (1 + _AGE_SPREAD * seat.index / max(1, settings.num_procs))
        self._most_memory = settings.max_worker_memory
        self._started = time.monotonic()
        self._asked = False

    async def look(self) -> None:
        """Whether it is time."""
        age, memory = time.monotonic() - self._started, resident_bytes()
        if self._asked or not (0 < self._most_age < age or 0 < self._most_memory < memory):
            return
        self._asked = True
        log.info("worker %d retires after %.0f s, with %.0f MB", self._seat.index, age, memory / 1e6)
        self._seat.retire()


async def _report(link: GatewayLink, worker: Worker) -> None:
    link.report(
        sessions=len(worker.store),
        connections=worker.connections,
        lag_seconds=worker.lag.take_longest(),
        rss_bytes=resident_bytes(),
        bus_up=worker.bus_up,
        bus_full=worker.bus_full,
    )
