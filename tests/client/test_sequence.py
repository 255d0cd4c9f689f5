"""Where a document is in its session's sequence."""

from __future__ import annotations

from typing import Any

from aperture.client.sequence import Position, Step


def at(sequence: int, epoch: int = 1) -> dict[str, Any]:
    return {"epoch": epoch, "seq": sequence}


def place_at(sequence: int) -> Position:
    place = Position()
    place.move(at(sequence))
    return place


def test_each_number_after_the_other_is_next() -> None:
    """From the one that the answer to the pull has said."""
    place = place_at(7)
    assert [place.step(at(number), 0) for number in (8, 9, 10)] == [Step.NEXT] * 3


def test_a_hole_is_a_gap() -> None:
    """And stays one until the document is pulled."""
    place = place_at(7)
    assert place.step(at(9), 0) is Step.GAP
    assert place.step(at(10), 0) is Step.GAP
    place.move(at(10))
    assert place.step(at(11), 0) is Step.NEXT


def test_the_parts_of_one_number_come_after_each_other() -> None:
    """Each is taken once, and none of what a pull has brought."""
    place = place_at(7)
    assert place.step(at(7) | {"part": 1}, 0) is Step.KNOWN
    parts = [at(8), at(8) | {"part": 1}, at(8) | {"part": 2}]
    assert [place.step(part, 0) for part in parts] == [Step.NEXT] * 3
    assert [place.step(part, 0) for part in parts] == [Step.KNOWN] * 3
    assert place.step(at(9), 0) is Step.NEXT


def test_what_the_document_has_is_known() -> None:
    """A number that was there already changes nothing."""
    place = place_at(7)
    assert place.step(at(7), 0) is Step.KNOWN
    assert place.step(at(8), 0) is Step.NEXT


def test_own_changes_have_numbers_that_are_never_sent() -> None:
    """As many as were answered, or may have been carried out, since the last patch."""
    place = place_at(7)
    place.answered()
    assert place.step(at(10), 1) is Step.NEXT  # 8 was answered, 9 may be the one under way
    assert place.step(at(12), 0) is Step.GAP


def test_another_epoch_is_a_gap() -> None:
    """The document has another owner, who counts for itself."""
    assert place_at(7).step(at(8, epoch=2), 0) is Step.GAP


def test_a_server_that_numbers_nothing_has_no_gaps() -> None:
    """Stock Bokeh's metadata is empty, and anything may be in another's."""
    place = Position()
    for metadata in ({}, {}, {"epoch": "1", "seq": 3}, {"seq": True}):
        assert place.step(metadata, 0) is Step.NEXT


def test_after_a_push_the_next_patch_says_where_the_document_is() -> None:
    """The answer to a push has no number."""
    place = place_at(7)
    place.forget()
    assert place.step(at(40), 0) is Step.NEXT
    assert place.step(at(42), 0) is Step.GAP
