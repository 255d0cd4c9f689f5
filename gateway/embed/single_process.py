"""A server of one process, on an event loop that the program owns.

It may be made before its loop runs, started and stopped from any thread, and never blocks the loop. Its sockets listen
from the constructor on; connections made before the loop runs wait in the kernel's backlog. With Redis, connections are
accepted only after the server has entered the cluster, because no session could be claimed before. With
`redis_start="wait"` and Redis unreachable, new sessions are answered with 503 until it can be reached.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextvars import Context
from typing import Any
from urllib.parse import unquote

from bokeh.application import Application
from bokeh.util.browser import view
from tornado.httpserver import HTTPServer
from tornado.ioloop import IOLoop
from tornado.web import Application as Routes

from aperture.config.keywords import ServerPlan
from aperture.config.settings import Settings
from aperture.errors import SessionGone
from aperture.gateway.embed.admin_port import admin_server
from aperture.gateway.embed.loops import asyncio_loop, in_loop_thread
from aperture.gateway.front.tls import server_context
from aperture.gateway.node import NodeSockets, node_name
from aperture.log import short_id
from aperture.worker.adopt import ListeningServer, http_options
from aperture.worker.collector import LeftToPython
from aperture.worker.document.loading import check_imports
from aperture.worker.session.host import AppHost
from aperture.worker.session.session import Session
from aperture.worker.worker import Worker

__all__ = ["ServerInside"]

log = logging.getLogger(__name__)

HASTE = 1.0
"""Seconds for the whole shutdown with `wait=False`: hooks run, peers that do not answer are dropped."""

LAST_CONNECTIONS = 1.0
"""Seconds for requests in flight once everything else has ended."""

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class ServerInside:
    """One worker, and the sockets that it listens on.

    Args:
        plan: with one process.
        applications: by route.
        loop: to run on; it need not run yet.

    Raises:
        OSError: the port is taken, or binding it is not permitted.
        AppLoadError: an app's import fails.
        ConfigurationError: the auth module, an origin, the icon or the certificate cannot be used.
    """

    def __init__(self, plan: ServerPlan, applications: Mapping[str, Application], loop: IOLoop) -> None:
        self.io_loop = loop
        self._loop = asyncio_loop(loop)
        check_imports(applications)
        self._sockets = _open_sockets(plan)
        self.settings = self._sockets.settings
        self._listens = plan.listen
        try:
            self._worker = Worker(self.settings, applications, collector=LeftToPython())
            self._http = ListeningServer(self._worker.application, **_http_kwargs(self.settings))
        except BaseException:
            self._sockets.close()
            raise
        self._admin: HTTPServer | None = None
        self._starting: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None
        self._ending_connections: set[asyncio.Task[None]] = set()
        self._lock = threading.Lock()
        """Held to change the two below, which any thread may do."""
        self._started = False
        self._stopped = False
        self._let_go = False
        """The sockets have been closed."""
        self._serving = asyncio.Event()
        self._ended = asyncio.Event()
        self._ended_for_threads = threading.Event()
        self._problem: Exception | None = None
        self._runs_until_shutdown = False
        if self._worker.cluster.address is None:
            self._call(self._accept)

    @property
    def application(self) -> Routes:
        return self._worker.application

    @property
    def started(self) -> bool:
        return self._started

    # Life

    def start(self) -> None:
        """Have the loop run the load hooks, start the timers and enter the cluster; returns at once."""
        with self._lock:
            if self._stopped:
                raise RuntimeError("the server has been stopped; make another one")
            if self._started:
                raise RuntimeError("the server has been started already")
            self._started = True
        self._call(self._begin)

    async def serving(self) -> None:
        """Return once the server serves.

        Raises:
            Exception: what prevented it.
        """
        await self._serving.wait()
        if self._problem is not None:
            raise self._problem
        if self._stopped:
            raise RuntimeError("the server was stopped before it served")

    def stop(self, wait: bool) -> None:
        """End it: blocks if the loop is not running, and schedules the end if it is."""
        with self._lock:
            first, self._stopped = not self._stopped, True
        grace = self.settings.shutdown_grace if wait else HASTE
        if self._loop.is_closed() or (not self._loop.is_running() and _runs_another()):
            if first:
                self._end_without_loop()
        elif not self._loop.is_running():
            if not self._ended.is_set():
                self._finish_now(grace)
        else:
            if first:
                self._give_port_up()
                self._call(lambda: self._close_soon(grace))
            if wait and not in_loop_thread(self._loop):
                self._ended_for_threads.wait(grace + LAST_CONNECTIONS)

    async def closed(self) -> None:
        """Return once everything has ended, after a `stop`."""
        await self._ended.wait()

    def unlisten(self) -> None:
        """Stop accepting, and end the existing connections."""
        if self._loop.is_closed():
            self._end_without_loop()
            return
        self._give_port_up()
        self._call(self._close_connections_soon)

    def run_until_shutdown(self) -> None:
        """Run the loop until SIGTERM, SIGINT, or until it is stopped. Main thread only."""
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("run_until_shutdown handles signals and needs the main thread: use start in this one")
        if not self._started:
            self.start()
        self._runs_until_shutdown = True
        with self._handling_signals():
            try:
                self.io_loop.start()
            except KeyboardInterrupt:
                log.info("interrupted")
            self.stop(wait=True)
        if self._problem is not None:
            raise self._problem

    # What is here

    def session(self, app_path: str, session_id: str) -> Session:
        """The live session.

        Raises:
            ValueError: there is no such app.
            SessionGone: there is no such session.
        """
        session = self._worker.store.find(self._host(app_path), session_id)
        if session is None:
            raise SessionGone(f"there is no session {short_id(session_id)}... of {app_path} in this process")
        return session

    def sessions(self, app_path: str | None) -> list[Session]:
        """All live sessions, or those of one app.

        Raises:
            ValueError: there is no such app.
        """
        if app_path is None:
            return list(self._worker.store)
        return list(self._host(app_path).sessions)

    def show(self, url: str, browser: str | None, new: Any) -> None:
        """Open a page in a browser."""
        view(url, browser=browser, new=new)

    def _host(self, app_path: str) -> AppHost:
        host = self._worker.hosts.get(unquote(app_path))
        if host is None:
            raise ValueError(f"there is no app at {app_path} on this server")
        return host

    # On the loop

    def _call(self, act: Callable[[], object]) -> None:
        # In a fresh context: context variables of the calling task must not leak into sessions that are made later.
        self._loop.call_soon_threadsafe(act, context=Context())

    def _accept(self) -> None:
        if self._listens and not self._stopped and not self._let_go:
            self._http.add_sockets(self._sockets.listeners)

    def _begin(self) -> None:
        if not self._stopped:
            self._starting = self._loop.create_task(self._start())

    async def _start(self) -> None:
        try:
            await self._worker.start(wait=self.settings.redis_wait)
            if self._worker.cluster.address is not None:
                self._accept()
            if not self._let_go:
                self._admin = admin_server(self._worker, self._sockets.admin_listeners)
        except Exception as problem:
            log.critical("the server cannot start: %s", problem)
            self._problem = problem
            with self._lock:
                self._stopped = True
            self._close_soon(HASTE)
        else:
            log.debug("serves %s", ", ".join(self._worker.hosts))
        self._serving.set()

    def _close_soon(self, grace: float) -> None:
        if self._closing is None:
            self._closing = self._loop.create_task(self._close(grace))

    async def _close(self, grace: float) -> None:
        try:
            await self._stop_starting()
            self._stop_accepting()
            await self._worker.stop(grace)
            await self._close_connections()
        except asyncio.CancelledError:
            log.warning("shutdown timed out: some sessions have not ended, their connections are dropped")
        except Exception:
            log.exception("shutdown failed: what is still open ends with the process")
        finally:
            self._serving.set()
            self._ended.set()
            self._ended_for_threads.set()
            if self._problem is not None and self._runs_until_shutdown:
                self.io_loop.stop()

    async def _stop_starting(self) -> None:
        starting = self._starting
        if starting is None or starting is asyncio.current_task():
            return
        if not starting.done():
            starting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await starting

    def _stop_accepting(self) -> None:
        if self._let_go:
            return
        self._let_go = True
        self._http.stop()
        if self._admin is not None:
            self._admin.stop()
        self._sockets.close()

    def _give_port_up(self) -> None:
        """Free the port before this returns, as Bokeh does: a notebook cell that runs again binds it again."""
        if in_loop_thread(self._loop) or not self._loop.is_running():
            self._stop_accepting()
            return
        done = threading.Event()

        def give_up() -> None:
            try:
                self._stop_accepting()
            finally:
                done.set()

        self._call(give_up)  # readers may be removed only in the loop's own thread
        done.wait(HASTE)

    def _close_connections_soon(self) -> None:
        # Kept: a loop holds its tasks weakly.
        task = self._loop.create_task(self._close_connections())
        self._ending_connections.add(task)
        task.add_done_callback(self._ending_connections.discard)

    async def _close_connections(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_CONNECTIONS):
                await self._http.close_all_connections()

    # Beside the loop

    def _finish_now(self, grace: float) -> None:
        """The loop is not running, and this is its thread: run it until everything has ended."""

        async def finish() -> None:
            self._close_soon(grace)
            await self._ended.wait()

        self._loop.run_until_complete(finish())

    def _end_without_loop(self) -> None:
        """The loop is closed, or cannot be run from here: do what needs no loop."""
        if not self._let_go:
            self._let_go = True
            self._sockets.close()
        self._worker.unload()
        self._ended_for_threads.set()

    @contextlib.contextmanager
    def _handling_signals(self) -> Iterator[None]:
        before: dict[signal.Signals, Any] = {number: signal.getsignal(number) for number in _SIGNALS}
        for number in _SIGNALS:
            self._loop.add_signal_handler(number, self._handle_signal)
        try:
            yield
        finally:
            if not self._loop.is_closed():
                for number, handler in before.items():
                    self._loop.remove_signal_handler(number)
                    signal.signal(number, handler if handler is not None else signal.SIG_DFL)

    def _handle_signal(self) -> None:
        """The first signal ends the loop, and with it `run_until_shutdown`; a later one ends the waiting."""
        if self._closing is not None:
            self._closing.cancel()
        else:
            log.info("stopping")
            self.io_loop.stop()


def _open_sockets(plan: ServerPlan) -> NodeSockets:
    if plan.listen:
        return NodeSockets.open(plan.settings)
    return NodeSockets(dataclasses.replace(plan.settings, node=node_name()), (), ())


def _http_kwargs(settings: Settings) -> dict[str, Any]:
    kwargs = http_options(settings)
    if settings.tls is not None:
        kwargs["ssl_options"] = server_context(settings.tls)
    return kwargs


def _runs_another() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
