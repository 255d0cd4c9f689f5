"""The account of a session's stream: what still fits beside the newest, whatever the sizes."""

from __future__ import annotations

import random

import pytest

from aperture.registry import stream as module
from aperture.registry.stream import StreamLedger


def filled(sizes: dict[int, int]) -> StreamLedger:
    """The account of entries of these sizes, by id."""
    ledger = StreamLedger(1)
    for last, size in sizes.items():
        ledger.note(last, size)
    return ledger


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STREAM_ENTRIES", 640)
    monkeypatch.setattr(module, "STREAM_BYTES", 64_000)


def test_one_large_entry_pushes_out_only_what_has_no_room() -> None:
    """It is not taken for the size of all the others."""
    sizes = dict.fromkeys(range(1, 101), 100)
    assert filled(sizes | {101: 20_000}).floor == 0
    ledger = filled(sizes | {101: 60_000})
    assert 50 < ledger.floor <= 71


def test_large_payloads_do_not_drive_each_other_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Edges have them from nowhere else; up to a bound of their own."""
    monkeypatch.setattr(module, "ENTRY_BYTES", 50_000)
    monkeypatch.setattr(module, "LARGE_BYTES", 200_000)
    assert filled(dict.fromkeys(range(1, 4), 80_000)).floor == 0
    assert filled(dict.fromkeys(range(1, 9), 80_000)).floor == 6


def test_the_number_of_entries_is_bounded() -> None:
    """A block at a time, so not many fewer than may be kept are."""
    ledger = filled(dict.fromkeys(range(1, 5001), 1))
    assert 4361 <= ledger.floor <= 4371
    assert len(ledger._blocks) <= 65


def test_one_that_is_larger_than_all_may_be_is_kept_alone() -> None:
    """A viewer that misses it pulls the document otherwise, which is larger."""
    assert filled({5: 10, 9: 100_000}).floor == 6


def test_what_is_appended_again_counts_once() -> None:
    """As Redis keeps it once; retries of an outage must not push out what is there."""
    ledger = StreamLedger(1)
    for _ in range(100):
        ledger.note(3, 1000)
        ledger.note(2, 1000)
    assert (ledger.floor, ledger._size) == (0, 1000)


def test_whatever_comes_what_is_kept_fits_and_is_not_much_less() -> None:
    """In random orders of sizes."""
    chance = random.Random(1)
    for _ in range(50):
        ledger, kept = StreamLedger(1), {}
        for last in range(1, 1500):
            kept[last] = chance.choice((1, 50, 500, 5000))
            ledger.note(last, kept[last])
            gone = {number: kept.pop(number) for number in list(kept) if number < ledger.floor}
            assert sum(kept.values()) <= 64_000
            assert len(kept) <= 640
            if gone:
                assert sum(kept.values()) + sum(gone.values()) > 64_000 or len(kept) + len(gone) > 640
