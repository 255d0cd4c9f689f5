"""How long tests wait for what must happen: every timeout of the suite comes from here, so one number scales them all.

A timeout here only bounds a failure; nothing asserts that anything is fast. `TEST_TIMEOUT_SCALE=4` suits a machine that
is busy with other work.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

__all__ = ["POLL", "SCALE", "run", "run_aside", "seconds", "wait_until"]

T = TypeVar("T")

SCALE = float(os.environ.get("TEST_TIMEOUT_SCALE", "1"))
POLL = 0.02
"""Between two looks at something that cannot be waited for."""


def seconds(nominal: float) -> float:
    """A timeout of so many seconds on a machine of our own."""
    return nominal * SCALE


def wait_until(condition: Callable[[], T | None], nominal: float = 10, why: str = "") -> T:
    """Look until the condition is true, and return what it was.

    Raises:
        TimeoutError: it never was.
    """
    deadline = time.monotonic() + seconds(nominal)
    while not (outcome := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(why or f"{condition} stayed {outcome!r}")
        time.sleep(POLL)
    return outcome


def run(scenario: Coroutine[Any, Any, T], nominal: float = 60) -> T:
    """Run one test's coroutine in a loop of its own."""

    async def bounded() -> T:
        async with asyncio.timeout(seconds(nominal)):
            return await scenario

    return asyncio.run(bounded())


def run_aside(blocking: Callable[[], T], nominal: float = 60) -> T:
    """Run something that starts an event loop of its own, from a thread that has one already.

    Playwright's synchronous interface keeps a loop running in the test's thread.
    """
    outcome: list[T] = []
    problems: list[BaseException] = []

    def target() -> None:
        try:
            outcome.append(blocking())
        except BaseException as problem:
            problems.append(problem)

    thread = threading.Thread(target=target, daemon=True)
    thread.start()
    thread.join(seconds(nominal))
    if problems:
        raise problems[0]
    if not outcome:
        raise TimeoutError(f"{blocking} did not end")
    return outcome[0]
