"""Where app code runs: on the event loop, as in Bokeh, or in threads of the worker (`--num-threads`).

App code that waits, or computes, holds up everything else on the loop. In a thread it holds up its own session only.
One hold of a document is one stay in one thread, from decoding a message to the last of its callbacks; the loop frames
and sends what comes of it. Sessions are made one at a time, in a thread of their own: Bokeh changes the search path,
the arguments and the working directory of the whole process for an app's script, and eight callbacks that wait must not
keep a new visitor out.

The loop never blocks for a thread. A thread never waits for the loop: what it wants of it, it only leaves there.

The threads begin after the fork, when there is something to do. They are daemons: one that does not come back must not
keep the worker from ending.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import sys
import threading
import time
from collections.abc import Callable
from concurrent import futures
from contextvars import Context, ContextVar, copy_context
from functools import partial
from queue import SimpleQueue
from typing import Any, Generic, Protocol, TypeVar

from tornado.gen import is_coroutine_function

from aperture.errors import AppQuit
from aperture.inheritance import end_if_forked
from aperture.log_scope import SESSION, SessionScope
from aperture.metrics import ThreadTally

__all__ = ["ON_LOOP", "QUITTING", "STAY", "AppCode", "AppThreads", "Stay", "called", "contained", "stays_on_loop"]

log = logging.getLogger(__name__)

T = TypeVar("T")

SWITCH_INTERVAL = 0.0005
"""Seconds after which a thread that computes gives way to one that waits for the interpreter. A round trip waits for it
several times, each time for this long. Beside one thread that computes, 99 of 100 round trips of seven other sessions
took 195 ms at most with Python's own 5 ms, 41 with 1 ms, 23 with this and 16 with 0.2 ms; what the thread got done was
the same within 4 percent."""


QUITTING = (SystemExit, GeneratorExit, asyncio.CancelledError)
"""What code that is not async may raise, and what would end the event loop, or the task that has called it. Code
that does not await is cancelled by nothing. `KeyboardInterrupt` is not among them: on the loop it may be the program's
own."""


def contained(problem: BaseException) -> AppQuit:
    """What is raised in place of what app code has raised that would end more than that code.

    A process that the code has forked ends here.
    """
    end_if_forked(problem)
    raised = AppQuit(f"app code has raised {type(problem).__name__}")
    raised.__cause__ = problem
    return raised


def called(func: Callable[[], T]) -> T:
    """Call app code, which ends nothing but itself.

    Raises:
        AppQuit: it would have ended more.
    """
    try:
        return func()
    except QUITTING as problem:
        raise contained(problem) from problem


class AppCode(Protocol):
    """Runs app code that is not async. All calls come from the event loop."""

    @property
    def threaded(self) -> bool:
        """Whether it runs beside the event loop."""
        ...

    def start(self, func: Callable[[], T]) -> asyncio.Future[T]:
        """Run a function to its end, in a copy of the caller's context. Cancelling the future does not stop it."""
        ...

    def make(self, func: Callable[[], T]) -> asyncio.Future[T]:
        """As `start`, after all that came by this before: one at a time."""
        ...


class _OnLoop:
    """App code runs at once, on the event loop."""

    threaded = False

    def start(self, func: Callable[[], T]) -> asyncio.Future[T]:
        raise AssertionError("without threads, app code is called")

    make = start


ON_LOOP = _OnLoop()


class Stay(Generic[T]):
    """One function, from the call for a thread to its end."""

    __slots__ = ("_context", "_func", "asked", "done", "over", "owner", "scope", "started", "thread")

    def __init__(self, func: Callable[[], T], done: asyncio.Future[T]) -> None:
        self._func = func
        self._context: Context = copy_context()
        self.done = done
        self.scope: SessionScope | None = SESSION.get()
        """The session that it runs for."""
        self.owner = asyncio.current_task()
        """The task that waits for it, and may have locked a document for it."""
        self.over = False
        self.asked = time.monotonic()
        self.started = 0.0
        self.thread = 0
        """Of the thread that runs it, its ident."""

    def run(self) -> Callable[[], None]:
        """Run it, in a thread; returns what tells of it on the loop."""
        self.started = time.monotonic()
        self.thread = threading.get_ident()
        func, context = self._func, self._context
        # The context refers to this: with them here, what they hold of a session would wait for the garbage collector.
        del self._func, self._context
        context.run(STAY.set, self)
        try:
            result = context.run(func)
        except (StopIteration, KeyboardInterrupt, *QUITTING) as problem:  # no future takes the first
            return partial(self._fail, contained(problem))
        except BaseException as problem:
            end_if_forked(problem)
            return partial(self._fail, problem)
        finally:
            self.over = True
        end_if_forked()
        return partial(self._succeed, result)

    @property
    def awaits_result(self) -> bool:
        """Whether its thread blocks until a task of the loop is done (`run_coroutine_threadsafe(...).result()`)."""
        frame = None if self.over else sys._current_frames().get(self.thread)
        for _ in range(_FRAMES_OF_RESULT):
            if frame is None:
                return False
            if frame.f_code in _WAITS_OF_THREADS:
                return True
            frame = frame.f_back
        return False

    def _succeed(self, result: T) -> None:
        if not self.done.done():
            self.done.set_result(result)

    def _fail(self, problem: BaseException) -> None:
        if not self.done.done():
            self.done.set_exception(problem)


STAY: ContextVar[Stay[Any] | None] = ContextVar("aperture_stay", default=None)
"""The stay that code runs in, or that has left it to the loop."""

_WAITS_OF_THREADS = frozenset(
    wait.__code__ for wait in (futures.Future.result, futures.Future.exception, futures.wait, futures.as_completed)
)
_FRAMES_OF_RESULT = 5
"""Of what `concurrent.futures` calls to wait for a result."""


class _Pool:
    """Threads that take what is to be done in the order of asking."""

    def __init__(self, size: int, name: str, tally: ThreadTally) -> None:
        self._size = size
        self._name = name
        self._tally = tally
        self._queue: SimpleQueue[Stay[Any] | None] = SimpleQueue()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._threads = 0
        self._unfinished = 0
        """Stays that wait for a thread or have one; the loop's to count."""
        self.running: dict[int, Stay[Any]] = {}
        """By the number of their thread. Each thread writes its own."""

    def start(self, func: Callable[[], T]) -> asyncio.Future[T]:
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = self._loop.create_future()
        self._unfinished += 1
        # What a thread has left to the loop may be what it waits for: it must not wait for that thread's place.
        behind = STAY.get()
        most = self._size if behind is None or behind.over else 2 * self._size
        if self._threads < min(self._unfinished, most):
            self._add_thread()
        self._queue.put(Stay(func, done))
        return done

    def close(self) -> None:
        """End the threads that have nothing to do, and the others when they are done. Idempotent."""
        for _ in range(self._threads):
            self._queue.put(None)
        self._threads = 0

    def _add_thread(self) -> None:
        number = self._threads
        self._threads += 1
        threading.Thread(
            target=self._work, args=(number, self._loop), name=f"{self._name} {number}", daemon=True
        ).start()

    def _work(self, number: int, loop: asyncio.AbstractEventLoop) -> None:
        while (stay := self._queue.get()) is not None:
            self.running[number] = stay
            # Not the running one of this thread: but `IOLoop.current().add_callback` of app code finds the worker's
            # loop, and not a new one that never runs. Each time: `asyncio.run` leaves a thread without one.
            asyncio.set_event_loop(loop)
            finish = stay.run()
            self.running.pop(number, None)
            try:
                loop.call_soon_threadsafe(self._finish, stay, finish)
            except RuntimeError:  # the loop is closed: nothing waits for it any more
                return
            del stay, finish  # not kept while this waits for the next one

    def _finish(self, stay: Stay[Any], finish: Callable[[], None]) -> None:
        self._unfinished -= 1
        self._tally.waited.observe(stay.started - stay.asked)
        finish()


class AppThreads:
    """App code runs in threads.

    Args:
        count: of those for changes, events, timers and hooks; one more makes sessions.
        tally: counts how long they are waited for.
    """

    threaded = True

    def __init__(self, count: int, tally: ThreadTally) -> None:
        self._callbacks = _Pool(count, "app code", tally)
        self._making = _Pool(1, "session making", tally)
        tally.busy = lambda: len(self.stays)

    @property
    def stays(self) -> list[Stay[Any]]:
        """What is running now. For any thread."""
        return [*tuple(self._callbacks.running.values()), *tuple(self._making.running.values())]

    @property
    def making(self) -> Stay[Any] | None:
        """The session that is being made now."""
        return next(iter(tuple(self._making.running.values())), None)

    def open(self) -> None:
        """Make the interpreter change threads often enough; for the whole process."""
        sys.setswitchinterval(min(sys.getswitchinterval(), SWITCH_INTERVAL))

    def start(self, func: Callable[[], T]) -> asyncio.Future[T]:
        """As `AppCode.start`."""
        return self._callbacks.start(func)

    def make(self, func: Callable[[], T]) -> asyncio.Future[T]:
        """As `AppCode.make`."""
        return self._making.start(func)

    def close(self) -> None:
        """Let the threads end that can. Idempotent."""
        self._callbacks.close()
        self._making.close()


def stays_on_loop(func: Callable[..., Any]) -> bool:
    """Whether this is a function of the event loop's: async, or one of Tornado's coroutines.

    Those that are not, and return something to await, run in a thread until they return it.
    """
    inner: Any = func
    while True:
        if inspect.iscoroutinefunction(inner) or is_coroutine_function(inner):
            return True
        if isinstance(inner, partial):
            inner = inner.func
        elif hasattr(inner, "__wrapped__"):
            inner = inner.__wrapped__
        else:
            return inspect.iscoroutinefunction(type(inner).__call__)
