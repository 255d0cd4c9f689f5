"""Where in a session's sequence a client's document is, and so whether a patch was missed.

Aperture numbers what it sends: a patch says which one it is, the answer to a pull says which one it includes. A client
is not sent its own changes back, so their numbers are missing honestly; how many that may be is what it has sent. What
is missing beyond that was lost, and only a pull can bring it. What one patch cannot say comes as several of the same
number, which say which part they are. A batch in which nothing but the app's own values changed
has a number, too, and costs a client a pull that it did not need. Stock Bokeh numbers nothing, and then nothing is
looked for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from enum import Enum, auto
from typing import Any, Final

__all__ = ["Place", "Step"]


_ALL: Final = math.inf


class Step(Enum):
    """What a patch is to a document at some place."""

    NEXT = auto()
    KNOWN = auto()
    """The document has it already."""
    GAP = auto()
    """Something between the document and this patch was lost."""


class Place:
    """The epoch and the number of the last patch that the document includes; unknown until a message says."""

    __slots__ = ("_epoch", "_own", "_part", "_sequence")

    def __init__(self) -> None:
        self._epoch: int | None = None
        self._sequence = 0
        self._part = _ALL
        """Of the patches of that number, the last one that the document includes."""
        self._own = 0
        """Changes of this client that were answered since; each may have taken a number."""

    def answered(self) -> None:
        """A change of this client's was answered."""
        self._own += 1

    def forget(self) -> None:
        """The next message says where the document is."""
        self._epoch = None
        self._own = 0

    def move(self, metadata: Mapping[str, Any]) -> None:
        """The document came with this message."""
        self._go(metadata, _ALL)

    def step(self, metadata: Mapping[str, Any], under_way: int) -> Step:
        """Judge a patch, and go on to it if it is the next one.

        Args:
            metadata: of the patch.
            under_way: changes of this client that were sent and not answered.
        """
        found = _read(metadata)
        part = _part_of(metadata)
        if found is None or self._epoch is None:
            self._go(metadata, part)
            return Step.NEXT
        epoch, sequence = found
        if epoch == self._epoch and (sequence, part) <= (self._sequence, self._part):
            return Step.KNOWN
        if epoch != self._epoch or sequence - self._sequence - 1 > self._own + under_way:
            return Step.GAP
        self._go(metadata, part)
        return Step.NEXT

    def _go(self, metadata: Mapping[str, Any], part: float) -> None:
        found = _read(metadata)
        self._own = 0
        if found is None:
            self._epoch = None
        else:
            self._epoch, self._sequence = found
            self._part = part


def _part_of(metadata: Mapping[str, Any]) -> float:
    part = metadata.get("part")
    return part if type(part) is int else 0


def _read(metadata: Mapping[str, Any]) -> tuple[int, int] | None:
    epoch, sequence = metadata.get("epoch"), metadata.get("seq")
    return (epoch, sequence) if type(epoch) is int and type(sequence) is int else None
