"""What a websocket is attached to: a session that is here, or the edge of one that is elsewhere."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Protocol

from aperture.protocol.message_type import MessageType
from aperture.protocol.messages import Message
from aperture.worker.patch.inbound import receive
from aperture.worker.patch.viewer import Viewer
from aperture.worker.session.session import Session

__all__ = ["Attachment", "LocalAttachment"]


class Attachment(Protocol):
    """Takes one connection's messages, in order."""

    def receive(self, message: Message, fragments: tuple[str | bytes, ...]) -> Awaitable[None] | None:
        """Act on a message; the next one may come when the awaitable, if there is one, is done.

        Args:
            message: assembled.
            fragments: what it was assembled from.

        Raises:
            ProtocolError: the peer does not speak the protocol, or sends too much. The awaitable raises it too.
            SessionGone: the session was discarded.
        """
        ...

    def leave(self, *, lost: bool = False) -> None:
        """The connection has ended. Idempotent. `lost`: without a close frame, so that its page may reconnect."""
        ...


class LocalAttachment:
    """A viewer of a session that is in this worker."""

    def __init__(self, session: Session, viewer: Viewer) -> None:
        self._session = session
        self._viewer = viewer
        session.attach(viewer)

    def receive(self, message: Message, fragments: tuple[str | bytes, ...]) -> Awaitable[None] | None:
        tally = self._session.fanout.tally
        if message.msgtype == MessageType.PATCH_DOC:
            tally.patches_in += 1
            tally.patch_bytes_in += sum(map(len, fragments))
        return receive(self._session, self._viewer, message)

    def leave(self, *, lost: bool = False) -> None:
        self._session.detach(self._viewer, lost=lost)
