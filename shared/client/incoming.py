"""What has arrived for a program that looks at it only now and then: bounded, and never without an answer."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from aperture.errors import ClientError
from aperture.protocol.message_type import MessageType
from aperture.protocol.messages import Message

__all__ = ["Ended", "Inbox", "Item", "Overrun"]

MAX_BYTES = 64 * 1024 * 1024
MAX_MESSAGES = 10_000
"""Above either, waiting patches are dropped: the program pulls the document when it looks again."""

_ANSWERS = (MessageType.OK, MessageType.ERROR)


@dataclass(frozen=True, slots=True)
class Overrun:
    """Patches were dropped here."""


@dataclass(frozen=True, slots=True)
class Ended:
    """A connection has.

    Args:
        link: which one; another may be there already.
        problem: why.
    """

    link: object
    problem: ClientError


Item = Message | Ended | Overrun


class Inbox:
    """From the connection's thread to the program's.

    Args:
        max_bytes: above which waiting patches are dropped.
        max_messages: above which they are, too.
        on_news: called after `put` and `wake`, in their threads.
    """

    def __init__(
        self,
        max_bytes: int = MAX_BYTES,
        max_messages: int = MAX_MESSAGES,
        on_news: Callable[[], object] = lambda: None,
    ) -> None:
        self._max_bytes = max_bytes
        self._max_messages = max_messages
        self._items: deque[tuple[Item, int]] = deque()
        self._bytes = 0
        self._news = threading.Condition()
        self._woken = False
        self._on_news = on_news

    @property
    def empty(self) -> bool:
        """Whether nothing waits."""
        return not self._items

    def put(self, item: Item, size: int = 0) -> None:
        """Add what has arrived."""
        with self._news:
            self._items.append((item, size))
            self._bytes += size
            if self._bytes > self._max_bytes or len(self._items) > self._max_messages:
                self._drop_patches()
            self._news.notify_all()
        self._on_news()

    def wake(self) -> None:
        """Let whoever waits look around, though nothing has arrived."""
        with self._news:
            self._woken = True
            self._news.notify_all()
        self._on_news()

    def get(self, until: float | None) -> Item | None:
        """The oldest item; None if `wake` was called, or nothing came until then (`time.monotonic`)."""
        with self._news:
            while not self._items and not self._woken:
                left = None if until is None else until - time.monotonic()
                if left is not None and left <= 0:
                    return None
                self._news.wait(left)
            self._woken = False
            if not self._items:
                return None
            item, size = self._items.popleft()
            self._bytes -= size
            return item

    def take_answers(self) -> list[Message]:
        """The short answers that wait, without what else does: they say how much more may be sent."""
        with self._news:
            taken = [(item, size) for item, size in self._items if isinstance(item, Message) and _is_short(item)]
            if taken:
                names = {id(item) for item, _ in taken}
                self._items = deque(entry for entry in self._items if id(entry[0]) not in names)
                self._bytes -= sum(size for _, size in taken)
            return [item for item, _ in taken]

    def _drop_patches(self) -> None:
        kept = [(item, size) for item, size in self._items if not _is_droppable(item)]
        self._items = deque([(Overrun(), 0), *kept])
        self._bytes = sum(size for _, size in kept)


def _is_short(message: Message) -> bool:
    return message.reqid is not None and message.msgtype in _ANSWERS


def _is_droppable(item: Item) -> bool:
    return isinstance(item, Overrun) or (isinstance(item, Message) and item.msgtype == MessageType.PATCH_DOC)
