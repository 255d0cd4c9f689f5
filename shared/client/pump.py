"""What happens in the calling thread while a blocking call waits: what has arrived is taken, and what is due is run.

Nothing of a document happens outside of `wait`, `pause`, `turn` and `take_all`, so the program that owns the document
never finds it changed between two of its own calls.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from collections.abc import Callable

from aperture.client.callers_loop import AnyLoop, CallersLoop
from aperture.client.connect_options import ClientOptions
from aperture.client.incoming import Inbox, Item
from aperture.client.timers import Agenda, Entry
from aperture.errors import LoopBlocked, ServerSilent

__all__ = ["Pump", "blocked"]

log = logging.getLogger(__name__)


class Pump:
    """Empties one session's inbox, and runs its document's timed callbacks.

    Args:
        options: of the session, for its timeout, and its names in errors and logs.
        io_loop: run while a call waits, if it is not running; the connection has a loop of its own.
        take: acts on one item of the inbox.
    """

    def __init__(self, options: ClientOptions, io_loop: AnyLoop | None, take: Callable[[Item], None]) -> None:
        self.loop = CallersLoop(io_loop)
        self.inbox = Inbox(on_news=self.loop.ring)
        self.agenda = Agenda(time.monotonic, self.inbox.wake)
        self.runs_callbacks = False
        """Off until a first `pull` or `push` has returned: callbacks may use the session that `pull_session` or
        `push_session` is still to return."""
        self._options = options
        self._take = take

    def wait(self, until: Callable[[], bool], what: str, patience: float | None = None) -> None:
        """Take what arrives until the condition holds.

        Args:
            until: the condition.
            what: the server has not done if it never holds, for the error's text.
            patience: seconds that the server has for it; by default the session's timeout.

        Raises:
            ServerSilent: it does not hold within that time.
        """
        seconds = self._options.timeout if patience is None else patience
        deadline = time.monotonic() + seconds
        while not until():
            if time.monotonic() >= deadline:
                raise blocked(ServerSilent(f"the server at {self._options.websocket_url} {what} within {seconds:g} s"))
            self.turn(deadline)

    def pause(self, seconds: float) -> None:
        """Take what arrives for so long."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.turn(until)

    def turn(self, until: float | None) -> None:
        """Process one item of the inbox, or wait for one, and run the callbacks that are due."""
        due = self.agenda.next_due() if self.runs_callbacks else None
        limit = until if due is None else due if until is None else min(due, until)
        item = self._next_item(limit)
        if item is not None:
            self._take(item)
        for entry in self.agenda.take_due() if self.runs_callbacks else ():
            self._run_callback(entry)

    def take_all(self) -> None:
        """Take what has arrived by now, and wait for nothing."""
        while (item := self.inbox.get(0)) is not None:
            self._take(item)

    def _next_item(self, until: float | None) -> Item | None:
        if not self.loop.rests:
            return self.inbox.get(until)
        # One turn of the loop also where something waits already: a server on it must not starve.
        self.loop.run_until_rung(until if self.inbox.empty else 0)
        return self.inbox.get(0)

    def _run_callback(self, entry: Entry) -> None:
        started = time.monotonic()
        try:
            result = entry.callback()
            if inspect.isawaitable(result):
                self.loop.run(result)
        except Exception:
            log.exception("timed callback failed: session %s..., it stays scheduled", self._options.session_id[:8])
        self.agenda.finished(entry, started)


def blocked(problem: ServerSilent) -> ServerSilent:
    """The error, or one that names the likely cause if an event loop runs in this thread."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return problem
    return LoopBlocked(
        f"{problem}. This call blocks the event loop that runs in this thread: if the server runs on that loop, it"
        " cannot answer. There, use `await aperture.client.connect(...)`, or `async with`"
    )
