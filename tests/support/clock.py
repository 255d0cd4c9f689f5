"""An event loop whose time jumps to the next timer when nothing else is to be done, so that no test sleeps."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec

__all__ = ["FakeTimeLoop", "in_fake_time", "now"]

P = ParamSpec("P")


class FakeTimeLoop(asyncio.SelectorEventLoop):
    """A loop with a clock of its own, which starts at 0."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def time(self) -> float:
        return self.now

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        """Without a time limit, which from Python 3.12 on is there, and over at once in this loop's time."""
        await super().shutdown_default_executor()

    def _run_once(self) -> None:
        if not self._ready and self._scheduled:  # type: ignore[attr-defined]
            self.now = max(self.now, self._scheduled[0].when())  # type: ignore[attr-defined]
        super()._run_once()  # type: ignore[misc]


def in_fake_time(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Run a test that is a coroutine in such a loop."""

    @functools.wraps(test)
    def sync(*args: P.args, **kwargs: P.kwargs) -> None:
        with asyncio.Runner(loop_factory=FakeTimeLoop) as runner:
            runner.run(test(*args, **kwargs))

    return sync


def now() -> float:
    """The time of the running loop, in seconds."""
    return asyncio.get_running_loop().time()
