"""A server on an event loop of its own, in a thread: ours or stock Bokeh's, by their one constructor."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self, TypeVar

from bokeh.server.server import Server as StockServer
from support.patience import seconds
from tornado.ioloop import IOLoop

from aperture import Server

__all__ = ["BOTH", "ServerAside", "server_name"]

T = TypeVar("T")

BOTH: tuple[type, ...] = (StockServer, Server)
"""For tests of what must be the same: `@pytest.mark.parametrize("kind", BOTH, ids=server_name)`."""

START_SECONDS = 30


def server_name(kind: type) -> str:
    """How a parametrised test names the server it ran against."""
    return "stock" if kind is StockServer else "aperture"


class ServerAside:
    """Made, started, run and stopped in its thread, as programs do it beside Flask or FastAPI.

    Args:
        kind: the class.
        applications: for its constructor, as all that follows.
    """

    def __init__(self, kind: type, applications: Any, **kwargs: Any) -> None:
        self._make: Callable[[], Any] = lambda: kind(applications, io_loop=IOLoop.current(), **{"port": 0, **kwargs})
        self._thread = threading.Thread(target=self._run, name="server")
        self._up = threading.Event()
        self._problem: BaseException | None = None
        self.server: Any = None

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._up.wait(seconds(START_SECONDS)), "the server did not start"
        if self._problem is not None:
            self._thread.join()
            raise self._problem
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.server.io_loop.add_callback(self.server.io_loop.stop)
        self._thread.join(seconds(START_SECONDS))
        assert not self._thread.is_alive(), "the server did not stop"

    @property
    def url(self) -> str:
        """Without a trailing slash and without the prefix."""
        return f"http://localhost:{self.server.port}"

    @property
    def ws_url(self) -> str:
        return f"ws://localhost:{self.server.port}"

    def call(self, act: Callable[..., T], *args: Any) -> T:
        """Call a function on the server's loop and return what it returns."""

        async def called() -> T:
            return act(*args)

        return asyncio.run_coroutine_threadsafe(called(), self.server.io_loop.asyncio_loop).result(seconds(10))

    def _run(self) -> None:
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
        try:
            self.server = self._make()
            self.server.start()
            loop.call_soon(self._up.set)
            self.server.io_loop.start()
            self.server.stop()
            loop.run_until_complete(asyncio.sleep(0))
        except BaseException as problem:
            self._problem = problem
            self._up.set()
        finally:
            self.server = self.server or None
            IOLoop.current().close()
