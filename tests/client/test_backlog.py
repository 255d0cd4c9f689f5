"""Changes that the server has not answered: bounded, sent in patches, and sorted out when a connection is lost."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from bokeh.document import Document
from bokeh.document.events import DocumentPatchedEvent, ModelChangedEvent, RootAddedEvent, TitleChangedEvent
from bokeh.models.widgets import Div

from aperture.client import backlog as module
from aperture.client.backlog import Backlog
from aperture.client.mirror import Change
from aperture.protocol.codec import EncodedEvent

DOCUMENT = Document()
DIV = Div()

LIMIT = 1000
"""Bytes of a message, to the server of these tests."""


def text(size: int = 10, *, brings_back: bool = False) -> Change:
    """A change that may be made twice."""
    return change(ModelChangedEvent(DOCUMENT, DIV, "text", "new"), size, brings_back=brings_back)


def root(size: int = 10) -> Change:
    """One that may not."""
    return change(RootAddedEvent(DOCUMENT, DIV), size)


def change(event: DocumentPatchedEvent, size: int, *, brings_back: bool = False) -> Change:
    return Change(event, EncodedEvent(b"x" * size, (), ()), brings_back)


def filled(*changes: Change) -> Backlog:
    backlog = Backlog()
    for one in changes:
        backlog.add(one)
    return backlog


def send(backlog: Backlog, msgid: str = "m", limit: int = LIMIT) -> list[Change]:
    """Put the next patch in flight."""
    batch = backlog.next_batch(limit)
    backlog.sent(msgid, batch)
    return batch


def test_what_waits_goes_out_in_order_as_much_as_fits_a_message() -> None:
    """By the server's limit, or by that of a patch if it is lower; a larger change goes by itself."""
    first, second, third, large = text(400), text(500), text(200), text(5000)
    backlog = filled(first, second, third, large)
    assert backlog.next_batch(LIMIT) == [first, second]
    assert backlog.next_batch(LIMIT) == [third]
    assert backlog.next_batch(LIMIT) == [large]
    assert backlog.next_batch(LIMIT) == []


def test_a_patch_is_full_though_the_server_takes_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """One very large patch would keep the server from answering others."""
    monkeypatch.setattr(module, "PATCH_SIZE", 100)
    backlog = filled(text(60), text(60))
    assert len(backlog.next_batch(LIMIT)) == 1


def test_a_model_that_comes_back_begins_a_patch() -> None:
    """Its removal must be in an earlier one, or a server that still has it would not look at it."""
    removed, again, later = text(), text(brings_back=True), text()
    backlog = filled(removed, again, later)
    assert backlog.next_batch(LIMIT) == [removed]
    assert backlog.next_batch(LIMIT) == [again, later]


def test_everything_unanswered_counts_against_one_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting, in flight, or to be made again: all of it is memory."""
    monkeypatch.setattr(module, "MAX_SIZE", 100)
    backlog = filled(text(40), text(40))
    assert backlog.has_room_for(text(20))
    assert not backlog.has_room_for(text(21))
    send(backlog)
    assert (backlog.size, backlog.has_room_for(text(21))) == (80, False)
    backlog.lost(refused=False)
    assert (backlog.size, backlog.has_room_for(text(21))) == (80, False)
    backlog.take_again()
    assert (backlog.size, backlog.has_room_for(text(100))) == (0, True)


@pytest.mark.parametrize(("limit", "patches"), [("MAX_UNANSWERED", 3), ("UNANSWERED_SIZE", 30)])
def test_patches_in_flight_are_bounded(limit: str, patches: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """By their number and by their bytes; an answer makes room, an unknown one does not."""
    monkeypatch.setattr(module, limit, patches)
    backlog = Backlog()
    for number in range(3):
        assert backlog.may_send
        backlog.add(text(10))
        send(backlog, f"m{number}")
    assert not backlog.may_send
    assert not backlog.answered("unknown")
    assert not backlog.may_send
    assert backlog.answered("m1")
    assert backlog.may_send
    assert backlog.size == 20


@pytest.mark.parametrize(
    ("made", "again"),
    [
        (lambda: text(), True),
        (lambda: change(TitleChangedEvent(DOCUMENT, "t"), 10), True),
        (lambda: root(), False),
    ],
)
def test_what_was_in_flight_is_made_again_where_twice_is_once(made: Callable[[], Change], again: bool) -> None:
    """The server may have had it: a value is the same twice, a root is not."""
    one = made()
    backlog = filled(one)
    send(backlog)
    assert backlog.lost(refused=False) == []
    assert backlog.take_again() == ([one] if again else [])
    assert (backlog.size, backlog.in_flight, backlog.may_send) == (0, {}, True)


def test_a_change_that_loses_two_connections_is_dropped() -> None:
    """It may be why they were lost."""
    one = text()
    backlog = filled(one)
    send(backlog)
    assert backlog.lost(refused=False) == []
    [again] = backlog.take_again()
    backlog.add(again)
    send(backlog)
    assert backlog.lost(refused=False) == [one]
    assert (backlog.again, backlog.size) == ([], 0)


def test_what_the_server_closed_the_connection_for_is_dropped_at_once() -> None:
    """Whatever of it may be made again; what only waited is not to blame."""
    refused, waiting = text(), text()
    backlog = filled(refused)
    send(backlog)
    backlog.add(waiting)
    assert backlog.lost(refused=True) == [refused]
    backlog.hold_back()
    assert backlog.take_again() == [waiting]


def test_changes_are_made_again_in_their_order() -> None:
    """Those in flight first, by their patches, then those that waited."""
    changes = [text() for _ in range(4)]
    backlog = filled(*changes[:2])
    send(backlog, "a", limit=10)
    send(backlog, "b", limit=10)
    backlog.add(changes[2])
    backlog.add(changes[3])
    backlog.lost(refused=False)
    backlog.hold_back()
    assert backlog.unsent == 4
    assert backlog.take_again() == changes
    assert backlog.unsent == 0


def test_forgetting_leaves_what_is_in_flight() -> None:
    """Its answer is still to come, and counts it out."""
    backlog = filled(text(), text())
    send(backlog, limit=10)
    backlog.forget()
    assert (backlog.unsent, backlog.size) == (0, 10)
    assert backlog.answered("m")
    assert backlog.size == 0
