"""A server of several processes: the node that `aperture serve` runs, with apps made by a program.

Before `run_until_shutdown`, only the port is bound. Then this process becomes the supervisor, which has no event loop,
and the workers are forked from it with everything that the program has imported and made.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from bokeh.application import Application

from aperture.config.keywords import ServerPlan
from aperture.config.settings import Settings
from aperture.errors import ExitCode
from aperture.gateway.node import NodeSockets, make_supervisor
from aperture.gateway.supervise.browse import open_pages
from aperture.worker.http.auth import with_auth_loaded

__all__ = ["NodeLoop", "ServerOutside"]

log = logging.getLogger(__name__)


class NodeLoop:
    """Takes the place of an IOLoop in programs that use one only to run a server.

    `server.start(); server.io_loop.add_callback(server.show, "/"); server.io_loop.start()` is how Bokeh's own examples
    run one.
    """

    def __init__(self, server: ServerOutside) -> None:
        self._server = server
        self.callbacks: list[Callable[[], object]] = []

    def start(self) -> None:
        """Run the node until it is stopped."""
        self._server.run_until_shutdown()

    def stop(self) -> None:
        """Stop the node."""
        self._server.stop(wait=False)

    def add_callback(self, callback: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        """Call this in the supervisor once every worker serves. It must return soon: the supervisor waits for it."""
        self.callbacks.append(partial(callback, *args, **kwargs))

    spawn_callback = add_callback

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"with num_procs there is no event loop in this process, and so no io_loop.{name}")


class ServerOutside:
    """A node of several workers.

    Args:
        plan: with several processes.
        applications: by route.

    Raises:
        OSError: the port is taken, or binding it is not permitted.
        ConfigurationError: the auth module cannot be used.
        RuntimeError: app code has run already, and every worker would inherit a copy of its state.
    """

    def __init__(self, plan: ServerPlan, applications: Mapping[str, Application]) -> None:
        for route, application in applications.items():
            if not application.safe_to_fork:
                raise RuntimeError(f"the code of the app at {route} has run already: it cannot be forked into workers")
        self._applications = applications
        self._sockets = NodeSockets.open(with_auth_loaded(plan.settings))
        self.settings = self._sockets.settings
        self.io_loop = NodeLoop(self)
        self.started = False
        self._stopped = False
        self._running = False
        self._ready = False
        """Signals are handled, so `stop` may send one; before that, `stop` is remembered."""
        self._turn = threading.Lock()
        self._ended = threading.Event()

    def start(self) -> None:
        """Mark as started; the processes start in `run_until_shutdown`."""
        if self._stopped:
            raise RuntimeError("the server has been stopped; make another one")
        if self.started:
            raise RuntimeError("the server has been started already")
        self.started = True

    def stop(self, wait: bool) -> None:
        """End the node if it runs, from another thread or from a callback in the supervisor; else close the port."""
        with self._turn:
            first, self._stopped = not self._stopped, True
            ready = self._ready
        if not self._running:
            if first:
                self._sockets.close()
            return
        if first and ready:
            os.kill(os.getpid(), signal.SIGTERM)
        if wait and threading.current_thread() is not threading.main_thread():
            self._ended.wait()

    def unlisten(self) -> None:
        """Ends the node: without its sockets it has nothing to do."""
        self.stop(wait=False)

    def run_until_shutdown(self) -> None:
        """Be the supervisor until SIGTERM or SIGINT. Main thread only.

        Raises:
            SystemExit: the node could not continue; with an exit code of `aperture serve`.
        """
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("run_until_shutdown handles signals and forks, and needs the main thread")
        if _a_loop_runs():
            raise RuntimeError("several processes cannot be forked from a running event loop; leave num_procs at 1")
        if self._stopped:
            raise RuntimeError("the server has been stopped; make another one")
        others = [thread.name for thread in threading.enumerate() if thread is not threading.current_thread()]
        if others:
            log.warning("these threads do not survive the fork of the workers: %s", ", ".join(others))
        self.started = self._running = True
        from aperture.worker.main import worker_main

        run_worker = partial(worker_main, applications=self._applications)
        try:
            code = make_supervisor(self._sockets, run_worker, on_ready=self._announce).run()
        finally:
            self._running, self._ready, self._stopped = False, False, True
            self._ended.set()
        if code != ExitCode.OK:
            raise SystemExit(int(code))

    def show(self, url: str, browser: str | None, new: Any) -> None:
        """Open a page in a browser, from another process: browsers may block, and the supervisor must not."""
        open_pages([url], browser, new)

    def _announce(self, settings: Settings, admin_port: int | None) -> None:
        log.info("supervisor is process %d; serves at port %s, admin port %s", os.getpid(), settings.port, admin_port)
        for callback in self.io_loop.callbacks:
            try:
                callback()
            except Exception:
                log.exception("callback failed: added to io_loop; the node continues")
        with self._turn:
            self._ready, stopped = True, self._stopped
        if stopped:
            os.kill(os.getpid(), signal.SIGTERM)


def _a_loop_runs() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
