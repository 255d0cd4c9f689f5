"""The gateway process: its main function, and its orderly end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import Callable

from aperture.config.settings import Settings
from aperture.errors import ExitCode
from aperture.gateway.admin.endpoints import admin_application, serve_admin
from aperture.gateway.admin.scrape import GatewayMeasures
from aperture.gateway.front.answers import LingeringConnections
from aperture.gateway.front.dispatch import Dispatcher
from aperture.gateway.front.listener import Acceptor, Reception
from aperture.gateway.front.tls import Pumps
from aperture.wire.node_messages import NodeReady
from aperture.wire.seats import GatewaySeat

__all__ = ["gateway_main"]

log = logging.getLogger(__name__)

LAST_HEADS = 1.0
"""Seconds after SIGTERM in which connections whose head is being read may still finish it."""

LAST_BYTES = 1.0
"""Seconds in which a TLS client must read some of its remaining bytes during shutdown, or is dropped."""

_STOP_SHARE = 0.95
"""Share of the node's grace period after which the gateway ends by itself, so that it is not killed."""

_POLL = 0.02
"""Seconds between checks during shutdown."""


def gateway_main(seat: GatewaySeat, settings: Settings, clean_up: Callable[[], None] = lambda: None) -> int:
    """Serve as the gateway until SIGTERM, or until the supervisor is gone. Runs in the gateway's process.

    Args:
        seat: the descriptors and numbers that the supervisor passes to the gateway.
        settings: of the node.
        clean_up: removes the node's files when the supervisor is gone.

    Returns:
        the exit code.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole process group; the supervisor decides
    with asyncio.Runner(loop_factory=_new_event_loop) as runner:
        if not runner.run(_Gateway(seat, settings).run()):
            log.error("the supervisor is gone")
            clean_up()
    return ExitCode.OK


def _new_event_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:  # uvloop is not built for every platform; asyncio's loop does the same, slower
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


class _Gateway:
    """The parts of a gateway, and the order in which they start and stop."""

    def __init__(self, seat: GatewaySeat, settings: Settings) -> None:
        self._seat = seat
        self._settings = settings
        self._closing_since: float | None = None
        """When the node's grace period began: the workers were stopped at that time."""

    async def run(self) -> bool:
        """Serve until the end. False if it ends because the supervisor is gone."""
        loop = asyncio.get_running_loop()
        stopping, orphaned = asyncio.Event(), asyncio.Event()
        self._watch(loop, stopping, orphaned)
        lingering, pumps = LingeringConnections(loop), Pumps(loop)
        dispatcher = Dispatcher(loop, self._seat, lingering)
        reception = Reception(loop, self._settings, lingering, pumps, dispatcher.dispatch)
        acceptor = Acceptor(loop, self._seat.listeners, reception)
        supervisor = self._seat.supervisor_pid
        measures = GatewayMeasures(self._settings.metrics_dir, dispatcher, reception, supervisor)
        measures.start()
        endpoints = admin_application(dispatcher.node_workers, supervisor, self._settings, measures)
        admin = serve_admin(endpoints, self._seat.admin_listeners)
        acceptor.start()
        starting = asyncio.create_task(self._start(dispatcher))
        starting.add_done_callback(_report)
        closing = asyncio.create_task(self._when_closing(dispatcher.node_workers.closing, acceptor, reception))
        closing.add_done_callback(_report)
        # The gateway's SIGTERM comes after the workers have ended. Until then it answers probes, while they hand
        # sessions over.
        await stopping.wait()
        deadline = (self._closing_since or loop.time()) + self._settings.shutdown_grace * _STOP_SHARE
        starting.cancel()
        closing.cancel()
        acceptor.close()
        if not orphaned.is_set():
            heads = min(LAST_HEADS, deadline - loop.time())
            await _until(lambda: not len(reception) or orphaned.is_set(), heads)
        reception.close()
        dispatcher.close()
        admin.stop()
        measures.stop()
        if not orphaned.is_set():
            await _deliver_the_rest(pumps, orphaned, deadline)
        pumps.close()
        lingering.close()
        return not orphaned.is_set()

    def _watch(self, loop: asyncio.AbstractEventLoop, stopping: asyncio.Event, orphaned: asyncio.Event) -> None:
        def on_lifeline() -> None:
            loop.remove_reader(self._seat.lifeline)
            orphaned.set()
            stopping.set()

        loop.add_signal_handler(signal.SIGTERM, stopping.set)
        loop.add_reader(self._seat.lifeline, on_lifeline)

    async def _start(self, dispatcher: Dispatcher) -> None:
        """Learn the workers' sessions, and report once that the node is ready."""
        await dispatcher.recover()
        await dispatcher.node_workers.all_up.wait()
        dispatcher.node_workers.tell_supervisor(NodeReady(self._admin_port()))

    async def _when_closing(self, closing: asyncio.Event, acceptor: Acceptor, reception: Reception) -> None:
        """Stop accepting when the node closes; connections whose head is being read get a moment to finish it."""
        await closing.wait()
        self._closing_since = asyncio.get_running_loop().time()
        acceptor.close()
        await _until(lambda: not len(reception), LAST_HEADS)
        reception.close()

    def _admin_port(self) -> int | None:
        for listener in self._seat.admin_listeners:
            port: int = listener.getsockname()[1]
            return port
        return None


async def _deliver_the_rest(pumps: Pumps, orphaned: asyncio.Event, deadline: float) -> None:
    """Deliver the workers' last bytes to TLS clients: they go through this process."""
    loop = asyncio.get_running_loop()
    waiting = pumps.close_stalled({})
    while waiting and not orphaned.is_set() and loop.time() < deadline:
        await _until(lambda: pumps.idle or orphaned.is_set(), min(LAST_BYTES, deadline - loop.time()))
        waiting = pumps.close_stalled(waiting)


def _report(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (problem := task.exception()) is not None:
        log.error("the gateway failed to start or to close: it keeps running, see the traceback", exc_info=problem)


async def _until(condition: Callable[[], bool], timeout: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(max(0.0, timeout)):
            while not condition():
                await asyncio.sleep(_POLL)
