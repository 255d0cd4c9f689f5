"""The event loop of all connections of the blocking client: one per process, in a thread of its own.

So a blocking call also works where an event loop is running, and the server's pings are answered and its patches read
while the program does something else. This thread never touches a document.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

__all__ = ["call", "submit"]

T = TypeVar("T")

_guard = threading.RLock()
"""Reentrant, because a finalizer can run in a thread that holds it."""
_loop: asyncio.AbstractEventLoop | None = None


def submit(work: Coroutine[Any, Any, T]) -> Future[T]:
    """Run a coroutine on the loop."""
    return asyncio.run_coroutine_threadsafe(work, _running_loop())


def call(func: Callable[..., object], *args: Any) -> None:
    """Call a function on the loop, in the order of the calls; its result is dropped."""
    _running_loop().call_soon_threadsafe(func, *args)


def _running_loop() -> asyncio.AbstractEventLoop:
    global _loop
    with _guard:
        if _loop is None:
            _loop = asyncio.new_event_loop()
            threading.Thread(target=_loop.run_forever, name="aperture-client", daemon=True).start()
        return _loop


def _forget() -> None:
    """Start afresh in a forked child, which has no copy of the thread; the parent's connections stay the parent's."""
    global _loop, _guard
    _loop, _guard = None, threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
