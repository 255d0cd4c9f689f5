"""The position of a client's document in its session's sequence, which shows whether a patch was missed.

Aperture numbers its messages: a patch has its number, the answer to a pull that of the last patch that it includes. A
client is not sent its own changes back, so up to as many numbers as it has sent changes are missing legitimately.
Further missing numbers are lost patches, and only a pull restores them. A batch that needs several patches gives all of
them the same number, and each its part. A patch that stands for several, which a client gets that reads slowly, names
the one that it follows. A batch that changes only the app's own values has a number, too, and costs the client an
unnecessary pull. Stock Bokeh sends no numbers, and then nothing is checked.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from enum import Enum, auto
from typing import Any, Final

__all__ = ["Position", "Step"]


_ALL: Final = math.inf


class Step(Enum):
    """How a patch relates to the document's position."""

    NEXT = auto()
    KNOWN = auto()
    """The document includes it already."""
    GAP = auto()
    """A patch before this one was lost."""


class Position:
    """The epoch and the number of the last patch that the document includes; unknown until a message has them."""

    __slots__ = ("_epoch", "_own", "_part", "_sequence")

    def __init__(self) -> None:
        self._epoch: int | None = None
        self._sequence = 0
        self._part = _ALL
        """The last part of that number that the document includes."""
        self._own = 0
        """Changes of this client that were answered since; each may have used a number."""

    def answered(self) -> None:
        """Note the answer to a change of this client."""
        self._own += 1

    def forget(self) -> None:
        """Take the position from the next message."""
        self._epoch = None
        self._own = 0

    def move(self, metadata: Mapping[str, Any]) -> None:
        """Take the position from the message that the document came with."""
        self._go(metadata, _ALL)

    def step(self, metadata: Mapping[str, Any], in_flight: int) -> Step:
        """Compare a patch with the position, and advance to it if it is the next one.

        Args:
            metadata: of the patch.
            in_flight: changes of this client in flight.
        """
        found = _read(metadata)
        part = _part_of(metadata)
        if found is None or self._epoch is None:
            self._go(metadata, part)
            return Step.NEXT
        epoch, sequence = found
        if epoch == self._epoch and (sequence, part) <= (self._sequence, self._part):
            return Step.KNOWN
        if epoch != self._epoch or _before(metadata, sequence) - self._sequence > self._own + in_flight:
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


def _before(metadata: Mapping[str, Any], sequence: int) -> int:
    """The number of the patch that this one follows."""
    after = metadata.get("after")
    return after if type(after) is int else sequence - 1


def _read(metadata: Mapping[str, Any]) -> tuple[int, int] | None:
    epoch, sequence = metadata.get("epoch"), metadata.get("seq")
    return (epoch, sequence) if type(epoch) is int and type(sequence) is int else None
