"""What has changed in a session since which patch: by name, so that it is bounded by the document.

A viewer whose socket does not drain is refused patches, and sent the present values of what they changed when it has
drained. For each number from which on a viewer may have missed patches, the log knows what they changed, and which
models the viewer has. It is kept only while there may be such a viewer: while one here is behind, or while there are
any in other workers, whose edges see that first.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator

from bokeh.document.events import DocumentPatchedEvent, MessageSentEvent, RootAddedEvent, RootRemovedEvent

from aperture.worker.patch.batch import Batch
from aperture.worker.patch.contention import Key

__all__ = ["MAX_MESSAGES", "MAX_ROOT_CHANGES", "ChangeLog"]

MAX_MESSAGES = 100
"""Messages of the app to its pages that are remembered. They are no state: a page that reconnects gets none."""

MAX_ROOT_CHANGES = 1000
"""Roots added and removed that are remembered. Who was behind before those is closed and pulls afresh."""

_PRUNED_FROM = 1000
"""Names; below this, what has left the document is not looked for."""

_Step = tuple[int, str, bool]
"""The number of a patch, the id of a model that came or went by it, and whether it was there before."""


class ChangeLog:
    """The numbers of the patches that last changed each attribute, and by which models came and went.

    Args:
        has: whether a model, by its id, is in the document.
    """

    __slots__ = ("_changed", "_has", "_messages", "_models", "_prune_at", "_roots", "since")

    def __init__(self, has: Callable[[str], bool]) -> None:
        self._has = has
        self.since: int | None = None
        """The number of the last patch before those that the log knows of; None while it is not kept."""
        self._changed: dict[Key, int] = {}
        self._models: list[_Step] = []
        self._roots: deque[_Step] = deque()
        self._messages: deque[tuple[int, DocumentPatchedEvent]] = deque(maxlen=MAX_MESSAGES)
        self._prune_at = _PRUNED_FROM

    def start(self, since: int) -> None:
        """Note what changes after this patch. No-op if that is being done."""
        if self.since is None:
            self.since = since

    def stop(self) -> None:
        """No viewer needs to know any more. Idempotent."""
        self.since = None
        self._changed.clear()
        self._models.clear()
        self._roots.clear()
        self._messages.clear()
        self._prune_at = _PRUNED_FROM

    def reaches(self, after: int) -> bool:
        """Whether all is known that has changed after this patch."""
        return self.since is not None and after >= self.since

    def note(self, batch: Batch, sequence: int) -> None:
        """Take the changes that the patch of this number brings to viewers."""
        for entry in batch.shown():
            if entry.key is not None:
                self._changed[entry.key] = sequence
            elif isinstance(entry.event, RootAddedEvent | RootRemovedEvent):
                self._note_root(entry.event, sequence)
            elif isinstance(entry.event, MessageSentEvent):
                self._messages.append((sequence, entry.event))
            self._models += ((sequence, model_id, batch.had(model_id)) for model_id in entry.introduced)
        self._models += ((sequence, model_id, True) for model_id in batch.gone())
        if len(self._changed) + len(self._models) > self._prune_at:
            self._prune()

    def changed_after(self, after: int) -> list[Key]:
        """What has changed by later patches."""
        return [key for key, sequence in self._changed.items() if sequence > after]

    def models_after(self, after: int) -> dict[str, bool]:
        """The models that have come or gone since, and whether a viewer that has had this patch has them."""
        return _were_there(self._models, after)

    def roots_after(self, after: int) -> dict[str, bool]:
        """The models that have become roots or ceased to be roots since, and whether they were roots then."""
        return _were_there(self._roots, after)

    def messages_after(self, after: int) -> Iterator[DocumentPatchedEvent]:
        """The app's messages in later patches, of those that are remembered."""
        return (event for sequence, event in self._messages if sequence > after)

    def _note_root(self, event: RootAddedEvent | RootRemovedEvent, sequence: int) -> None:
        self._roots.append((sequence, event.model.id, isinstance(event, RootRemovedEvent)))
        if len(self._roots) > MAX_ROOT_CHANGES:
            self.since, _, _ = self._roots.popleft()

    def _prune(self) -> None:
        # Nothing that is sent later refers to a model that has gone; and if it comes back, that is noted.
        self._changed = {key: at for key, at in self._changed.items() if key[0] is None or self._has(key[0])}
        self._models = [step for step in self._models if self._has(step[1])]
        self._prune_at = max(_PRUNED_FROM, 2 * (len(self._changed) + len(self._models)))


def _were_there(steps: Iterable[_Step], after: int) -> dict[str, bool]:
    were: dict[str, bool] = {}
    for sequence, model_id, was_there in steps:
        if sequence > after:
            were.setdefault(model_id, was_there)
    return were
