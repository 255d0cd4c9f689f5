"""How Panel writes to a session's viewers in the middle of a callback, or outside of any.

`pn.io.unlocked` and `pn.io.hold` have the document hold its changes back, and write them to each connection's socket.
Here a session has one connection, for all viewers, wherever they are: its socket gives the changes back to the
session, which sends them as it sends all others, numbered, to its viewers here and elsewhere and to its journal.
"""

from __future__ import annotations

import weakref
from asyncio import Future
from collections.abc import Sequence
from typing import Any, Protocol

from bokeh.document.events import DocumentPatchedEvent

__all__ = ["connections_of", "install"]

Events = Sequence[DocumentPatchedEvent]


class Sender(Protocol):
    """A session, as far as it sends what its document holds back."""

    def flush(self, held_back: Events) -> None: ...


class Everybody:
    """All who have a session's document, as one socket.

    Args:
        session: held weakly: Panel keeps what it has yet to write by the document, which the session holds.
    """

    def __init__(self, session: Sender) -> None:
        self._session = weakref.ref(session)

    def send(self, events: Events) -> None:
        """Send changes that the document holds back; none, if the session has ended."""
        session = self._session()
        if session is not None:
            session.flush(events)


class _Messages:
    """Takes the place of Bokeh's protocol, by which Panel makes messages of what it cannot write at once."""

    def create(self, kind: str, events: Events) -> Events:
        return tuple(events)


class _Connection:
    """One of Bokeh's, as far as Panel looks."""

    protocol = _Messages()

    def __init__(self, session: Sender) -> None:
        self._socket = Everybody(session)


def connections_of(session: Sender) -> Sequence[object]:
    """The connections that Panel finds of a session. Only Panel asks, and it may have been imported by anybody."""
    install()
    return (_Connection(session),)


def install() -> None:
    """Have Panel know the socket's type. Idempotent."""
    from panel.io.document import extra_socket_handlers

    extra_socket_handlers[Everybody] = _write


def _write(connection: Any, events: Events = (), msg: Events | None = None) -> list[Future[Any]]:
    """Called by Panel with changes, or with what `_Messages` has made of them. There is nothing to wait for."""
    connection._socket.send(events if msg is None else msg)
    return []
