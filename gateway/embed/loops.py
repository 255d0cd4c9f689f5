"""Converts between Tornado's and asyncio's view of an event loop."""

from __future__ import annotations

import asyncio
from typing import TypeAlias

from tornado.ioloop import IOLoop
from tornado.platform.asyncio import AsyncIOLoop, BaseAsyncIOLoop

from aperture.errors import ConfigurationError

__all__ = ["AnyLoop", "asyncio_loop", "in_loop_thread", "tornado_loop"]

AnyLoop: TypeAlias = IOLoop | asyncio.AbstractEventLoop


def tornado_loop(loop: AnyLoop | None) -> IOLoop:
    """Tornado's loop over the given one; by default the calling thread's, made if there is none.

    Raises:
        ConfigurationError: the argument is not an event loop.
    """
    if loop is None:
        return IOLoop.current()
    if isinstance(loop, IOLoop):
        return loop
    if not isinstance(loop, asyncio.AbstractEventLoop):
        raise ConfigurationError(f"io_loop={loop!r}: neither a Tornado IOLoop nor an asyncio event loop")
    known = IOLoop._ioloop_for_asyncio.get(loop)
    return AsyncIOLoop(asyncio_loop=loop, make_current=False) if known is None else known


def asyncio_loop(loop: IOLoop) -> asyncio.AbstractEventLoop:
    """The asyncio loop that Tornado's wraps."""
    if not isinstance(loop, BaseAsyncIOLoop):
        raise AssertionError("Tornado has had no other loops since 5.0")
    inner: asyncio.AbstractEventLoop = loop.asyncio_loop
    return inner


def in_loop_thread(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether the caller runs in a callback or a task of this loop."""
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False
