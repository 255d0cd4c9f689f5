"""Finds app code that keeps a session's document, a thread or the event loop for long, and says where it is.

A thread of its own looks a few times a second, because what is to be found is a loop that does nothing else any more.
The paths of patches know nothing of it: a hold that lasts has the same batch at each look, a thread the same stay, and
a loop that is free answers between two looks.

What is found is logged once, as long as it lasts, with the line of app code that runs now. That line is looked for in
the frames of the thread; of a coroutine that waits for something, in the frames of its task, by the loop.
"""

from __future__ import annotations

import asyncio
import logging
import site
import sys
import sysconfig
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import CoroutineType, FrameType
from typing import Any

import bokeh
import tornado

from aperture.log_scope import SessionScope, session_scope, short_id
from aperture.worker.app_threads import AppThreads
from aperture.worker.session.host import AppHost
from aperture.worker.session.session import Session

__all__ = ["Watchdog", "line_of_app_code"]

log = logging.getLogger(__name__)

LOOKS = 4
"""Within the time after which code counts as slow; what is found is late by one of them at most."""

MOST_BETWEEN = 0.5
"""Seconds between two looks at most."""

MOST_FRAMES = 500
"""Of a stack that are looked at: an endless recursion has a thousand."""

# Looked up, for importing it would be a circle: the package's root knows the composition roots.
_OURS = sys.modules[__name__.partition(".")[0]]

_NOT_APPS = tuple(
    folder
    for folder in (
        *(path for module in (_OURS, bokeh, tornado) for path in module.__path__),
        *(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")),
        *site.getsitepackages(),
        "<frozen",
    )
    if folder
)
"""Where the code of libraries is."""


@dataclass(frozen=True, slots=True)
class _Seen:
    """Something that was there at the last look.

    Args:
        since: when it was seen first.
        reported: whether it has been logged.
    """

    since: float
    reported: bool


class _Loop:
    """Stands for the event loop, among what may be kept for long, until it answers."""


class Watchdog:
    """Watches the app code of one worker.

    Args:
        hosts: the apps by route.
        threads: those that app code runs in, if there are any.
        slow: seconds after which it is logged.
    """

    def __init__(self, hosts: Mapping[str, AppHost], threads: AppThreads | None, *, slow: float) -> None:
        self._hosts = hosts
        self._threads = threads
        self._slow = slow
        self._interval = min(MOST_BETWEEN, slow / LOOKS)
        self._seen: dict[object, _Seen] = {}
        self._now = 0.0
        """Seconds that were watched: those in which this process stood still are none that app code has taken."""
        self._ended = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._loop_thread = 0
        self._asked: _Loop | None = None
        """Set until the loop answers."""

    def start(self) -> None:
        """Begin to watch; from the loop's own thread."""
        self.attach()
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def attach(self) -> None:
        """Watch the running loop, at each `look`."""
        self._loop, self._loop_thread = asyncio.get_running_loop(), threading.get_ident()

    def stop(self) -> None:
        """Watch no more. Idempotent."""
        self._ended.set()

    def _watch(self) -> None:
        last = time.monotonic()
        while not self._ended.wait(self._interval):
            now = time.monotonic()
            try:
                self.look(min(now - last, 2 * self._interval))
            except RuntimeError:  # the loop is closed
                return
            except Exception:
                log.exception("the watchdog has failed, and goes on")
            last = now

    def look(self, passed: float) -> None:
        """Look once.

        Args:
            passed: seconds since the last time.
        """
        self._now += passed
        seen: dict[object, _Seen] = {}
        for key, report in self._kept():
            found = self._seen.get(key) or _Seen(self._now, False)
            if not found.reported and self._now - found.since >= self._slow:
                report(self._now - found.since)
                found = _Seen(found.since, True)
            seen[key] = found
        self._seen = seen

    def _kept(self) -> Iterator[tuple[object, Callable[[float], None]]]:
        """All that is kept now, each with what logs it."""
        for stay in () if self._threads is None else self._threads.stays:
            yield stay, lambda lasted, stay=stay: self._report(stay.scope, lasted, _frame_of(stay.thread))  # type: ignore[misc]
        for session in self._sessions():
            batch = session.held.batch
            if batch is not None and not session.stays.busy:
                yield batch, lambda lasted, session=session: self._report_hold(session, lasted)  # type: ignore[misc]
        asked = self._asked
        if asked is None:
            # Held on to here: the loop may answer, and so forget it, before this goes on.
            asked = self._asked = _Loop()
            assert self._loop is not None, "start has been called"
            self._loop.call_soon_threadsafe(self._answer)
        yield asked, self._report_loop

    def _answer(self) -> None:
        self._asked = None

    def _sessions(self) -> Iterator[Session]:
        for host in self._hosts.values():
            yield from tuple(host.sessions_by_id.values())

    # Reports

    def _report_hold(self, session: Session, lasted: float) -> None:
        frame = _frame_of(self._loop_thread)
        if any(found is session for found in _served(_outward(frame))):
            self._report(session.held.scope, lasted, frame)
            return
        assert self._loop is not None, "start has been called"
        self._loop.call_soon_threadsafe(self._report_task, session, session.held.batch, lasted)

    def _report_task(self, session: Session, batch: object, lasted: float) -> None:
        """On the loop: app code that awaits something in a hold."""
        if session.held.batch is not batch:
            return  # over by now
        for task in asyncio.all_tasks():
            frames = list(_awaited(task.get_coro()))
            if any(found is session for found in _served(frames)):
                self._report(session.held.scope, lasted, None, frames[::-1])
                return
        self._report(session.held.scope, lasted, None)

    def _report_loop(self, lasted: float) -> None:
        """The loop runs something that is no hold: a session is made, a callback without the lock or a hook runs."""
        frame = _frame_of(self._loop_thread)
        for found in _served(_outward(frame)):
            if isinstance(found, AppHost):
                self._report(SessionScope("", found.url), lasted, frame)
                return
            if found.held.batch is None:
                self._report(found.held.scope, lasted, frame)
            return  # else the hold is reported
        log.warning("slow: the event loop has been kept for %.1f s, now %s", lasted, line_of_app_code(_outward(frame)))

    def _report(
        self, scope: SessionScope | None, lasted: float, frame: FrameType | None, frames: list[FrameType] | None = None
    ) -> None:
        where = line_of_app_code(_outward(frame) if frames is None else iter(frames))
        if scope is None:
            log.warning("slow callback: app code has run for %.1f s, now %s", lasted, where)
            return
        host = self._hosts.get(scope.app)
        if host is not None:
            host.tally.slow_callbacks += 1
        with session_scope(scope):
            whose = f"session {short_id(scope.session_id)} of {scope.app}" if scope.session_id else scope.app
            log.warning("slow callback: app code of %s has run for %.1f s, now %s", whose, lasted, where)


def line_of_app_code(frames: Iterator[FrameType]) -> str:
    """Where app code is, from the innermost frame on; and where in a library, if it has called one."""
    innermost = ""
    for frame in frames:
        line = f"at {frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}"
        if not frame.f_code.co_filename.startswith(_NOT_APPS):
            return f"{line}, {innermost}" if innermost else line
        innermost = innermost or line
    return innermost or "nowhere"


def _frame_of(thread: int) -> FrameType | None:
    """What a thread executes now."""
    return sys._current_frames().get(thread)


def _outward(frame: FrameType | None) -> Iterator[FrameType]:
    for _ in range(MOST_FRAMES):
        if frame is None:
            return
        yield frame
        frame = frame.f_back


def _served(frames: Iterable[FrameType]) -> Iterator[Session | AppHost]:
    """The sessions and apps that our own code works for in these frames, in their order."""
    for frame in frames:
        if frame.f_globals.get("__name__", "").startswith("aperture.worker."):
            for value in tuple(frame.f_locals.values()):
                if isinstance(value, Session | AppHost):
                    yield value


def _awaited(coroutine: Any) -> Iterator[FrameType]:
    """The frames of a coroutine that is suspended, and of what it awaits, from the outermost on."""
    while isinstance(coroutine, CoroutineType):
        if coroutine.cr_frame is None:
            return
        yield coroutine.cr_frame
        coroutine = coroutine.cr_await
