"""Early pages (`--early-pages`): a session that is being made, for a page that is there already.

A page's frame holds a token and no model, so it can be sent when its session is claimed. The app's code runs while
the browser loads BokehJS; the websocket waits for the session, wherever it comes in. Only one thing has to be known of
the app before: that its pages are Bokeh's own, in which nothing but the models is the session's.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from enum import Enum, auto
from typing import Any

from bokeh.core.templates import FILE
from bokeh.document import Document

from aperture.errors import NotTheirs, PageRefused
from aperture.protocol.closing import INTERNAL_ERROR

__all__ = ["Framing", "Making", "app_failed", "is_plain"]

log = logging.getLogger(__name__)

LONGEST_HELD = 10.0
"""Seconds, at most, from the claim of a session to its code. A browser that has not loaded the scripts by then is gone
or has a slow line; one that says nothing comes with its websocket when it has them."""


class _Pages(Enum):
    """What is known of an app's pages. From UNKNOWN to either of the others, from PLAIN to OWN, and never back."""

    UNKNOWN = auto()
    PLAIN = auto()
    OWN = auto()


class Framing:
    """Learns from an app's sessions whether its pages can be sent before them. One for each app and worker.

    Args:
        app: the route.
        wanted: whether there are early pages of this app at all.
    """

    def __init__(self, app: str, *, wanted: bool) -> None:
        self._app = app
        self._pages = _Pages.UNKNOWN if wanted else _Pages.OWN

    @property
    def possible(self) -> bool:
        """Whether the next page can be an early one. The first page of an app never is."""
        return self._pages is _Pages.PLAIN

    def learn(self, document: Document) -> None:
        """Look at the document of a new session."""
        if not is_plain(document):
            self.give_up("their sessions set a template")
        elif self._pages is _Pages.UNKNOWN:
            self._pages = _Pages.PLAIN

    def give_up(self, reason: str) -> None:
        """Have ordinary pages from now on; the log says so once. Idempotent.

        Args:
            reason: for the log.
        """
        if self._pages is _Pages.OWN:
            return
        self._pages = _Pages.OWN
        log.info("no pages of %s are sent before their sessions: %s", self._app, reason)


def is_plain(document: Document) -> bool:
    """Whether the page of this document is Bokeh's own, with nothing in it but its models and title."""
    return document.template is FILE and not document.template_variables


def app_failed() -> PageRefused:
    """What the websocket of a page learns whose session could not be made."""
    return PageRefused("the app could not start", INTERNAL_ERROR)


class Making:
    """A session that is being made; `aperture.worker.session.store.SessionStore` has one for each.

    Args:
        user: that it is made for, as text; None where users have no names.
        held: whether its code waits until `go`, so that the event loop can send the page and its scripts before.
    """

    def __init__(self, user: str | None, *, held: bool) -> None:
        self._user = user
        self._may_run = asyncio.Event()
        if not held:
            self._may_run.set()
        self.claimed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when the session is this worker's; fails with what has kept it from that."""
        self.epoch: int | None = None
        """At which this worker has claimed it."""
        self.lost = False
        """Whether another worker has claimed it since."""
        self.frames: list[tuple[str, Callable[[Document], bool]]] = []
        """The tokens of pages that were sent meanwhile, and whether each suits the document."""

    @property
    def held(self) -> bool:
        """Whether its code waits."""
        return not self._may_run.is_set()

    def go(self) -> None:
        """Let the code run. Idempotent."""
        self._may_run.set()

    async def may_run(self) -> None:
        """Return when the code may run; after `LONGEST_HELD`, whether or not anybody has said so."""
        with suppress(TimeoutError):
            async with asyncio.timeout(LONGEST_HELD):
                await self._may_run.wait()

    def check_user(self, user: str | None) -> None:
        """As `aperture.worker.session.session.Session.check_user`.

        Raises:
            NotTheirs: it is made for another user.
        """
        if user is not None and user != self._user:
            raise NotTheirs("the session is another user's")

    def follow(self, task: asyncio.Future[Any]) -> None:
        """Fail `claimed` if the task that makes the session ends before it."""
        task.add_done_callback(self._on_end)

    def _on_end(self, task: asyncio.Future[Any]) -> None:
        # Asked for here: no page may be left that would, where it was an early one.
        problem = None if task.cancelled() else task.exception()
        if self.claimed.done():
            return
        if problem is None:
            self.claimed.cancel()
        else:
            self.claimed.set_exception(problem)
            # What waits for the session gets the same from its task.
            self.claimed.exception()
