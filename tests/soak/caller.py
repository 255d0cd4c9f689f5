"""An unmodified `bokeh.client` that visits a session now and then, from a thread of its own."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from random import Random

from bokeh.client import pull_session
from bokeh.core.types import ID
from bokeh.document import Document
from soak.census import Census
from soak.ledger import Ledger
from support.patience import POLL

__all__ = ["Caller"]

PAUSE = (0.5, 2.0)
"""Seconds between two visits."""

VISIT_SECONDS = 60
"""Longer takes none that ends: Bokeh's client goes one call deeper with each patch that comes before an answer, and one
that comes too late finds Python's stack at its end, and the client waiting for ever."""


class Caller:
    """Visits one session, looks at it, moves its own cell, and leaves.

    Args:
        pages: the app's, on each node.
        session: the id.
        who: the number of its cell.
        ledger: of the session.
        census: of the run.
        chance: decides where to go.
        weak: as for a `Person`.
    """

    def __init__(
        self,
        pages: list[str],
        session: str,
        who: int,
        ledger: Ledger,
        census: Census,
        chance: Random,
        weak: Callable[[int], bool],
    ) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self._begun: float | None = None
        self._pages = pages
        self._session = session
        self._who = who
        self._ledger = ledger
        self._census = census
        self._chance = chance
        self._weak = weak
        self._stopped = threading.Event()
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, name="bokeh.client", daemon=True)
        logging.getLogger("bokeh.client").setLevel(logging.CRITICAL)  # it logs each end of a connection

    @property
    def busy(self) -> bool:
        """Whether it is on a visit that may yet end."""
        return self._begun is not None and time.monotonic() - self._begun < VISIT_SECONDS

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    async def stop(self) -> None:
        """End, with the visit that is under way."""
        self._stopped.set()
        self.gate.set()
        while self.busy:
            await asyncio.sleep(POLL)

    def _run(self) -> None:
        while not self._stopped.wait(self._chance.uniform(*PAUSE)):
            self._begun = time.monotonic()
            if self.gate.is_set():
                self._visit()
            self._begun = None
            self.gate.wait()

    def _visit(self) -> None:
        node = self._chance.randrange(len(self._pages))
        floor = list(self._ledger.floor)
        cells = range(0)
        try:
            with pull_session(url=self._pages[node], session_id=ID(self._session)) as session:
                self._tell(self._look, session.document, [0] * len(floor) if self._weak(node) else floor)
                number = self._ledger.sent[self._who] = self._ledger.sent[self._who] + 1
                cells = range(number, number + 1)
                session.document.get_model_by_name(f"cell-{self._who}").value = number  # type: ignore[union-attr]
                session.force_roundtrip()
        except Exception as problem:  # it has many ways to say that there is no connection
            self._tell(self._ledger.note, self._who, "bokeh.client", repr(problem)[:200])
            self._tell(self._ledger.leave_open, self._who, cells, None)
        else:
            self._tell(self._count)

    def _tell(self, act: object, *arguments: object) -> None:
        """The ledger belongs to the loop's thread."""
        assert callable(act)
        self._loop.call_soon_threadsafe(act, *arguments)

    def _count(self) -> None:
        self._census.operations["bokeh.client"] += 1

    def _look(self, document: Document, floor: list[int]) -> None:
        for other, least in enumerate(floor):
            value: int = document.get_model_by_name(f"cell-{other}").value  # type: ignore[union-attr]
            self._ledger.glimpsed(self._who, other, value, least)
