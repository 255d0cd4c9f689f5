"""A connection's share of the event loop."""

from __future__ import annotations

from aperture.worker.session.slice import SLICE, Slice


def test_a_connection_gives_way_once_its_slice_is_used_up() -> None:
    """Only its own work counts, however long it was idle in between; and each slice begins anew."""
    now = 0.0
    share = Slice(lambda: now)
    given_way = []
    for _ in range(6):
        share.begin()
        now += SLICE * 0.75
        given_way.append(share.end())
        now += 10
    assert given_way == [False, True] * 3
