"""From a batch of changes to every viewer's outbox: encoded once, framed once, one write per viewer.

Viewers in other workers cost one publication, however many they are. The fan-out numbers the patches: a patch's epoch
and sequence number tell every receiver whether it has missed one.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from aperture.metrics import AppTally
from aperture.protocol import messages
from aperture.protocol.closing import TRY_AGAIN_LATER
from aperture.protocol.frames import FrameRun
from aperture.worker.patch.batch import Batch, Patch
from aperture.worker.patch.receivers import NO_AUDIENCE, NO_JOURNAL, Audience, Journal
from aperture.worker.patch.viewer import Viewer

if TYPE_CHECKING:
    from aperture.worker.patch.contention import Key

__all__ = ["Fanout"]

_Runs = dict[Viewer | None, FrameRun | None]
"""The frames for each viewer that made changes itself, and under None those for all the others."""


class Fanout:
    """Sends what has changed in one session to everyone who has its document.

    Args:
        epoch: of the claim that the session is held by.
        tally: counts the patches of the app.
        contested: called with the places that two viewers have changed at once.
    """

    __slots__ = ("_contested", "audience", "epoch", "journal", "sequence", "tally", "viewers")

    def __init__(self, epoch: int, tally: AppTally, contested: Callable[[set[Key]], None]) -> None:
        self.epoch = epoch
        self.sequence = 0
        """Of the last patch; the first has number 1."""
        self.tally = tally
        self.viewers: set[Viewer] = set()
        """Those whose connections are in this worker."""
        self.audience: Audience = NO_AUDIENCE
        """Those whose connections are in other workers."""
        self.journal: Journal = NO_JOURNAL
        self._contested = contested

    @property
    def connections(self) -> int:
        """The number of viewers, in this worker and others, whether or not they have the document yet."""
        return len(self.viewers) + self.audience.connections

    def relay_to(self, audience: Audience) -> None:
        """Send patches to viewers in other workers as well."""
        self.audience = audience

    def any_live(self, but: Viewer | None = None) -> bool:
        """Whether a viewer has the document; `but` is not asked, except elsewhere, where all are asked together."""
        return self.audience.live or any(viewer.live for viewer in self.viewers if viewer is not but)

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
        runs = self._number(batch)
        if batch.unencodable is not None:
            self.journal.start_over()
        own = runs.get(sender, runs.get(None)) if sender is not None and sender_was_live else None
        self._write(runs, sender, own)
        if self.journal.acknowledges and batch.lasting:
            self._answer_when_safe(runs, sender, own, reply)
        else:
            self._answer(runs, sender, own, reply, live=sender_was_live)

    def _number(self, batch: Batch) -> _Runs:
        """Assign the next number, record the batch in the journal and frame it. Empty if it has no receiver."""
        if batch:
            self._contested(batch.contested)
            self.sequence += 1
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
        variants: _Runs = {cast("Viewer", origin): self._frame(batch.patch_for(origin)) for origin in origins}
        if self.journal.writes:
            self.journal.record(self.sequence, batch.lasting_patch())
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

    def _write(self, runs: _Runs, sender: Viewer | None, own: FrameRun | None) -> None:
        """Write to the outboxes of this worker's viewers, but for the sender's, and count what is written."""
        written = size = 0
        if runs:
            everyone = runs.get(None)
            for viewer in tuple(self.viewers):
                run = runs.get(viewer, everyone)
                if run is not None and viewer.live and viewer is not sender:
                    viewer.outbox.send(run)
                    written += 1
                    size += len(run.plain)
        if own is not None and sender is not None and sender.here:
            written += 1
            size += len(own.plain)
        self.tally.patches_out += written
        self.tally.patch_bytes_out += size

    def _answer(
        self, runs: _Runs, sender: Viewer | None, own: FrameRun | None, reply: FrameRun | None, *, live: bool
    ) -> None:
        """Send what is the sender's; `live` says whether it had the document before."""
        answer = [run for run in (own, reply) if run is not None]
        if runs and self._publish(runs, sender if live else None, answer):
            return
        if sender is not None and answer:
            sender.outbox.send(FrameRun.join(answer))

    def _answer_when_safe(
        self, runs: _Runs, sender: Viewer | None, own: FrameRun | None, reply: FrameRun | None
    ) -> None:
        """Send the changes at once, and the reply once the journal has them: an acknowledged change must survive."""
        if runs:
            self._publish(runs, None, [])
        if sender is None:
            return
        if sender.here and own is not None:
            sender.outbox.send(own)
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
