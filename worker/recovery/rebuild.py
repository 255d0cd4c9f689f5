"""Journals the sessions of a worker, and rebuilds sessions that another worker stored.

The app's code runs first, with the values set that the app has stored (`aperture.app_state`). If it makes the same
models as before, the stored document is laid over them. If it makes others, there are two cases. Without stored values
the code has changed, or makes something else each time: the session starts afresh. With stored values that is what
an app does that builds its document from them, and it alone can attach the right callbacks to what it builds; so the
document is the one that it has just made, and nothing is laid over it. An app that was changed by a deploy is treated
the same: its document is new, its values are what they were.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Protocol

from bokeh.document import Document
from bokeh.events import DocumentReady

from aperture.app_state import session_state
from aperture.document.current import invoke_with_curdoc
from aperture.errors import BusDown, Fenced, SessionGone, StateMismatch, StoredStateBroken, TooLarge, Unencodable
from aperture.log import short_id
from aperture.metrics import Tallies
from aperture.registry.snapshots import StoredState
from aperture.wire.session_key import session_key_of
from aperture.worker.document.snapshot import fits, lay_over, replay, stored_values, was_held
from aperture.worker.recovery.journal import JournalStore, SessionJournal
from aperture.worker.recovery.origin import pack_origin, unpack_origin
from aperture.worker.session.durability import Lost
from aperture.worker.session.host import Origin
from aperture.worker.session.session import Session
from aperture.worker.session.turns import Turns

__all__ = ["RecoverableSession", "RecoveryStore", "RedisRecovery"]

log = logging.getLogger(__name__)


ENTRIES_AT_ONCE = 25
"""Patches that are laid over a document in one piece: a few milliseconds, in which no other session is served."""


class RecoveryStore(JournalStore, Protocol):
    """Where sessions are stored; see `aperture.registry.snapshots.SnapshotStore`."""

    async def load(self, session_key: str) -> StoredState | None: ...

    async def exists(self, session_key: str) -> bool: ...

    async def forget(self, session_key: str, epoch: int) -> None: ...

    async def touch(self, session_keys: Iterable[str]) -> set[str]: ...


class RecoverableSession:
    """A session that another worker had, ready to be built again.

    Args:
        origin: what the app's code must run with.
        made: fingerprint of the document that it made then.
        stored: the state since.

    Raises:
        StateMismatch: the values in it are damaged.
    """

    def __init__(self, origin: Origin, made: str, stored: StoredState) -> None:
        self.origin = replace(origin, values=stored_values(stored.snapshot, stored.entries))
        self.remade = False
        """Whether the app has made another document than before, from the values that it had stored."""
        self._made = made
        self._stored = stored

    async def restore(self, session: Session) -> None:
        """Bring a session whose app code has just run to the stored state. It must not be published yet.

        Raises:
            StateMismatch: the app made another document than then, and not from its values, or the state is damaged.
        """
        document, values = session.document, self.origin.values
        # Ids are counted, so two models that have nothing to do with each other could have the same one in two such
        # runs. With values, models must therefore have the same names, too: an app that builds models from values
        # names them after what they stand for, and no callback gets another's model.
        self.remade = not fits(document, self._made, names=bool(values))
        if self.remade and not values:
            raise StateMismatch("the app's code does not make the same document again")
        # In the order of then: what the app's code began was done when the page was ready.
        await session.rest(session.framework.settles)
        # What an app does when its page is ready, such as starting a periodic callback, was done for this page once.
        await session.locked(lambda: _tell_ready(document), app_code=True)
        await session.rest(session.framework.settles)
        # Models that the app's code made and that are in no document any more: the snapshot may refer to them.
        made = session.held.take_made()
        if self.remade:
            return
        lay_over(document, self._stored.snapshot, made)
        for number, entry in enumerate(self._stored.entries, 1):
            replay(document, entry, made)
            # A journal may have a thousand patches, and other sessions are served here.
            if number % ENTRIES_AT_ONCE == 0:
                await asyncio.sleep(0)
        # The app's code may have set them to what they are at first.
        session_state(document).lay(values)
        session.held.resume(held=was_held(self._stored.snapshot, self._stored.entries))
        with session.held.ids.active(), session.held.callbacks.unnoticed():
            session.framework.restored(document)


def _tell_ready(document: Document) -> None:
    """Run the document's callbacks for a page that is ready. One that fails costs the page no more than it did then."""
    try:
        invoke_with_curdoc(document, lambda: document.callbacks.trigger_event(DocumentReady()))
    except Exception:
        log.exception("a callback for the page that is ready has failed")


class RedisRecovery:
    """The journals of a worker's sessions.

    Args:
        store: where sessions are stored.
        acknowledge: answer a change only when it is in Redis (`--durability ack`).
        tallies: count what becomes of sessions.
    """

    def __init__(self, store: RecoveryStore, *, acknowledge: bool, tallies: Tallies | None = None) -> None:
        self.enabled = True
        self._tallies = tallies
        self._store = store
        self._acknowledge = acknowledge
        self._journals: dict[str, SessionJournal] = {}
        self._turns = Turns()
        self.outcomes: dict[str, int] = {"restored": 0, "remade": 0, "fresh": 0}

    async def find(self, app: str, session_id: str) -> RecoverableSession | None:
        """The stored state of a session that has just been claimed; None if there is none, or it is damaged.

        Raises:
            BusDown: unknown. Starting afresh could overwrite a stored session.
        """
        session_key = session_key_of(app, session_id)
        try:
            stored = await self._store.load(session_key)
            if stored is None:
                return None
            return RecoverableSession(*unpack_origin(stored.origin), stored)
        except (StoredStateBroken, StateMismatch) as problem:
            # Damaged is not unknown: what is broken in Redis stays broken, so the session starts without it.
            self.failed(app, session_id, problem)
            return None

    async def exists(self, app: str, session_id: str) -> bool:
        """Whether a session could be built again.

        Raises:
            BusDown: that cannot be found out now.
        """
        try:
            return await self._store.exists(session_key_of(app, session_id))
        # It would be replaced by a session that starts afresh.
        except StoredStateBroken:
            return False

    def restored(self, session: Session) -> None:
        """Count a session that was restored here."""
        self._count(session.app, "restored")
        log.info("session restored: %s of %s", short_id(session.id), session.app)

    def remade(self, session: Session) -> None:
        """Count a session that continues here with another document, made from its values."""
        self._count(session.app, "remade")
        log.info("session remade from its values: %s of %s", short_id(session.id), session.app)

    def failed(self, app: str, session_id: str, problem: Exception) -> None:
        """Count a session that could not be built again and starts afresh."""
        self._count(app, "fresh")
        log.warning("session starts afresh: %s of %s, %s", short_id(session_id), app, problem)

    def _count(self, app: str, outcome: str) -> None:
        self.outcomes[outcome] += 1
        if self._tallies is not None and (tally := self._tallies.apps.get(app)) is not None:
            tally.restores[outcome] += 1

    async def watch(self, session: Session, origin: Origin, made: str, *, again: bool, lost: Lost) -> None:
        """Write this session down from now on.

        Args:
            session: at its beginning, or just restored.
            origin: what it was created from.
            made: fingerprint of the document that the app's code made.
            again: it was just restored: write it down before anybody changes it.
            lost: called when it turns out to be another worker's.

        Raises:
            SessionGone: it was just restored, and has been claimed by another meanwhile.
        """
        session_key = session_key_of(session.app, session.id)
        packed = pack_origin(origin, made)
        journal = SessionJournal(
            session,
            session_key,
            packed,
            self._store,
            turns=self._turns,
            at_once=self._acknowledge,
            fenced=lost,
        )
        # Before it is awaited: a fenced write calls `lost`, which looks for it here.
        self._journals[session_key] = journal
        # In the same turn of the loop: a change in between would be in no journal.
        session.begin_journal(journal)
        if again:
            try:
                await journal.settle()
            except SessionGone:
                self.drop(session)
                raise

    async def forget(self, session: Session) -> None:
        """The session has ended normally: delete what is stored of it."""
        # First: a write that came behind the deletion would bring the session back.
        self.drop(session)
        try:
            await self._store.forget(session_key_of(session.app, session.id), session.fanout.epoch)
        # Deleted by its epoch: a session of the same id that was claimed since is not touched.
        except (BusDown, Fenced):
            log.debug("a stored session was not deleted: it expires by itself")

    def drop(self, session: Session) -> None:
        """Stop journaling this session; what is stored belongs to its next owner."""
        journal = self._journals.pop(session_key_of(session.app, session.id), None)
        if journal is not None:
            journal.close()

    async def write_down(self, session: Session) -> bool:
        """Write what is pending of one session; says whether Redis has all of it.

        Raises:
            BusDown: Redis is down.
        """
        session_key = session_key_of(session.app, session.id)
        journal = self._journals.get(session_key)
        if journal is None:
            return False
        # What they mean for this session is in `safe`, below.
        with suppress(Fenced, StoredStateBroken, SessionGone, TooLarge, Unencodable):
            await journal.flush()
        # With nothing pending, the journal has asked nothing: Redis may be down, or may have been emptied since.
        return journal.safe and not await self._store.touch([session_key])

    async def touch(self) -> None:
        """Extend the expiry of stored sessions, and store again what Redis lost. Called periodically and at shutdown.

        Raises:
            BusDown: unknown.
        """
        # A copy: sessions come and go while Redis answers.
        for session_key in await self._store.touch(list(self._journals)):
            if (journal := self._journals.get(session_key)) is not None:
                journal.lost()

    async def flush(self, timeout: float) -> None:
        """Write all pending patches, and sessions that Redis has lost, at the worker's shutdown."""
        # First: of a session that Redis has lost, the flush below then stores all and not only what is pending.
        with suppress(BusDown, TimeoutError):  # what is pending may get through all the same
            await asyncio.wait_for(self.touch(), timeout / 2)
        journals: Mapping[str, SessionJournal] = dict(self._journals)
        # All at once: they share the connection, and one that waits for its document must not hold up the others.
        flushes = [asyncio.ensure_future(journal.flush()) for journal in journals.values()]
        if flushes:
            done, late = await asyncio.wait(flushes, timeout=timeout / 2)
            for flush in late:
                flush.cancel()
            failed = [flush for flush in done if flush.exception() is not None]
            if late or failed:
                log.warning("%d sessions were not written down in time", len(late) + len(failed))
