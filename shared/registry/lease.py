"""Keeps a worker's lease while its event loop is busy with app code.

A callback that computes for a minute blocks the worker's loop, and the heartbeat in it. The worker lives all the same,
and its sessions must not be given to others. So the lease is renewed from a thread of its own, with a loop and a
connection of its own. A process that is stopped as a whole (SIGSTOP, a frozen machine) loses its lease, and finds that
it may have: the thread notices how long it was away before it renews anything.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterable

from aperture.bus.bus import Bus
from aperture.errors import BusError
from aperture.inheritance import withhold
from aperture.registry.members import WorkerName
from aperture.registry.registry import Registry

__all__ = ["LeaseThread"]

log = logging.getLogger(__name__)

_STOP_TIME = 2.0
"""Seconds to wait for the thread to end; it is a daemon and keeps nothing else alive."""


class LeaseThread:
    """Renews one worker's lease. Started after the fork, in the worker.

    Args:
        make_bus: makes the thread's own bus; called in the thread.
        registry: the worker's own; notified of each renewal, and of a stop of the whole process.
        me: the worker.
        lease: seconds.
    """

    def __init__(self, make_bus: Callable[[], Bus], registry: Registry, me: WorkerName, *, lease: float) -> None:
        self._make_bus = make_bus
        self._registry = registry
        self._me = me
        self._lease = lease
        self._thread = threading.Thread(target=self._run, name="lease", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None
        self._renewed_at = time.monotonic()
        self._failing = False
        withhold(self)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread. Idempotent; a no-op before `start`."""
        if self._loop is not None and self._stopping is not None and not self._loop.is_closed():
            try:
                # From the worker's thread: an asyncio.Event belongs to its loop's.
                self._loop.call_soon_threadsafe(self._stopping.set)
            except RuntimeError:
                return  # it has just ended by itself
            self._thread.join(_STOP_TIME)

    def descriptors(self) -> Iterable[int]:
        """Those of the thread's own loop, which no child has a thread for."""
        loop = self._loop
        if loop is not None and not loop.is_closed():
            yield loop._selector.fileno()  # type: ignore[attr-defined]
            yield loop._ssock.fileno()  # type: ignore[attr-defined]
            yield loop._csock.fileno()  # type: ignore[attr-defined]

    def _run(self) -> None:
        try:
            # This kind, whatever the program's policy is: nothing is in a hurry here.
            with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
                runner.run(self._keep())
        except Exception:
            log.exception("the lease is no longer kept while app code runs")

    async def _keep(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        # Its own connection, opened in the thread: the worker's is read by the loop that is blocked.
        bus = self._make_bus()
        await bus.start(wait=True)
        # Its own registry, without claims: those are the event loop's to renew, which knows what it has lost.
        mine = Registry(bus, self._me, lease=self._lease)
        try:
            while not self._stopping.is_set():
                await self._renew(mine)
                try:
                    await asyncio.wait_for(self._stopping.wait(), self._lease / 3)
                except TimeoutError:
                    continue
        finally:
            await bus.close()

    async def _renew(self, mine: Registry) -> None:
        # If this thread did not run for a lease either, it was not app code that blocked the loop: the whole process
        # was stopped, and others may have its sessions. Until the registry has answered, no hold may begin.
        now = time.monotonic()
        if now - self._renewed_at > self._lease:
            self._registry.suspect()
        else:
            self._registry.note_beat()
        self._renewed_at = now
        try:
            await mine.renew({})
            self._failing = False
        except BusError as problem:
            log.debug("the lease was not renewed: %s", problem)  # the bus has logged the reason
        except Exception:
            # Whatever it is, it may be over by the next time, and without this thread busy sessions would be lost.
            log.log(logging.DEBUG if self._failing else logging.ERROR, "the lease was not renewed", exc_info=True)
            self._failing = True
