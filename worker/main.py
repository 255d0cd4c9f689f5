"""A worker process from its first function after the fork to its exit code."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import Callable, Coroutine, Mapping, Set
from types import FrameType
from typing import Any

import uvloop
from bokeh.application import Application

from aperture import tracing
from aperture.config.settings import Settings
from aperture.errors import AppLoadError, BusUnavailable, ConfigurationError, ExitCode
from aperture.inheritance import end_if_forked, open_descriptors, restore_signals_in_children, withhold_descriptors
from aperture.wire.node_messages import REPORT_INTERVAL
from aperture.wire.seats import BEAT_INTERVAL, WorkerSeat
from aperture.worker.adopt import StickyServer, http_options
from aperture.worker.app_threads import AppThreads
from aperture.worker.gateway_link import GatewayLink
from aperture.worker.periodic import every, resident_bytes
from aperture.worker.worker import Worker

__all__ = ["worker_main"]

log = logging.getLogger(__name__)

_RETIREMENT_INTERVAL = 1.0
_AGE_SPREAD = 0.2
"""Of the greatest age, over which the workers of a node spread their retirement."""

_LAST_SPANS = 0.5
"""Seconds for the last spans to reach their collector; the browsers' connections are closed by then."""

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
            _run_to_end(runner.get_loop(), _serve(seat, settings, applications, before))
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
    """Keep signal handlers and the supervisor's sockets from processes that the app forks.

    A handler that does nothing, because what is ignored would be so in every program that the app starts.
    """
    signal.signal(signal.SIGINT, _pass_over)  # Ctrl-C reaches the whole group; the supervisor decides
    restore_signals_in_children({signal.SIGTERM: signal.SIG_DFL, signal.SIGINT: signal.default_int_handler})
    withhold_descriptors((seat.lifeline, seat.pipe))


def _run_to_end(loop: asyncio.AbstractEventLoop, serving: Coroutine[Any, Any, None]) -> None:
    """Run the loop until the worker has ended, also where app code would end it before.

    `sys.exit()` in a task or a callback that an app has given to the loop itself leaves the loop, and so does its
    `stop`. Nothing of ours raises that, and no Ctrl-C comes here.
    """
    task = loop.create_task(serving)
    while True:
        try:
            return loop.run_until_complete(task)
        except (SystemExit, KeyboardInterrupt) as problem:
            end_if_forked(problem)
            if task.done():
                raise
            log.exception("app code has raised %s on the event loop, which goes on", type(problem).__name__)
        except RuntimeError:
            if task.done():
                raise
            log.error("app code has stopped the event loop, which goes on")


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
    # A replacement waits for a bus that is down: to fail would count as another failed start.
    await worker.start(wait=settings.redis_wait or seat.generation > 0)
    link.obey(worker.operations)
    link.open()
    await _report(link, worker)
    retirement = _Retirement(seat, settings)
    timers = [
        every(REPORT_INTERVAL, lambda: _report(link, worker)),
        every(_RETIREMENT_INTERVAL, retirement.look),
    ]
    if settings.max_callback_seconds > 0:
        seat.watched()
        timers.append(every(BEAT_INTERVAL, _Beat(seat, worker.threads).beat))
    seat.booted()
    log.info("worker %d serves (pid %d)", seat.index, os.getpid())
    await stop.wait()
    for timer in timers:
        timer.cancel()
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


class _Beat:
    """The sign of life for the supervisor: the event loop runs, and no session takes for ever to be made.

    A script that never ends keeps every new visitor of the worker out, on the event loop and in a thread alike.
    """

    def __init__(self, seat: WorkerSeat, threads: AppThreads | None) -> None:
        self._seat = seat
        self._threads = threads
        self._making: object = None

    async def beat(self) -> None:
        """Called on the loop, every so often."""
        before, self._making = self._making, None if self._threads is None else self._threads.making
        if self._making is None or self._making is not before:
            self._seat.beat()


async def _report(link: GatewayLink, worker: Worker) -> None:
    load = worker.load(worker.lag.take_longest())
    link.report(load, bus_up=worker.bus_up, bus_full=worker.bus_full, heartbeat_fails=worker.heartbeat_fails)
