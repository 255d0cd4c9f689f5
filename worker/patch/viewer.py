"""A connection as its session sees it: an outbox for ready frames, and whether it has the document yet."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Protocol

from aperture.protocol.allowance import USUAL_MESSAGE_SIZE, Allowance
from aperture.protocol.frames import FrameRun

__all__ = ["Offer", "Outbox", "Viewer"]


class Offer(Enum):
    """What has become of a patch that an outbox was offered."""

    WRITTEN = "the socket has taken all of it"
    QUEUED = "some of it waits for the socket"
    REFUSED = "too much waits already; the viewer is behind, and further patches are refused until it has caught up"


class Outbox(Protocol):
    """Where frames for one connection go.

    Nothing here blocks or raises for a peer that is gone; frames keep the order of the calls. The session calls it from
    the worker's event loop only.
    """

    def offer(self, run: FrameRun) -> Offer:
        """Write a patch or queue it, unless too much waits already."""
        ...

    def send(self, run: FrameRun) -> None:
        """Write an answer or queue it. A viewer that asks for more than it reads is closed."""
        ...

    def when_drained(self, act: Callable[[], None]) -> None:
        """Call this, soon, once nothing waits for the socket any more; in place of what was to be called before."""
        ...

    def resume(self) -> None:
        """Take patches again: the viewer has caught up with what it was refused."""
        ...

    def close(self, code: int, reason: str) -> None:
        """Close the connection with an RFC 6455 code; later sends are dropped."""
        ...


class Viewer:
    """One connection of a session: a browser tab or a Python client. Also the setter of the changes that it makes.

    Args:
        outbox: where its frames go.
        token: what it connected with, to recognise a page that comes back.
        inline_pulls: whether its pulls are answered with base64 text for arrays instead of binary buffers.
        max_message_size: of its messages; what decoding them may allocate follows from it.
    """

    __slots__ = ("allowance", "inline_pulls", "live", "missed_after", "outbox", "seen", "token")

    here = True
    """Whether the connection is in this worker, also when it has ended."""

    trace = ""
    """In which trace another worker has sent the message that is acted on, if one has."""

    def __init__(
        self, outbox: Outbox, token: str, *, inline_pulls: bool, max_message_size: int = USUAL_MESSAGE_SIZE
    ) -> None:
        self.allowance = Allowance.for_messages_of(max_message_size)
        self.outbox = outbox
        self.token = token
        self.inline_pulls = inline_pulls
        self.live = False
        """True once it has the document: only then can it make sense of patches."""
        self.seen: int | None = None
        """The sequence number of the last patch that it can have had when it sent what it sent; None if all."""
        self.missed_after: int | None = None
        """The sequence number of the last patch before those that its outbox has refused; None if there are none."""

    def answer(self, run: FrameRun, after: int) -> None:
        """Send the answer to its oldest unanswered message, which it gave when `after` was the session's last patch."""
        self.outbox.send(run)
