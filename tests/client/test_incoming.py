"""What has arrived and was not looked at yet."""

from __future__ import annotations

import threading
import time

from support.patience import seconds

from aperture.client.incoming import Ended, Inbox, Overrun
from aperture.errors import ServerGone
from aperture.protocol.messages import Message


def message(kind: str, reqid: str | None = None) -> Message:
    return Message("id", kind, reqid, {}, {})


def drained(inbox: Inbox) -> list[object]:
    found: list[object] = []
    while (item := inbox.get(0)) is not None:
        found.append(item.msgtype if isinstance(item, Message) else type(item))
    return found


def test_things_come_out_in_the_order_in_which_they_came() -> None:
    """Messages, and behind them why there are no more."""
    inbox = Inbox()
    inbox.put(message("PATCH-DOC"))
    inbox.put(message("OK", "1"))
    inbox.put(Ended(None, ServerGone("gone")))
    assert drained(inbox) == ["PATCH-DOC", "OK", Ended]


def test_above_a_limit_patches_are_dropped_and_answers_are_not() -> None:
    """And the next look says first that something is missing."""
    for inbox in (Inbox(max_messages=3), Inbox(max_bytes=35)):
        inbox.put(message("PATCH-DOC"), 10)
        inbox.put(message("OK", "1"), 10)
        inbox.put(message("PATCH-DOC"), 10)
        inbox.put(message("PATCH-DOC"), 10)
        inbox.put(message("PATCH-DOC"), 10)
        assert drained(inbox) == [Overrun, "OK", "PATCH-DOC"]


def test_answers_can_be_taken_out_of_turn() -> None:
    """Those that say no more than yes or no; the rest stays where it is."""
    inbox = Inbox()
    for one in (message("PATCH-DOC"), message("OK", "1"), message("PULL-DOC-REPLY", "2"), message("ERROR", "3")):
        inbox.put(one)
    assert [taken.reqid for taken in inbox.take_answers()] == ["1", "3"]
    assert drained(inbox) == ["PATCH-DOC", "PULL-DOC-REPLY"]


def test_whoever_waits_is_woken() -> None:
    """By another thread, with nothing in the hand."""
    inbox = Inbox()
    threading.Timer(0.01, inbox.wake).start()
    assert inbox.get(time.monotonic() + seconds(20)) is None
