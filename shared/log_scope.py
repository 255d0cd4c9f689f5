"""What a log line is about: the process that writes it, and the session, app and request that it is written for.

The process is named once, after its fork. The rest rides in context variables, so that the lines that an app's own code
writes say it as well, and no caller has to pass it on: a task inherits the context of its creator.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

__all__ = [
    "PROCESS",
    "REQUEST",
    "SESSION",
    "Process",
    "SessionScope",
    "name_node",
    "name_process",
    "request_id",
    "session_scope",
    "short_id",
]

SHOWN_ID_LENGTH = 8
REQUEST_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:+/=@-]{0,63}")
"""What is taken over from a proxy's X-Request-ID: nothing that could be mistaken for something else in a log."""


def short_id(session_id: str) -> str:
    """The part of a session id that may be logged: the whole id gives access to the session."""
    return session_id[:SHOWN_ID_LENGTH]


@dataclass(slots=True)
class Process:
    """This process's place: its role, with the number of a worker, and its node."""

    name: str = ""
    node: str = ""


PROCESS = Process()
"""Of the process that runs this; written by `name_node` before the fork and by `name_process` after it."""


@dataclass(frozen=True, slots=True)
class SessionScope:
    """The session that code runs for.

    Args:
        session_id: the whole of it, so that it can be recognised in a line and cut.
        app: the route of its app.
    """

    session_id: str
    app: str

    @property
    def short(self) -> str:
        """What may be shown of the id."""
        return short_id(self.session_id)


SESSION: ContextVar[SessionScope | None] = ContextVar("aperture_log_session", default=None)
REQUEST: ContextVar[str] = ContextVar("aperture_log_request", default="")


def name_node(node: str) -> None:
    """Have lines say which node this is. Runs in the supervisor, before the fork."""
    PROCESS.node = node


def name_process(name: str) -> None:
    """Have lines say which process this is: `supervisor`, `gateway`, `worker 0`."""
    PROCESS.name = name


@contextmanager
def session_scope(scope: SessionScope) -> Iterator[None]:
    """Have lines say whose session this is."""
    token = SESSION.set(scope)
    try:
        yield
    finally:
        SESSION.reset(token)


def request_id(given: str | None) -> str:
    """The id of a request: what a proxy calls it, if that is a sane name, else a new one."""
    if given is not None and REQUEST_ID.fullmatch(given):
        return given
    return uuid.uuid4().hex[:16]
