"""Requests to other workers, and what comes back: numbers, timeouts, and tasks that end with their owner.

Pub/sub has no replies. A request carries the name of the worker that asks and a number; the answer is published to
that worker, with the same number. Four parts of a worker talk like this, each on a channel of its own: pages that the
session's owner renders, admin commands, figures for the dashboard, and what frameworks ask each other. What they share
is here; what the messages are is theirs.

All calls come from one event loop.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Generic, TypeVar

from aperture.bus.bus import Bus
from aperture.errors import BusDown, CallFailed

__all__ = ["BackgroundTasks", "Calls", "Replies", "listen"]

log = logging.getLogger(__name__)

T = TypeVar("T")

MAX_IN_FLIGHT = 1000
"""Calls that wait for an answer, of one part of one worker. A crowd of pages of one slow owner would otherwise take
memory without a bound; beyond this they fail at once, as if the owner did not answer."""

LISTEN_PAUSE = 0.2
"""Seconds between two attempts to listen, while Redis is down."""


class Replies(Generic[T]):
    """What has come back for one request.

    Args:
        number: what the request carries, and each of its answers.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self._queue: asyncio.Queue[T | CallFailed] = asyncio.Queue()

    def put(self, reply: T | CallFailed) -> None:
        """An answer, or a part of one, has come; or none will come any more."""
        self._queue.put_nowait(reply)

    async def next(self) -> T:
        """The next answer. The caller bounds the time.

        Raises:
            CallFailed: this worker ends.
        """
        reply = await self._queue.get()
        if isinstance(reply, CallFailed):
            raise reply
        return reply


class Calls(Generic[T]):
    """The requests of one part of a worker that wait for their answers.

    Args:
        most: how many may wait at once.
    """

    def __init__(self, most: int = MAX_IN_FLIGHT) -> None:
        self._most = most
        self._numbers = count(1)
        self._waiting: dict[int, Replies[T]] = {}
        self._closed = False

    @property
    def in_flight(self) -> int:
        """How many requests wait for an answer."""
        return len(self._waiting)

    async def call(self, send: Callable[[int], Awaitable[int]], timeout: float) -> T:
        """Send a request and wait for its one answer.

        Args:
            send: sends the request with this number; returns how many workers received it.
            timeout: in seconds, for both.

        Raises:
            CallFailed: no receiver, no answer in time, the bus is down, or too many requests wait.
        """
        with self.open() as replies:
            try:
                async with asyncio.timeout(timeout):
                    if not await send(replies.number):
                        raise CallFailed("it does not listen", listens=False)
                    return await replies.next()
            except TimeoutError:
                raise CallFailed("it does not answer") from None
            except BusDown as problem:
                raise CallFailed("the bus is down") from problem

    @contextmanager
    def open(self) -> Iterator[Replies[T]]:
        """Take a number for a request; answers to it are collected until the block ends.

        Raises:
            CallFailed: too many requests wait, or this worker ends.
        """
        if self._closed:
            raise CallFailed("this worker ends")
        if len(self._waiting) >= self._most:
            raise CallFailed(f"{self._most} calls are in flight")
        replies = Replies[T](next(self._numbers))
        self._waiting[replies.number] = replies
        try:
            yield replies
        finally:
            del self._waiting[replies.number]

    def answer(self, number: int, reply: T) -> None:
        """An answer has come. A late one, or one to an unknown request, is dropped."""
        if (replies := self._waiting.get(number)) is not None:
            replies.put(reply)

    def close(self) -> None:
        """Fail those that wait, and all later ones: this worker ends. Idempotent."""
        self._closed = True
        for replies in self._waiting.values():
            replies.put(CallFailed("this worker ends"))


class BackgroundTasks:
    """Tasks that nothing waits for: kept until they end, and what they raise is logged.

    The event loop itself holds tasks weakly, so that one without another reference may vanish in the middle.

    Args:
        failed: the line of the log for one that has failed.
    """

    def __init__(self, failed: str) -> None:
        self._failed = failed
        self._tasks: set[asyncio.Future[None]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def start(self, work: Awaitable[None]) -> None:
        """Run this, from the loop's next turn on. A bus that is down is no failure."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._on_done)

    def cancel(self) -> None:
        """Cancel all of them. Idempotent."""
        for task in tuple(self._tasks):
            task.cancel()

    def _on_done(self, task: asyncio.Future[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (problem := task.exception()) is not None and not isinstance(problem, BusDown):
            log.error("%s", self._failed, exc_info=problem)


async def listen(bus: Bus, channel: str, deliver: Callable[[bytes], None]) -> None:
    """Subscribe to a channel, as soon as Redis is there."""
    while True:
        try:
            await bus.subscribe(channel, deliver)
            return
        except BusDown:
            await asyncio.sleep(LISTEN_PAUSE)
