"""The loop that the blocking client's connections live on: one for the process, in a thread of its own.

So a blocking call works wherever it is made, also inside of a running event loop, and the server's pings are answered
and its patches taken while the program does something else. Nothing here touches a document.
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
"""Taken again by a finalizer that runs while its thread has it."""
_loop: asyncio.AbstractEventLoop | None = None


def submit(work: Coroutine[Any, Any, T]) -> Future[T]:
    """Run a coroutine there."""
    return asyncio.run_coroutine_threadsafe(work, _running_loop())


def call(func: Callable[..., object], *args: Any) -> None:
    """Call something there, in the order of the calls; its outcome is nobody's business."""
    _running_loop().call_soon_threadsafe(func, *args)


def _running_loop() -> asyncio.AbstractEventLoop:
    global _loop
    with _guard:
        if _loop is None:
            _loop = asyncio.new_event_loop()
            threading.Thread(target=_loop.run_forever, name="aperture-client", daemon=True).start()
        return _loop


def _forget() -> None:
    """A fork has no thread but its own; its parent's connections stay its parent's."""
    global _loop, _guard
    _loop, _guard = None, threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
