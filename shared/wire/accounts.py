"""What operators ask of workers, and the answers: parts of node messages and of envelopes alike.

Over the bus go only those characters of a session id that operators are shown; inside of a node, the whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from aperture.wire.records import Figure, Name, Number, Record, Text

__all__ = [
    "MOST_SESSIONS",
    "SHOWN_ID_LENGTH",
    "AccountPart",
    "Command",
    "Load",
    "Outcome",
    "SessionRow",
    "WorkerAccount",
    "WorkerRow",
    "in_parts",
]

SHOWN_ID_LENGTH = 8
"""Characters of a session id that anybody may see."""

MOST_SESSIONS = 5_000
"""Rows of one worker; of more, the first, and `truncated` says so."""

ROWS_BYTES = 128 * 1024
"""Of rows in one message; the rest of a datagram is for what else is in it."""


class Load(Record, frozen=True):
    """How busy a worker is; `lag_seconds` is of its event loop."""

    sessions: Number
    connections: Number
    lag_seconds: Figure
    rss_bytes: Number


class WorkerRow(Record, frozen=True):
    """A worker as `/workers` shows it; `name` is its name on the bus."""

    name: Name
    pid: Number
    load: Load


class SessionRow(Record, frozen=True):
    """A session as `/sessions` shows it, but for the length of its id."""

    id: Text
    app: Text
    epoch: Number
    connections: Number
    edges: Number
    age_seconds: Figure

    @property
    def shown(self) -> SessionRow:
        """The row with only that part of the id that is shown."""
        return msgspec.structs.replace(self, id=self.id[:SHOWN_ID_LENGTH])


class Command(Record, frozen=True):
    """An operator wants a session ended or moved.

    Args:
        action: which of both.
        prefix: how the session's id begins.
        app: the session's app.
        to: the index of the worker to move it to, in its own node; None for any other than the one that has it.
    """

    action: Literal["end", "move"]
    prefix: str
    app: str
    to: Number | None


class Outcome(Record, frozen=True):
    """What became of a command: a status of HTTP, and a sentence."""

    status: Number
    text: str


class AccountPart(Record, frozen=True):
    """A part of what one worker says of itself.

    Args:
        worker: itself, in each part.
        sessions: some of them.
        truncated: whether it has more than it tells.
    """

    worker: WorkerRow
    sessions: tuple[SessionRow, ...]
    truncated: bool

    def __post_init__(self) -> None:
        if any(len(row.id) > SHOWN_ID_LENGTH for row in self.sessions):
            raise ValueError("a whole session id")


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

    def parts(self) -> Iterator[tuple[AccountPart, bool]]:
        """This account in parts that fit a message each, each with whether it is the last."""
        if self.worker is None:
            raise AssertionError("a worker knows itself")
        truncated = self.truncated or len(self.sessions) > MOST_SESSIONS
        for rows, last in in_parts(self.sessions[:MOST_SESSIONS]):
            yield AccountPart(self.worker, rows, truncated), last

    def add(self, part: AccountPart) -> None:
        """Take one part in."""
        self.worker = part.worker
        self.truncated = self.truncated or part.truncated or len(self.sessions) + len(part.sessions) > MOST_SESSIONS
        self.sessions.extend(part.sessions[: MOST_SESSIONS - len(self.sessions)])


def in_parts(rows: Iterable[SessionRow]) -> Iterator[tuple[tuple[SessionRow, ...], bool]]:
    """Rows in as many parts as fit a message each, each with whether it is the last; without rows, one empty part."""
    part: list[SessionRow] = []
    size = 0
    for row in rows:
        row_size = len(row.pack())
        if part and size + row_size > ROWS_BYTES:
            yield tuple(part), False
            part, size = [], 0
        part.append(row)
        size += row_size
    yield tuple(part), True
