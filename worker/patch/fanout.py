"""From a batch of changes to every viewer's outbox: encoded once, framed once, one write per viewer.

Viewers in other workers cost one publication, however many they are. The fan-out numbers the patches: a patch's epoch
and sequence number tell every receiver whether it has missed one.

A viewer whose socket does not drain holds back no other. Above its outbox's high-water mark it is refused patches, and
once it has drained it is sent the present values of what those have changed (`aperture.worker.patch.refresh`): as much
as its line can take, and never more in memory than the mark and the document.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, cast

from aperture.metrics import AppTally
from aperture.protocol import messages
from aperture.protocol.closing import TRY_AGAIN_LATER
from aperture.protocol.frames import FrameRun
from aperture.worker.patch.batch import Batch, Patch
from aperture.worker.patch.change_log import ChangeLog
from aperture.worker.patch.receivers import NO_AUDIENCE, NO_JOURNAL, Audience, Journal
from aperture.worker.patch.viewer import Offer, Viewer

if TYPE_CHECKING:
    from aperture.worker.patch.contention import Key

__all__ = ["Fanout"]

_Runs = dict[Viewer | None, FrameRun | None]
"""The frames for each viewer that made changes itself, and under None those for all the others."""


_WRITTEN = Offer.WRITTEN


class Fanout:
    """Sends what has changed in one session to everyone who has its document.

    Args:
        epoch: of the claim that the session is held by.
        tally: counts the patches of the app.
        contested: called with the places that two viewers have changed at once.
        drained: called with a viewer that is behind when its socket has drained.
        log: of what has changed, for those who are behind.
    """

    __slots__ = (
        "_behind",
        "_contested",
        "_drained",
        "audience",
        "epoch",
        "journal",
        "log",
        "sequence",
        "tally",
        "viewers",
    )

    def __init__(
        self,
        epoch: int,
        tally: AppTally,
        contested: Callable[[set[Key]], None],
        drained: Callable[[Viewer], None],
        log: ChangeLog,
    ) -> None:
        self.epoch = epoch
        self.sequence = 0
        """Of the last patch; the first has number 1."""
        self.tally = tally
        self.viewers: set[Viewer] = set()
        """Those whose connections are in this worker."""
        self.audience: Audience = NO_AUDIENCE
        """Those whose connections are in other workers."""
        self.journal: Journal = NO_JOURNAL
        self.log = log
        self._contested = contested
        self._drained = drained
        self._behind: set[Viewer] = set()
        """Those in this worker that have been refused patches."""

    @property
    def connections(self) -> int:
        """The number of viewers, in this worker and others, whether or not they have the document yet."""
        return len(self.viewers) + self.audience.connections

    def relay_to(self, audience: Audience) -> None:
        """Send patches to viewers in other workers as well."""
        self.audience = audience
        self.log.start(self.sequence)  # which of them are behind is for their edges to see

    def leave(self, viewer: Viewer) -> None:
        """Count a viewer of this worker out."""
        self.viewers.discard(viewer)
        self.caught_up(viewer)

    def caught_up(self, viewer: Viewer) -> None:
        """The viewer has, or is about to be sent, all that it was refused."""
        if viewer.missed_after is None:
            return
        viewer.missed_after = None
        viewer.outbox.resume()
        self._behind.discard(viewer)
        # Not with an audience: it is not known here whether an edge still needs the log.
        if not self._behind and self.audience is NO_AUDIENCE:
            self.log.stop()

    def watch(self, viewer: Viewer) -> None:
        """See what is to be done for the viewer when nothing waits for its socket any more."""
        viewer.outbox.when_drained(partial(self._on_drained, viewer))

    def any_live(self, but: Viewer | None = None) -> bool:
        """Whether a viewer has the document; `but` is not asked, except elsewhere, where all are asked together."""
        # A copy: app code in a thread asks this while connections come and go.
        if self.audience.live:
            return True
        for viewer in tuple(self.viewers):
            if viewer.live and viewer is not but:
                return True
        return False

    def wants_changes(self) -> bool:
        """Whether a change must be recorded for anyone."""
        return self.journal.writes or self.any_live()

    def send(self, batch: Batch, sender: Viewer | None, reply: FrameRun | None, *, sender_was_live: bool) -> None:
        """Send a batch to everyone who has the document, and the reply to its sender, behind the patch.

        Args:
            batch: what has changed; perhaps nothing.
            sender: whose message changed it; None for the app's own code.
            reply: to the message.
            sender_was_live: whether the sender had the document before the batch began.
        """
        runs, own = self._begin(batch, sender, sender_was_live=sender_was_live)
        if self.journal.acknowledges and batch.lasting:
            self._answer_when_safe(runs, sender, own, reply)
        else:
            self._answer(runs, sender, own, reply, live=sender_was_live)
        self._begin_log(batch)

    def send_ahead(self, batch: Batch, sender: Viewer | None, *, sender_was_live: bool) -> None:
        """Send a batch in the middle of acting on a message; the reply follows with a later one.

        Args:
            batch: what has changed so far.
            sender: of the message; None for the app's own code.
            sender_was_live: whether it had the document before that.
        """
        runs, own = self._begin(batch, sender, sender_was_live=sender_was_live)
        self._answer_when_safe(runs, sender, own, None)
        self._begin_log(batch)

    def _begin(self, batch: Batch, sender: Viewer | None, *, sender_was_live: bool) -> tuple[_Runs, FrameRun | None]:
        """Number and frame a batch, and write it to all viewers here but the sender, whose frames are returned."""
        runs = self._number(batch)
        # Only while a viewer may be behind: else it would grow for nothing.
        if runs and self.log.since is not None:
            self.log.note(batch, self.sequence)
        # The journal lacks that change, and would rebuild another document than the one that is here.
        if batch.unencodable is not None:
            self.journal.start_over()
        # A sender that got the document in this hold has all of it already.
        own = runs.get(sender, runs.get(None)) if sender is not None and sender_was_live else None
        # To all but the sender: its frames go out in one run with its answer, or wait with it for the journal.
        self._write(runs, sender)
        return runs, own

    def _begin_log(self, batch: Batch) -> None:
        """Have the log begin with this batch, if a viewer was refused it who is the first to be behind."""
        if self._behind and self.log.since is None:
            self.log.start(self.sequence - 1)
            self.log.note(batch, self.sequence)

    def _number(self, batch: Batch) -> _Runs:
        """Assign the next number, record the batch in the journal and frame it. Empty if it has no receiver."""
        if batch:
            self._contested(batch.contested)
            self.sequence += 1  # before framing: the frames have the number in them
            started = time.perf_counter()
            runs = self._frame_variants(batch)
            self.tally.encode.observe(time.perf_counter() - started)
            self.tally.patch_events += len(batch)
            return runs
        if self.journal.writes and batch.lasting:
            # The journal needs a number for it, although viewers get nothing. Edges must learn of the number, or they
            # would take the gap for a lost patch and pull the whole document.
            self.sequence += 1
            self.journal.record(self.sequence, batch.lasting_patch())
            return {None: None}
        return {}

    def _frame_variants(self, batch: Batch) -> _Runs:
        origins = batch.origins()
        # As a rule none or one: the viewer whose message this hold acts on.
        variants: _Runs = {cast("Viewer", origin): self._frame(batch.patch_for(origin)) for origin in origins}
        if self.journal.writes:
            self.journal.record(self.sequence, batch.lasting_patch())
        # The common run only if there is a viewer for it: with one viewer, who drags a slider, there is none.
        if self.audience.live or any(viewer.live and viewer not in origins for viewer in self.viewers):
            variants[None] = self._frame(batch.patch())
        return variants

    def _frame(self, patch: Patch | None) -> FrameRun | None:
        if patch is None:
            return None
        return FrameRun.join(
            messages.patch(content, buffers, epoch=self.epoch, sequence=self.sequence, part=part)
            for part, (content, buffers) in enumerate(patch.parts)
        )

    def _write(self, runs: _Runs, sender: Viewer | None) -> None:
        """Write to the outboxes of this worker's viewers, but for the sender's."""
        if not runs:
            return
        written = size = 0
        everyone = runs.get(None)
        # A copy: an outbox that finds its peer gone closes its viewer, who then leaves.
        for viewer in tuple(self.viewers):
            run = runs.get(viewer, everyone)
            if run is not None and viewer.live and viewer is not sender:
                offer = viewer.outbox.offer(run)
                if offer is not _WRITTEN and not self._lags(viewer, offer):
                    continue
                written += 1
                size += len(run.plain)
        self.tally.patches_out += written
        self.tally.patch_bytes_out += size

    def _write_own(self, sender: Viewer, own: FrameRun, reply: FrameRun | None) -> None:
        """Write to a viewer of this worker what its own message has changed, in one piece with the reply."""
        offer = sender.outbox.offer(own if reply is None else FrameRun.join((own, reply)))
        if offer is Offer.WRITTEN or self._lags(sender, offer):
            self.tally.patches_out += 1
            self.tally.patch_bytes_out += len(own.plain)
        elif reply is not None:
            sender.outbox.send(reply)  # its own patch is refused; what answers it is not

    def _lags(self, viewer: Viewer, offer: Offer) -> bool:
        """Note that a viewer's socket did not take the last patch at once. Returns whether its outbox did."""
        if viewer.seen is None:
            # What it sends until its socket has drained, it sends without having seen this patch.
            viewer.seen = self.sequence - 1
            self.watch(viewer)
        if offer is Offer.QUEUED:
            return True
        self.tally.coalesced += 1
        if viewer.missed_after is None:
            viewer.missed_after = self.sequence - 1
            self._behind.add(viewer)
        return False

    def _on_drained(self, viewer: Viewer) -> None:
        if viewer.missed_after is None:
            viewer.seen = None
        elif viewer in self.viewers:  # else it has left while frames waited for its socket
            self._drained(viewer)

    def _answer(
        self, runs: _Runs, sender: Viewer | None, own: FrameRun | None, reply: FrameRun | None, *, live: bool
    ) -> None:
        """Send what is the sender's; `live` says whether it had the document before."""
        # In one run, so that a client sees its answer in the same read as the changes that it caused.
        answer = [run for run in (own, reply) if run is not None]
        if runs and self._publish(runs, sender if live else None, answer):
            return
        if sender is None:
            return
        if own is not None and sender.here:
            self._write_own(sender, own, reply)
        elif answer:
            sender.outbox.send(FrameRun.join(answer))

    def _answer_when_safe(
        self, runs: _Runs, sender: Viewer | None, own: FrameRun | None, reply: FrameRun | None
    ) -> None:
        """Send the changes at once, and the reply once the journal has them: an acknowledged change must survive."""
        if runs:
            # Without the answer: what others see need not wait for the journal.
            self._publish(runs, None, [])
        if sender is None:
            return
        if sender.here and own is not None:
            self._write_own(sender, own, None)
        if reply is not None:
            # More patches may have come by then, and a sender that has the document only now has had none of them.
            after = self.sequence
            self.journal.when_safe(
                lambda: sender.answer(reply, after),
                lambda: sender.outbox.close(TRY_AGAIN_LATER, "changes cannot be kept now"),
            )

    def _publish(self, runs: _Runs, sender: Viewer | None, answer: list[FrameRun]) -> bool:
        """Publish the patch to the viewers elsewhere. Returns whether the sender's answer travels with it.

        A sender that is elsewhere itself gets its answer in the same publication. Not so if it got the document only
        now (`sender` is None then): it could not tell which patches are for it, so its answer comes behind this.
        """
        if self.audience is NO_AUDIENCE:  # nearly always: spare the hot path the variants
            return False
        answered = None if sender is None or sender.here else sender
        # Not only the sender's: what an app holds and lets go later may be another's changes.
        variants = {viewer: run for viewer, run in runs.items() if viewer is not None and not viewer.here}
        if answered is not None:
            variants[answered] = FrameRun.join(answer) if answer else None
        self.audience.publish(self.sequence, runs.get(None), variants, answered)
        return answered is not None
