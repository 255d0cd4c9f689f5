"""Sessions made ahead, in idle time: a page whose app takes seconds is answered in milliseconds.

A warm session is what the app's code has made of a request without arguments, under an id of its own. It is no session
yet: it is not claimed, no request finds it, none of its callbacks runs, and it is not stored. The page of a visitor
without arguments and without a session takes its id, and from then on all is as if the code had just run.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aperture.log_scope import SessionScope, session_scope
from aperture.worker.session.ahead import AskedTooEarly, Questions, ahead_origin, fulfil
from aperture.worker.session.host import AppHost, Origin, Prepared

if TYPE_CHECKING:
    from bokeh.document import Document

__all__ = ["WarmSessions"]

log = logging.getLogger(__name__)

RESERVED_TIME = 30.0
"""Seconds after which an id that a page has taken, and that no session was made of, is given up: the page was left."""


@dataclass(frozen=True, slots=True)
class _Warm:
    host: AppHost
    session_id: str
    prepared: Prepared
    questions: Questions
    """What its code has asked for so far: a task or a thread that it has started may ask later than the code itself."""
    made_at: float


@dataclass(slots=True)
class _Attempt:
    """One that is being made now."""

    url: str
    session_id: str
    done: asyncio.Future[None]
    promised: bool = False
    """Whether a page waits for it."""


class WarmSessions:
    """The sessions that one worker has made ahead.

    Args:
        hosts: the apps to make them of, by route.
        new_id: makes a session id.
        count: how many to have ready of each app; 0 for none.
        lifetime: seconds after which one is made anew.
        idle: whether a visitor would not notice now that app code runs on the event loop.
        clock: seconds that only grow.
        prepare_page: does ahead what else takes its time when a page shows such a document for the first time.
    """

    def __init__(
        self,
        hosts: Mapping[str, AppHost],
        new_id: Callable[[], str],
        *,
        count: int,
        lifetime: float,
        idle: Callable[[], bool],
        clock: Callable[[], float],
        prepare_page: Callable[[Document], object] = lambda document: None,
    ) -> None:
        self._hosts = dict(hosts) if count else {}
        self._new_id = new_id
        self._count = count
        self._lifetime = lifetime
        self._idle = idle
        self._clock = clock
        self._prepare_page = prepare_page
        self._ready: dict[str, deque[_Warm]] = {url: deque() for url in self._hosts}
        self._reserved: dict[str, tuple[_Warm, float]] = {}
        self._attempt: _Attempt | None = None
        self._turns = list(self._hosts)
        """The apps, the one last that a session was made of last."""
        self._given_up: set[str] = set()
        self._again_at: dict[str, float] = {}
        """When to try an app once more whose code has failed."""
        self._closed = False

    def ready(self, url: str) -> int:
        """How many sessions of an app are ready."""
        return len(self._ready.get(url, ()))

    def reserve(self, url: str) -> str | None:
        """Take a session that is ready, or one that is being made; returns its id for `take`, or None if there is none.

        To wait for the rest of that takes less time than to run the app's code behind it.
        """
        ready = self._ready.get(url)
        while ready:
            warm = ready.popleft()
            self._reserved[warm.session_id] = (warm, self._clock())
            self._count_ready(url)
            if warm.questions.asked is None and self._clock() - warm.made_at <= self._lifetime:
                return warm.session_id
        attempt = self._attempt
        if attempt is None or attempt.url != url or attempt.promised:
            return None
        attempt.promised = True
        return attempt.session_id

    def is_reserved(self, session_id: str) -> bool:
        """Whether a session of this id is ready, for the page that has reserved it."""
        return session_id in self._reserved

    async def take(self, session_id: str, origin: Origin) -> Prepared | None:
        """What was made ahead under a reserved id, from now on for this request; None for any other id.

        None also where the session was still being made, and its app was given up then.
        """
        attempt = self._attempt
        if attempt is not None and attempt.session_id == session_id:
            await asyncio.wait([attempt.done])
        reserved = self._reserved.pop(session_id, None)
        if reserved is None:
            return None
        warm, _ = reserved
        fulfil(warm.prepared.context, origin)
        warm.host.tally.warm_taken += 1
        return warm.prepared

    async def tend(self) -> None:
        """Discard what is too old, and make what is missing: one session, if that can be done unnoticed."""
        await self._discard_old()
        # In turn: an app whose sessions are taken as fast as they are made must not keep the others from theirs.
        for url in tuple(self._turns):
            host = self._hosts[url]
            wanted = url not in self._given_up and self._clock() >= self._again_at.get(url, 0.0)
            missing = wanted and len(self._ready[url]) < self._count
            if missing and not self._closed and (host.threaded or self._idle()):
                self._turns.remove(url)
                self._turns.append(url)
                await self._make(url, host)
                return

    async def close(self) -> None:
        """Make no more, and discard what is ready, and what was reserved for pages that did not come for it."""
        self._closed = True
        for url, ready in self._ready.items():
            while ready:
                await self._discard(ready.popleft())
            self._count_ready(url)
        while self._reserved:
            _, (warm, _) = self._reserved.popitem()
            await self._discard(warm)
        if self._attempt is not None:
            # Its end discards it: cut off, it would be created and never destroyed for the app's hooks.
            await asyncio.wait([self._attempt.done])

    async def _discard_old(self) -> None:
        now = self._clock()
        for url, ready in self._ready.items():
            while ready and now - ready[0].made_at > self._lifetime:
                await self._discard(ready.popleft())
            for warm in [warm for warm in ready if warm.questions.asked is not None]:
                self._give_up(url, warm.questions.asked or "other")
                ready.remove(warm)
                await self._discard(warm)
            self._count_ready(url)
        for session_id, (warm, since) in list(self._reserved.items()):
            if now - since > RESERVED_TIME and self._reserved.pop(session_id, None) is not None:
                await self._discard(warm)

    async def _make(self, url: str, host: AppHost) -> None:
        attempt = self._attempt = _Attempt(url, self._new_id(), asyncio.get_running_loop().create_future())
        try:
            warm = await self._prepare(host, attempt)
            if warm is None:
                return
            if attempt.promised:
                self._reserved[warm.session_id] = (warm, self._clock())
            else:
                self._ready[url].append(warm)
                self._count_ready(url)
        finally:
            self._attempt = None
            attempt.done.set_result(None)

    async def _prepare(self, host: AppHost, attempt: _Attempt) -> _Warm | None:
        """Make a session; None if its app is given up, or fails, or the worker ends."""
        url, session_id, questions = attempt.url, attempt.session_id, Questions()
        with session_scope(SessionScope(session_id, url)):
            try:
                prepared = await host.prepare(session_id, ahead_origin(questions), marked=True)
            except AskedTooEarly:
                self._give_up(url, questions.asked or "other")
                return None
            except Exception as problem:
                self._wait(url, type(problem).__name__)
                return None
        warm = _Warm(host, session_id, prepared, questions, self._clock())
        if questions.asked is not None:
            self._give_up(url, questions.asked)
        elif prepared.failed:
            self._wait(url, "its script fails")
        elif attempt.promised or not self._closed:
            self._prepare_page(prepared.document)
            return warm
        await self._discard(warm)
        return None

    def _give_up(self, url: str, reason: str) -> None:
        if url in self._given_up:
            return
        self._given_up.add(url)
        self._hosts[url].tally.warm_given_up[reason] += 1
        log.info("no session of %s is made ahead: its code asks for the visitor's %s", url, reason)

    def _wait(self, url: str, problem: str) -> None:
        self._hosts[url].tally.warm_given_up["error"] += 1
        self._again_at[url] = self._clock() + self._lifetime
        log.warning("making a session of %s ahead failed (%s); next attempt in %g s", url, problem, self._lifetime)

    def _count_ready(self, url: str) -> None:
        self._hosts[url].tally.warm_ready = len(self._ready[url])

    async def _discard(self, warm: _Warm) -> None:
        """End it as any session ends, its hooks included."""
        with session_scope(SessionScope(warm.session_id, warm.host.url)):
            await warm.host.abandon(warm.host.finish(warm.prepared))
        await asyncio.sleep(0)
