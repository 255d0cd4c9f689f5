"""The logs and the timeline of Panel's admin page, over all workers.

Panel's page shows what its own process has logged of sessions. Here each worker keeps its newest lines, and the worker
that shows the page asks the others for theirs.
"""

from __future__ import annotations

import logging
import uuid
from collections import deque
from typing import Any

import msgspec
from panel.io.logging import panel_logger

from aperture.worker.panel.admin_page import admin_module
from aperture.worker.session.framework import Asks

__all__ = ["LOGS", "Logs"]

TOPIC = "panel.logs"

MOST = 500
"""Lines that a worker tells of, the newest, of 150 bytes each: an admin page asks every two seconds."""

MOST_WORKERS = 63
"""Other workers whose sessions can be kept apart. Panel names a session by where its document is in memory,
and what follows a fork is in the same place in each worker; the page reads numbers as JavaScript does, to 2**53."""

_SESSION = "Session "


class Line(msgspec.Struct, frozen=True):
    """One line of a worker's log, as `logging.LogRecord` has it."""

    number: int
    created: float
    level: int
    name: str
    message: str
    arguments: list[int | float | str]


class NewLines(msgspec.Struct, frozen=True):
    """The newest lines of a worker. Anybody with access to Redis can send them."""

    worker: str
    lines: list[Line]


_decoder = msgspec.json.Decoder(NewLines)


class Logs(logging.Handler):
    """What this process has logged of its sessions, and what the others have."""

    def __init__(self) -> None:
        super().__init__()
        self._peers: Asks | None = None
        self._worker = ""
        self._own: deque[Line] = deque(maxlen=MOST)
        self._count = 0
        self._known: dict[str, tuple[int, int]] = {}
        """By the other worker: a small number for it, and the number of its last line that is shown."""

    def start(self, peers: Asks) -> None:
        """Keep lines and answer the others, if Panel's admin page is served."""
        if admin_module() is None:
            return
        self._peers = peers
        self._worker = uuid.uuid4().hex
        panel_logger.addHandler(self)
        peers.answers(TOPIC, lambda: msgspec.json.encode(NewLines(self._worker, list(self._own))))

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line, of those that Panel's page shows."""
        if not (isinstance(record.msg, str) and _SESSION in record.msg and isinstance(record.args, tuple)):
            return
        arguments = [part if isinstance(part, int | float | str) else str(part) for part in record.args]
        self._count += 1
        line = Line(self._count, record.created, record.levelno, record.name, record.msg, arguments)
        self._own.append(line)

    async def refresh(self) -> None:
        """Show what the others have logged since the last look."""
        assert self._peers is not None
        answers = [one for answer in await self._peers.ask(TOPIC) if (one := _read(answer)) is not None]
        if len(self._known) > MOST_WORKERS - len(answers):
            answered = {one.worker for one in answers}
            self._known = {worker: known for worker, known in self._known.items() if worker in answered}
        for one in answers:
            self._show(one)

    def _show(self, new: NewLines) -> None:
        place, last = self._known.get(new.worker) or (self._free_place(), 0)
        if place > MOST_WORKERS:
            return
        for line in new.lines:
            if line.number > last and (record := _record(line, place)) is not None:
                last = line.number
                _hand_to_page(record)
        self._known[new.worker] = (place, last)

    def _free_place(self) -> int:
        taken = {place for place, _ in self._known.values()}
        return next(place for place in range(1, MOST_WORKERS + 2) if place not in taken)


LOGS = Logs()
"""Of this process."""


def _read(answer: bytes) -> NewLines | None:
    try:
        return _decoder.decode(answer)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _record(line: Line, place: int) -> logging.LogRecord | None:
    """The line, of a session that no session here is taken for; None if Panel's page could not read it."""
    if _SESSION not in line.message or not line.arguments or not isinstance(line.arguments[0], int):
        return None
    session = line.arguments[0] * (MOST_WORKERS + 1) + place
    record = logging.LogRecord(line.name, line.level, "", 0, line.message, (session, *line.arguments[1:]), None)
    record.created = line.created
    try:
        record.getMessage()
    except (TypeError, ValueError):
        return None
    return record


def _hand_to_page(record: logging.LogRecord) -> None:
    """To the table of the page, and to its timeline."""
    admin: Any = admin_module()
    for handler in (admin.log_handler, admin.log_data_handler):
        if record.levelno >= handler.level:
            handler.handle(record)
