"""Sets that keep the order in which their members were added."""

from __future__ import annotations

from aperture.worker.document.loading import new_document
from aperture.worker.document.ordered import OrderedSet


def test_members_come_in_the_order_of_adding() -> None:
    """Whatever has been removed, and by whatever method."""
    numbers: OrderedSet[int] = OrderedSet()
    numbers.update([5, 3, 9], [7, 1])
    numbers.discard(9)
    numbers.discard(100)
    numbers.remove(3)
    numbers.add(3)
    numbers.add(5)
    assert list(numbers) == [5, 7, 1, 3]
    numbers -= {7}
    assert list(numbers) == [5, 1, 3]
    assert (5 in numbers, 7 in numbers, len(numbers)) == (True, False, 3)
    numbers |= {8}
    numbers ^= {5, 6}
    assert list(numbers) == [1, 3, 8, 6]
    numbers.difference_update([1])
    numbers.update([1])
    assert list(numbers) == [3, 8, 6, 1]
    assert len(numbers) == 4
    numbers.clear()
    assert (list(numbers), len(numbers), bool(numbers)) == ([], 0, False)


def test_the_callbacks_of_a_document_are_sets() -> None:
    """HoloViews asks for that before it takes its own out, and takes anything else for a dict."""
    callbacks = new_document().callbacks
    assert isinstance(callbacks._session_callbacks, set)
    assert isinstance(callbacks._session_destroyed_callbacks, set)
