"""How one viewer gets to the present: by the whole document, or by what it has missed.

Both are read in a hold, so that the patches that follow begin where they end.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from aperture.errors import SessionGone
from aperture.protocol.closing import TRY_AGAIN_LATER
from aperture.worker.patch.batch import unshown
from aperture.worker.patch.pulls import LARGE, Pulls
from aperture.worker.patch.refresh import Refresh

if TYPE_CHECKING:
    from aperture.protocol.frames import FrameRun
    from aperture.protocol.messages import FramedDocument
    from aperture.worker.patch.hold import HeldDocument, Hold
    from aperture.worker.patch.viewer import Viewer
    from aperture.worker.session.framework import Framework
    from aperture.worker.session.known_pages import KnownPages

__all__ = ["CatchUp"]


class CatchUp:
    """Gives one session's viewers the present state of its document.

    Args:
        held: the document.
        pages: that have pulled it.
        framework: that the app is written with.
        pulls: what all sessions of the worker share for those who ask for a whole document.
    """

    def __init__(self, held: HeldDocument, pages: KnownPages, framework: Framework, pulls: Pulls) -> None:
        self.pulls = pulls
        self._held = held
        self._pages = pages
        self._framework = framework
        # Held on to: the event loop holds tasks weakly.
        self._refreshing: set[asyncio.Future[None]] = set()

    def whole_document(self, *, inline: bool) -> FramedDocument:
        """What a pull is answered with. Called in a hold, and by what changes nothing before or after that."""
        held = self._held
        # A hold that pulls has changed nothing: taken back, so that the next pull finds this one's encoding valid.
        held.holds -= 1
        as_of = (held.holds, held.callbacks.changes)
        return self.pulls.take(held.document, as_of, inline=inline, keep=held.fanout.connections > 1)

    def mark_pulled(self, viewer: Viewer, hold: Hold) -> None:
        """The viewer has the whole document as of now, after all changes made in this hold."""
        held, fanout = self._held, self._held.fanout
        # What a push tells of its new roots is for the others.
        hold.batch.leave_out(viewer)
        # A journal or another viewer may lack the new models, as changes may be held back: keep them marked as new.
        if not fanout.journal.writes and not fanout.any_live(but=viewer):
            held.document.models.flush_synced()
        held.callbacks.document_shown()
        viewer.live = True
        fanout.caught_up(viewer)
        if viewer.inline_pulls:
            self._framework.returned(held.document)
        self._pages.note_pulled(viewer.token)

    def refresh(self, after: int) -> FrameRun | None:
        """The present values of what patches after this one have changed, as patches. Called in a hold.

        Returns None if it is not known any more what those have changed: then the document has to be pulled.
        """
        fanout, callbacks, document = self._held.fanout, self._held.callbacks, self._held.document
        if not fanout.log.reaches(after):
            return None
        refresh = Refresh(document, fanout.log, after, unshown(document))
        run = refresh.frames(epoch=fanout.epoch, sequence=fanout.sequence)
        for key in fanout.log.changed_after(after):
            # What the viewer changes until it has this is overwritten by it, as by another viewer's change.
            self._held.contention.note(key, None)
        callbacks.document_shown()
        if len(run) >= LARGE:
            self.pulls.turns.note()
        return run

    @property
    def refreshing(self) -> bool:
        """Whether a viewer is about to be refreshed."""
        return bool(self._refreshing)

    def refresh_soon(self, viewer: Viewer) -> None:
        """Send a viewer whose socket has drained the present values of what it was refused."""
        refreshing = asyncio.ensure_future(self._refresh(viewer))
        self._refreshing.add(refreshing)
        refreshing.add_done_callback(self._refreshing.discard)

    def close(self) -> None:
        """The session has ended: no cached document is for anyone. Idempotent."""
        self.pulls.forget(self._held.document)

    async def _refresh(self, viewer: Viewer) -> None:
        if self.pulls.turns.taken:
            await self.pulls.turns.take()
        held = self._held
        with suppress(SessionGone):
            await held.enter()
            with held.hold(viewer) as hold:
                if viewer.missed_after is not None:  # else it has left, or pulled the document meanwhile
                    hold.reply = self.refresh(viewer.missed_after)
                    if hold.reply is None:
                        viewer.outbox.close(TRY_AGAIN_LATER, "too slow")
                    held.fanout.caught_up(viewer)
            held.fanout.watch(viewer)
