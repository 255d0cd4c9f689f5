"""`aperture.Server`: the constructor and the members of `bokeh.server.server.Server`."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, cast

from tornado.ioloop import IOLoop

from aperture.config.keywords import ServerPlan, plan_of, with_bokehs_settings
from aperture.gateway.embed.applications import Apps, applications_of
from aperture.gateway.embed.loops import AnyLoop, in_loop_thread, tornado_loop
from aperture.gateway.embed.loops import asyncio_loop as asyncio_loop_of
from aperture.gateway.embed.multi_process import ServerOutside
from aperture.gateway.embed.single_process import ServerInside
from aperture.paths import quoted, requoted

if TYPE_CHECKING:
    from tornado.web import Application

    from aperture.worker.session.session import Session

__all__ = ["Server"]

log = logging.getLogger(__name__)


class Server:
    """Serves Bokeh apps from inside a Python program.

    With an event loop, or without `num_procs`, it is one process on that loop: the constructor listens, `start` returns
    at once, and other code can share the loop. With `num_procs` above 1 and no loop it is a whole node, whose processes
    run for as long as `run_until_shutdown` does.

    In a coroutine, `async with Server(...) as server:` starts it on the running loop and shuts it down at the end.

    Args:
        applications: Bokeh applications, or functions that fill a document, by route; or a single one, for `/`.
        io_loop: Tornado's or asyncio's loop to run on; by default the current one.
        http_server_kwargs: for `tornado.httpserver.HTTPServer`.
        **kwargs: the keywords of Bokeh's Server, and every option of `aperture serve` with underscores for dashes, in
            the same units. `listen=False` opens no port, for routes mounted in a larger application. Anything
            else is passed to `tornado.web.Application`.

    Raises:
        ConfigurationError: a keyword is misspelt, a value is invalid, or two contradict each other; a ValueError.
        OSError: the port is taken, or binding it is not permitted.
        RuntimeError: both `io_loop` and several processes were asked for.
    """

    def __init__(
        self,
        applications: Apps,
        io_loop: AnyLoop | None = None,
        http_server_kwargs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        apps = applications_of(applications)
        plan = self._planned(kwargs, http_server_kwargs, on_loop=io_loop is not None)
        _apply_to_process(plan)
        self._routes = tuple(apps)
        self._show = plan.show
        self._listens = plan.listen
        self._index: str | None = kwargs.get("index")
        self._form: ServerInside | ServerOutside
        if plan.settings.num_procs > 1:
            self._form = ServerOutside(plan, apps)
        else:
            self._form = ServerInside(plan, apps, tornado_loop(io_loop))

    @classmethod
    def from_settings(
        cls,
        applications: Apps,
        io_loop: AnyLoop | None = None,
        http_server_kwargs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> Self:
        """A server whose missing keywords come from `bokeh.settings`, as with `bokeh serve` and in Bokeh 3.10.

        These are the auth module, the secrets of cookies and of session ids, whether ids are signed, the certificate,
        the icon, and whether forms are protected against cross-site requests.

        Args:
            applications: as the constructor takes them, like all that follow.
            io_loop: to run on.
            http_server_kwargs: for `tornado.httpserver.HTTPServer`.
            **kwargs: take precedence over `bokeh.settings`.

        Raises:
            ConfigurationError: as the constructor; a ValueError.
        """
        return cls(applications, io_loop, http_server_kwargs, **with_bokehs_settings(kwargs))

    def _planned(
        self, keywords: dict[str, Any], http_server_kwargs: Mapping[str, Any] | None, *, on_loop: bool
    ) -> ServerPlan:
        """What the keywords ask for. For a server whose keywords mean something else."""
        return plan_of(keywords, http_server_kwargs, on_loop=on_loop)

    # What it is

    @property
    def io_loop(self) -> IOLoop:
        """The loop that the server runs on; with several processes an object whose `start` runs the node."""
        return cast("IOLoop", self._form.io_loop)

    @property
    def port(self) -> int | None:
        """The bound port, also when port 0 asked for any free one; None for a unix socket, or no socket."""
        settings = self._form.settings
        return None if settings.unix_socket is not None or not self._listens else settings.port

    @property
    def address(self) -> str | None:
        """The configured address; None stands for all addresses."""
        return self._form.settings.address

    @property
    def unix_socket(self) -> str | None:
        """The path of the unix socket, if that is where the server listens."""
        return self._form.settings.unix_socket

    @property
    def prefix(self) -> str:
        """What all paths begin with: empty, or a path with a leading slash and no trailing slash."""
        return self._form.settings.prefix

    @property
    def index(self) -> str | None:
        """The configured template of the page that lists the apps."""
        return self._index

    @property
    def application(self) -> Application:
        """The routes, for mounting in a larger `tornado.web.Application`.

        Raises:
            RuntimeError: with several processes, the routes are in the workers.
        """
        return self._inside("routes").application

    # Life

    def start(self) -> None:
        """Start timers, hooks and services, and return at once; with several processes the node starts later.

        Raises:
            RuntimeError: it has already been started or stopped.
        """
        self._form.start()
        if self._show:
            for route in self._routes:
                self.io_loop.add_callback(self.show, quoted(route))

    def stop(self, wait: bool = True) -> None:
        """End sessions with their hooks, close their websockets, run the unload hooks. Idempotent.

        If the loop is not running, or from another thread, this blocks until all is done. In a callback or coroutine of
        the loop itself it is only scheduled, and `closed` waits for it; the port is free when this returns, so that
        another server can bind it.

        Args:
            wait: for peers that have not answered, up to `shutdown_grace`; otherwise a second at most.
        """
        self._form.stop(wait)

    async def closed(self) -> None:
        """Return once everything has ended, after a `stop`. Call it in a coroutine on the server's own loop."""
        await self._inside("end").closed()

    def unlisten(self) -> None:
        """Close the port, before this returns, and end all connections; the server cannot be used afterwards."""
        self._form.unlisten()

    def run_until_shutdown(self) -> None:
        """Start the server if necessary, and block until SIGTERM or SIGINT; a second signal ends it at once.

        Raises:
            RuntimeError: this is not the main thread, or its loop runs already.
            SystemExit: with several processes, if they could not start. The code is one of `aperture serve`.
        """
        if not self._form.started:
            self.start()
        self._form.run_until_shutdown()

    async def __aenter__(self) -> Self:
        inside = self._inside("loop")
        if not in_loop_thread(asyncio_loop_of(inside.io_loop)):
            raise RuntimeError("`async with` needs a server on the running event loop; leave io_loop out")
        if not inside.started:
            self.start()
        await inside.serving()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        await self.closed()

    # Sessions

    def get_session(self, app_path: str, session_id: str) -> Session:
        """A session in this process.

        Raises:
            ValueError: there is no such app.
            SessionGone: there is no such session in this process.
            RuntimeError: with several processes, sessions are in the workers.
        """
        return self._inside("sessions").session(app_path, session_id)

    def get_sessions(self, app_path: str | None = None) -> list[Session]:
        """The sessions in this process, of all apps or of one.

        Raises:
            ValueError: there is no such app.
            RuntimeError: with several processes, sessions are in the workers.
        """
        return self._inside("sessions").sessions(app_path)

    def show(self, app_path: str, browser: str | None = None, new: str = "tab") -> None:
        """Open an app in a browser on this machine.

        Args:
            app_path: with a leading slash, without the prefix; may have a query.
            browser: as the `webbrowser` module names it; None means the user's own.
            new: `tab` or `window`.

        Raises:
            ValueError: the path does not begin with a slash.
            RuntimeError: the server has no port.
        """
        if not app_path.startswith("/"):
            raise ValueError("app_path must start with a /")
        self._form.show(self._url_of(app_path), browser, new)

    def _url_of(self, app_path: str) -> str:
        if self.port is None:
            raise RuntimeError("a server without a port has no URL that a browser could open")
        scheme = "http" if self._form.settings.tls is None else "https"
        host = self.address or "localhost"
        route, mark, query = app_path.partition("?")
        path = f"{requoted(route)}{mark}{query}"
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{self.port}{self.prefix}{path}"

    @property
    def _several(self) -> bool:
        return isinstance(self._form, ServerOutside)

    def _inside(self, what: str) -> ServerInside:
        if isinstance(self._form, ServerInside):
            return self._form
        raise RuntimeError(
            f"with num_procs the {what} of a server is in its worker processes; give it an admin_port, whose /sessions "
            "and /workers tell of them"
        )


def _apply_to_process(plan: ServerPlan) -> None:
    """Applies the settings that hold for the whole process: its log, and Bokeh's own settings."""
    if plan.log is not None:
        from aperture.log import configure

        configure(plan.log.level, plan.log.format, plan.log.file)
    if plan.config_file is not None:
        from bokeh.settings import settings as bokeh_settings

        bokeh_settings.load_config(plan.config_file)
    if plan.idle:
        log.warning("without effect in one process: %s", ", ".join(plan.idle))
