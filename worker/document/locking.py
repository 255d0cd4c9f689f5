"""`Document.locked_callback`, which Bokeh's main branch has, for the versions that lack it.

It makes a function that any thread may call, at any time: what it wraps runs later, with the document's lock. It is for
what arrives from outside of the session: a subscription, a thread that reads an instrument. If that arrives faster than
it can be shown, the policy `latest` keeps one call waiting, the last one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial, wraps
from typing import Any, Literal

from bokeh.document import Document

from aperture.bokeh_versions import offer_locked_callback

__all__ = ["Policy", "install", "locked_callback"]

Policy = Literal["every", "latest"]


def install() -> None:
    """Give documents the method where Bokeh does not. Idempotent."""
    offer_locked_callback(locked_callback)


def locked_callback(
    document: Document, callback: Callable[..., Any] | None = None, *, policy: Policy = "every"
) -> Callable[..., Any]:
    """A function that runs `callback` with the document's lock, soon, whichever thread calls it; it returns nothing.

    Args:
        document: whose lock.
        callback: what to run, async or not; without one, this is a decorator.
        policy: `every` call runs, in the order of the calls; or of those that wait only the `latest`.

    Raises:
        ValueError: there is no such policy.
    """
    if policy not in ("every", "latest"):
        raise ValueError(f"unknown policy {policy!r}: it is 'every' or 'latest'")
    if callback is None:
        return partial(locked_callback, document, policy=policy)
    return _every(document, callback) if policy == "every" else _latest(document, callback)


def _every(document: Document, callback: Callable[..., Any]) -> Callable[..., None]:
    @wraps(callback)
    def call(*args: Any, **kwargs: Any) -> None:
        document.add_next_tick_callback(partial(callback, *args, **kwargs))

    return call


def _latest(document: Document, callback: Callable[..., Any]) -> Callable[..., None]:
    waiting: list[Callable[[], Any]] = []
    changing = threading.Lock()

    @wraps(callback)
    def run() -> Any:
        with changing:
            call = waiting.pop()
        return call()

    @wraps(callback)
    def call(*args: Any, **kwargs: Any) -> None:
        with changing:
            scheduled = bool(waiting)
            waiting[:] = [partial(callback, *args, **kwargs)]
        if not scheduled:
            document.add_next_tick_callback(run)

    return call
