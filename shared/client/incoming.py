"""The inbox of a program that reads it only during its calls: bounded by dropping patches, never answers."""

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
"""Above either, waiting patches are dropped, and the program pulls the document at its next call."""

_ANSWERS = (MessageType.OK, MessageType.ERROR)


@dataclass(frozen=True, slots=True)
class Overrun:
    """Marks that patches were dropped."""


@dataclass(frozen=True, slots=True)
class Ended:
    """Marks that a connection has ended.

    Args:
        link: the connection; a newer one may exist already.
        problem: why it ended.
    """

    link: object
    problem: ClientError


Item = Message | Ended | Overrun


class Inbox:
    """The queue from the connection's thread to the program's.

    Args:
        max_bytes: above which waiting patches are dropped.
        max_messages: above which waiting patches are dropped, too.
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
        """Whether no item waits."""
        return not self._items

    def put(self, item: Item, size: int = 0) -> None:
        """Add an item. Above a bound, drop the patches."""
        with self._news:
            self._items.append((item, size))
            self._bytes += size
            if self._bytes > self._max_bytes or len(self._items) > self._max_messages:
                self._drop_patches()
            self._news.notify_all()
        self._on_news()

    def wake(self) -> None:
        """End a waiting `get` without an item."""
        with self._news:
            self._woken = True
            self._news.notify_all()
        self._on_news()

    def get(self, until: float | None) -> Item | None:
        """The oldest item; None after `wake`, or if none came until then (`time.monotonic`)."""
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
        """Take only the OK and ERROR answers, which allow more patches in flight; the other items stay."""
        with self._news:
            taken = [(item, size) for item, size in self._items if isinstance(item, Message) and _is_short(item)]
            if taken:
                names = {id(item) for item, _ in taken}
                self._items = deque(entry for entry in self._items if id(entry[0]) not in names)
                self._bytes -= sum(size for _, size in taken)
            return [item for item, _ in taken]

    def _drop_patches(self) -> None:
        rest = [(item, size) for item, size in self._items if not _is_droppable(item)]
        self._items = deque([(Overrun(), 0), *rest])
        self._bytes = sum(size for _, size in rest)


def _is_short(message: Message) -> bool:
    return message.reqid is not None and message.msgtype in _ANSWERS


def _is_droppable(item: Item) -> bool:
    return isinstance(item, Overrun) or (isinstance(item, Message) and item.msgtype == MessageType.PATCH_DOC)
