"""From a batch of changes to every viewer's outbox: encoded once, framed once, one write per viewer.

Viewers in other workers cost one publication, however many they are.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, cast

from aperture.protocol import messages
from aperture.protocol.closing import TRY_AGAIN_LATER
from aperture.protocol.frames import FrameRun
from aperture.worker.patch.batch import Batch, Patch
from aperture.worker.patch.viewer import Viewer

if TYPE_CHECKING:
    from aperture.worker.session.session import Session

__all__ = ["send_batch"]

_Runs = dict[Viewer | None, FrameRun | None]
"""The frames for each viewer that made changes itself, and under None those for all the others."""


def send_batch(
    session: Session, batch: Batch, sender: Viewer | None, reply: list[FrameRun], *, sender_was_live: bool = False
) -> None:
    """Send what changed to everyone who has the document, and the reply to its sender, behind the patch."""
    kept = session.journal is not None and batch.lasting
    runs = _runs(session, batch) if batch else _no_runs(session, batch) if kept else {}
    if batch.unencodable is not None and session.journal is not None:
        session.journal.start_over()
    everyone = runs.get(None)
    written = size = 0
    if runs:
        for viewer in tuple(session.viewers):
            run = runs.get(viewer, everyone)
            if run is not None and viewer.live and viewer is not sender:
                viewer.outbox.send(run)
                written += 1
                size += len(run.plain)
    own = runs.get(sender, everyone) if sender is not None and sender_was_live else None
    patch = [] if own is None else [own]
    if own is not None and sender is not None and sender.here:
        written += 1
        size += len(own.plain)
    if session.tally is not None:
        session.tally.patches_out += written
        session.tally.patch_bytes_out += size
    if kept and session.journal is not None and session.journal.acknowledges:
        _answer_when_safe(session, runs, sender, patch, reply)
        return
    answer = [*patch, *reply]
    if session.audience is not None and runs:
        answer = _publish(session, runs, sender if sender_was_live else None, answer)
    if sender is not None and answer:
        sender.outbox.send(FrameRun.join(answer))


def _answer_when_safe(
    session: Session, runs: _Runs, sender: Viewer | None, patch: list[FrameRun], reply: list[FrameRun]
) -> None:
    """Send what changed at once, and the reply when what it acknowledges cannot be lost any more."""
    if session.audience is not None and runs:
        _publish(session, runs, None, [])
    if sender is None or session.journal is None:
        return
    if sender.here and patch:
        sender.outbox.send(FrameRun.join(patch))
    if reply:
        # More patches may have come by then, and a sender that has the document only now has had none of them.
        after = session.sequence
        session.journal.when_safe(
            lambda: sender.answer(FrameRun.join(reply), after),
            lambda: sender.outbox.close(TRY_AGAIN_LATER, "changes cannot be kept now"),
        )


def _runs(session: Session, batch: Batch) -> _Runs:
    session.corrections.expect(batch.contested)
    session.sequence += 1
    started = time.perf_counter()
    runs = _variants(session, batch)
    if session.tally is not None:
        session.tally.encode.observe(time.perf_counter() - started)
        session.tally.patch_events += len(batch)
    return runs


def _no_runs(session: Session, batch: Batch) -> _Runs:
    """What has changed is not for viewers: it is written down under a number of its own.

    Viewers elsewhere are counted on, or they would take the number for that of a patch that was lost.
    """
    session.sequence += 1
    if session.journal is not None:
        session.journal.record(session.sequence, batch.lasting_patch())
    return {None: None}


def _publish(session: Session, runs: _Runs, sender: Viewer | None, answer: list[FrameRun]) -> list[FrameRun]:
    """Publish the patch to the viewers elsewhere. Returns what is still to be sent to the sender.

    A sender that is elsewhere itself gets its answer in the same publication. Not so if it got the document only now:
    it could not tell which patches are for it, so its answer, which says so, comes by itself behind this.
    """
    if session.audience is None:
        raise AssertionError("the caller has looked")
    answered = None if sender is None or sender.here else sender
    # Not only the sender's: what an app holds and lets go later may be another's changes.
    variants = {viewer: run for viewer, run in runs.items() if viewer is not None and not viewer.here}
    if answered is not None:
        variants[answered] = FrameRun.join(answer) if answer else None
    session.audience.publish(session.sequence, runs.get(None), variants, answered)
    return answer if answered is None else []


def _variants(session: Session, batch: Batch) -> _Runs:
    origins = batch.origins()
    variants: _Runs = {cast("Viewer", origin): _framed(session, batch.patch_for(origin)) for origin in origins}
    others = any(viewer.live and viewer not in origins for viewer in session.viewers)
    elsewhere = session.audience is not None and session.audience.live
    if session.journal is not None:
        session.journal.record(session.sequence, batch.lasting_patch())
    if others or elsewhere:
        variants[None] = _framed(session, batch.patch())
    return variants


def _framed(session: Session, patch: Patch | None) -> FrameRun | None:
    if patch is None:
        return None
    epoch, sequence = session.epoch, session.sequence
    return FrameRun.join(
        messages.patch(content, buffers, epoch=epoch, sequence=sequence, part=part)
        for part, (content, buffers) in enumerate(patch.parts)
    )
