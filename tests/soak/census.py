"""Counts of what people did and saw, and how long each fault kept them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Census"]


@dataclass(slots=True)
class Census:
    """Of one run."""

    operations: Counter[str] = field(default_factory=Counter)
    """By kind."""
    sent: int = 0
    """Patches."""
    answered: int = 0
    """Patches that were acknowledged."""
    seen: int = 0
    """Patches that have arrived at people."""
    connections: int = 0
    refused: int = 0
    """Attempts to connect that failed."""
    asked: int = 0
    """Times that BokehJS would have given up by itself, and asked its user to reconnect."""
    faults: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    """Faults for which there was nothing to strike just then."""
    recovery: dict[str, list[float]] = field(default_factory=dict)
    """Of each kind of fault, seconds from its end until each person's next acknowledged change."""
    read_along: int = 0
    """Messages of owners to other workers that were looked at in Redis."""
    calms: int = 0
    """Times that all was compared."""

    def recovered(self, kind: str, seconds: float) -> None:
        """Note one person's way back."""
        self.recovery.setdefault(kind, []).append(seconds)

    def as_json(self) -> dict[str, Any]:
        """For a report."""
        return {
            "operations": sum(self.operations.values()),
            "by_kind": dict(self.operations.most_common()),
            "patches_sent": self.sent,
            "patches_acknowledged": self.answered,
            "patches_delivered": self.seen,
            "connections": self.connections,
            "connections_refused": self.refused,
            "would_have_asked_the_user": self.asked,
            "comparisons": self.calms,
            "publications_read": self.read_along,
            "faults": {kind: self._fault(kind) for kind in sorted(self.faults.keys() | self.recovery)},
        }

    def _fault(self, kind: str) -> dict[str, Any]:
        times = sorted(self.recovery.get(kind, []))
        row: dict[str, Any] = {"count": self.faults[kind]}
        if times:
            row |= {f"p{share}": round(times[min(len(times) - 1, len(times) * share // 100)], 3) for share in (50, 99)}
            row["max"] = round(times[-1], 3)
        return row
