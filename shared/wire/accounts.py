"""What one worker tells operators of itself: packed by that worker, read by the gateway of any node.

It travels over the bus, where anybody who can write to Redis can write anything; so every part is checked, value by
value. Of session ids only what operators are shown is in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass, field
from typing import Any

import msgpack

from aperture.wire.node_messages import in_parts

__all__ = ["MOST_SESSIONS", "SHOWN_ID_LENGTH", "SessionRow", "WorkerAccount", "WorkerRow"]

SHOWN_ID_LENGTH = 8
"""Characters of a session id that anybody may see."""

MOST_SESSIONS = 5_000
"""Rows of one worker; of more, the first, and `truncated` says so."""

_LONGEST_TEXT = 256
_MOST_PART = 512 * 1024
_BIGGEST = 2**63


@dataclass(frozen=True, slots=True)
class WorkerRow:
    """A worker as `/workers` shows it; `name` is its name on the bus."""

    name: str
    pid: int
    sessions: int
    connections: int
    lag_seconds: float
    rss_bytes: int


@dataclass(frozen=True, slots=True)
class SessionRow:
    """A session as `/sessions` shows it, `id` being the part of its id that is shown."""

    id: str
    app: str
    epoch: int
    connections: int
    edges: int
    age_seconds: float


@dataclass(slots=True)
class WorkerAccount:
    """All that a worker says of itself, put together from its parts.

    Args:
        worker: None until the first part has come.
        sessions: so far.
        truncated: whether it has more than it tells.
    """

    worker: WorkerRow | None = None
    sessions: list[SessionRow] = field(default_factory=list)
    truncated: bool = False

    def parts(self) -> Iterator[tuple[bytes, bool]]:
        """This account as messages, each with whether it is the last."""
        if self.worker is None:
            raise AssertionError("a worker knows itself")
        truncated = self.truncated or len(self.sessions) > MOST_SESSIONS
        for rows, last in in_parts(map(astuple, self.sessions[:MOST_SESSIONS])):
            yield msgpack.packb([list(astuple(self.worker)), rows, truncated], use_bin_type=True), last

    def add(self, part: bytes) -> None:
        """Take one part in.

        Raises:
            ValueError: it is none; nothing of it is taken then.
        """
        worker, sessions, truncated = _unpacked(part)
        self.worker = worker
        self.truncated = self.truncated or truncated or len(self.sessions) + len(sessions) > MOST_SESSIONS
        self.sessions.extend(sessions[: MOST_SESSIONS - len(self.sessions)])


def _unpacked(part: bytes) -> tuple[WorkerRow, list[SessionRow], bool]:
    if len(part) > _MOST_PART:
        raise ValueError("too large a part of an account")
    try:
        worker, rows, truncated = msgpack.unpackb(part, use_list=True, raw=False)
        if type(truncated) is not bool:
            raise ValueError
        checked = WorkerRow(*_checked(worker, (str, int, int, int, float, int)))
        sessions = [SessionRow(*_checked(row, (str, str, int, int, int, float))) for row in rows]
    except Exception:  # what a stranger can provoke in a decoder is more than its documentation lists
        raise ValueError("not a part of an account") from None
    if any(len(row.id) > SHOWN_ID_LENGTH for row in sessions):
        raise ValueError("not a part of an account")
    return checked, sessions, truncated


def _checked(values: Any, kinds: Sequence[Any]) -> list[Any]:
    if type(values) is not list or len(values) != len(kinds):
        raise ValueError
    for value, kind in zip(values, kinds, strict=True):
        if type(value) is not kind or not (_is_short(value) if kind is str else _is_figure(value)):
            raise ValueError
    return values


def _is_short(value: str) -> bool:
    return len(value) <= _LONGEST_TEXT


def _is_figure(value: float) -> bool:
    """Not negative; and neither infinity nor NaN, which JSON has no words for."""
    return 0 <= value < _BIGGEST
