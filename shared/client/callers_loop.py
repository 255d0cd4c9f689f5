"""The event loop that a program gives to a blocking session: calls run it while they wait, as `bokeh.client` does.

So the server may be on that loop, and can answer while the client waits. A loop that is running, in this thread or
another, is left alone, and so is a closed one: the connection itself does not need it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, TypeAlias, TypeVar

from tornado.ioloop import IOLoop

__all__ = ["AnyLoop", "CallersLoop"]

AnyLoop: TypeAlias = IOLoop | asyncio.AbstractEventLoop

T = TypeVar("T")


class CallersLoop:
    """One loop, or none.

    Args:
        loop: Tornado's or asyncio's.

    Raises:
        TypeError: it is no loop.
    """

    def __init__(self, loop: AnyLoop | None) -> None:
        inner = getattr(loop, "asyncio_loop", loop)
        if inner is not None and not isinstance(inner, asyncio.AbstractEventLoop):
            raise TypeError(f"io_loop={loop!r} is neither a Tornado IOLoop nor an asyncio event loop")
        self._loop: asyncio.AbstractEventLoop | None = inner
        self._bell = asyncio.Event()
        self._rung = False
        """The loop has been asked to set the bell: one request is enough until the loop runs again."""

    @property
    def rests(self) -> bool:
        """Whether this thread can run it now."""
        loop = self._loop
        return loop is not None and not loop.is_running() and not loop.is_closed() and _running_loop() is None

    @property
    def runs_here(self) -> bool:
        """Whether the caller is a callback or a task of it, so that waiting would block the loop."""
        return self._loop is not None and _running_loop() is self._loop

    def ring(self) -> None:
        """End `run_until_rung`, or the next one; from any thread."""
        if self._loop is None or self._rung:
            return
        self._rung = True
        with suppress(RuntimeError):  # it has been closed
            self._loop.call_soon_threadsafe(self._set_bell)

    def run_until_rung(self, until: float | None) -> None:
        """Run it until `ring`, or until then (`time.monotonic`), but for one turn at least."""

        async def wait() -> None:
            await asyncio.sleep(0)
            with suppress(TimeoutError):
                async with asyncio.timeout(None if until is None else max(0.0, until - time.monotonic())):
                    await self._bell.wait()
            self._bell.clear()

        self._run(wait)

    def result(self, future: Future[T], seconds: float) -> T:
        """Wait for another thread's result; the loop runs meanwhile, if it is idle.

        Raises:
            TimeoutError: there is no result within that time.
        """

        async def wait() -> None:
            await asyncio.wait([asyncio.wrap_future(future)], timeout=seconds)

        if self.rests:
            self._run(wait)
            return future.result(0)
        return future.result(seconds)

    def run(self, awaitable: Awaitable[Any]) -> None:
        """Run the awaitable of a callback: on this loop if it is idle, otherwise on a new one.

        If a loop is running in this thread, neither is possible, and Python raises a RuntimeError.
        """

        async def wait() -> None:
            await awaitable

        if self.rests:
            self._run(wait)
        else:
            asyncio.run(wait())

    def _run(self, work: Callable[[], Awaitable[None]]) -> None:
        if self._loop is None:
            raise AssertionError("there is no loop to run")
        self._loop.run_until_complete(work())

    def _set_bell(self) -> None:
        self._rung = False
        self._bell.set()


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
