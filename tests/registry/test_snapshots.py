"""What is asked of Redis, and what is made of its answers, without a Redis."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Sequence
from typing import Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.exceptions import ResponseError

from aperture.bus.bus import Script
from aperture.bus.names import Names
from aperture.errors import BusDown, Fenced, StoredStateBroken, TooLarge
from aperture.registry import scripts
from aperture.registry.members import WorkerName
from aperture.registry.snapshots import TOUCH_BATCH, SnapshotStore, StoredState

SESSION_KEY = "/app\tsecretsession"
ME = WorkerName("node", 0, "n")
T = TypeVar("T")


class Answering:
    """A bus that answers what a test says, and writes down what it was asked."""

    def __init__(self, *answers: Any) -> None:
        self.names = Names("test")
        self.answers = list(answers)
        self.asked: list[tuple[Script, Sequence[str], Sequence[bytes | str | int]]] = []
        self.commands: list[tuple[bytes | str | int, ...]] = []

    async def run(self, script: Script, keys: Sequence[str], args: Sequence[bytes | str | int]) -> Any:
        self.asked.append((script, keys, args))
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def command(self, *args: bytes | str | int) -> Any:
        self.commands.append(args)
        return self.answers.pop(0)


def keeping_on(bus: Answering) -> SnapshotStore:
    return SnapshotStore(bus, ME, lifetime=2.5, max_snapshot=10)  # type: ignore[arg-type] # a bus as far as it is used


def done(awaitable: Awaitable[T]) -> T:
    """The outcome of what never has to wait; what it raises is raised."""
    steps = awaitable.__await__()
    with pytest.raises(StopIteration) as stopped:
        next(steps)
    outcome: T = stopped.value.value
    return outcome


def stored(origin: bytes, sequence: int, snapshot: bytes, entries: Sequence[bytes]) -> list[Any]:
    """What Redis would hold, from what the keeping asks it to hold; as `STATE_LOAD` returns it."""
    bus = Answering(0, 0, [])
    keeping = keeping_on(bus)
    done(keeping.begin(SESSION_KEY, 7, origin, snapshot, sequence=sequence))
    done(keeping.add(SESSION_KEY, 7, sequence + 1, sequence + len(entries), entries))
    done(keeping.load(SESSION_KEY))
    written, added, wanted = (args for _, _, args in bus.asked)
    fields = dict(zip(written[3::2], written[4::2], strict=True)) | {"last": sequence + len(entries)}
    values = [fields[name] for name in wanted]
    return [[value if isinstance(value, bytes) else str(value).encode() for value in values], list(added[4:])]


WHOLE = stored(b"origin", 3, b"snapshot", [b"four", b"", b"six"])
KEPT = StoredState(b"origin", 7, b"snapshot", 3, (b"four", b"", b"six"))


def loaded(reply: Any) -> StoredState | None:
    return done(keeping_on(Answering(reply)).load(SESSION_KEY))


@given(st.binary(max_size=50), st.integers(0, 2**53), st.binary(max_size=10), st.lists(st.binary(max_size=20)))
def test_what_is_written_is_what_is_read(origin: bytes, sequence: int, snapshot: bytes, entries: list[bytes]) -> None:
    """Whatever the bytes are."""
    whole = StoredState(origin, 7, snapshot, sequence, tuple(entries))
    assert loaded(stored(origin, sequence, snapshot, entries)) == whole


@given(st.lists(st.none() | st.binary(max_size=20), min_size=8, max_size=8), st.lists(st.binary(max_size=30)))
def test_garbage_is_nothing(values: list[bytes | None], journal: list[bytes]) -> None:
    """It never raises; a checksum is not guessed."""
    assert loaded([values, journal]) is None


changes = st.binary(max_size=12) | st.integers(-5, 5).map(lambda number: str(number).encode())


@given(st.integers(0, len(WHOLE[0]) - 1), st.none() | changes)
def test_a_changed_part_is_noticed(position: int, change: bytes | None) -> None:
    """Any of them, whatever is there instead."""
    values = list(WHOLE[0])
    values[position] = change
    assert loaded([values, WHOLE[1]]) == (KEPT if change == WHOLE[0][position] else None)


@given(st.lists(st.sampled_from([*WHOLE[1], b"", b"x" * 12, b"x" * 20]), max_size=5))
def test_a_changed_journal_is_noticed(journal: list[bytes]) -> None:
    """Lost, repeated and exchanged entries, and such as were never written."""
    assert loaded([WHOLE[0], journal]) == (KEPT if journal == WHOLE[1] else None)


@given(st.integers(0, 2), st.data())
def test_a_changed_byte_of_an_entry_is_noticed(position: int, data: st.DataObject) -> None:
    """And an entry that was cut short anywhere."""
    journal = list(WHOLE[1])
    at = data.draw(st.integers(0, len(journal[position]) - 1))
    flipped = bytes([journal[position][at] ^ data.draw(st.integers(1, 255))])
    rest = data.draw(st.sampled_from([b"", flipped + journal[position][at + 1 :]]))
    journal[position] = journal[position][:at] + rest
    assert loaded([WHOLE[0], journal]) is None


def test_what_is_not_whole_is_counted_and_logged_without_secrets(caplog: pytest.LogCaptureFixture) -> None:
    """One line, with as much of the session's id as may be written down; nothing at all is no reason for one."""
    bus = Answering([], [[None] * 8, []], WHOLE, [[b"secret"] * 8, [b"secret"]])
    keeping = keeping_on(bus)
    with caplog.at_level(logging.WARNING):
        assert done(keeping.load(SESSION_KEY)) is None
        assert keeping.broken_loads == 0
        assert done(keeping.load(SESSION_KEY)) is None
        assert done(keeping.load(SESSION_KEY)) == KEPT
        assert done(keeping.load(SESSION_KEY)) is None
    assert keeping.broken_loads == 2
    assert len(caplog.records) == 2
    assert "secretse:" in caplog.text
    assert "secretsession" not in caplog.text
    assert "b'secret'" not in caplog.text


def test_whether_something_is_kept_is_asked_by_one_small_field() -> None:
    """The snapshot may be of many megabytes; what another version has written counts as nothing."""
    bus = Answering(b"1", None, b"0")
    keeping = keeping_on(bus)
    assert [done(keeping.exists(SESSION_KEY)) for _ in range(3)] == [True, False, False]
    assert bus.commands == [("HGET", bus.names.stored(SESSION_KEY), "format")] * 3
    assert not bus.asked


def test_too_large_a_snapshot_is_never_sent() -> None:
    """What was kept before is dropped instead; the limit itself is within the limit."""
    bus = Answering(0, 0, 0, 0)
    keeping = keeping_on(bus)
    done(keeping.begin(SESSION_KEY, 7, b"o", b"x" * 10))
    done(keeping.snapshot(SESSION_KEY, 7, 1, b"x" * 10))
    for attempt in (keeping.begin(SESSION_KEY, 7, b"o", b"x" * 11), keeping.snapshot(SESSION_KEY, 7, 1, b"x" * 11)):
        with pytest.raises(TooLarge):
            done(attempt)
    assert [script for script, _, _ in bus.asked[2:]] == [scripts.STATE_FORGET] * 2


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (-1, Fenced),
        (-2, StoredStateBroken),
        (BusDown("gone"), BusDown),
        (ResponseError("unknown command"), StoredStateBroken),
    ],
)
def test_what_redis_answers_is_told_in_our_words(answer: object, problem: type[Exception]) -> None:
    """What Redis refuses of everybody, such as a replica all writes, the bus has made an outage of."""
    keeping = keeping_on(Answering(answer))
    with pytest.raises(problem):
        done(keeping.add(SESSION_KEY, 7, 1, 1, [b"x"]))


@pytest.mark.parametrize(("first", "last", "count"), [(1, 1, 0), (1, 1, 2), (2, 1, 1), (1, 3, 2)])
def test_numbers_and_entries_must_agree(first: int, last: int, count: int) -> None:
    """Nothing is sent: a caller that miscounts would tear a hole without noticing."""
    with pytest.raises(ValueError):
        done(keeping_on(Answering()).add(SESSION_KEY, 7, first, last, [b"x"] * count))


def test_touching_is_done_in_batches() -> None:
    """Redis serves no other client during a script; positions are those in a batch."""
    bus = Answering([0], [1], [])
    session_keys = [f"/app\t{number}" for number in range(2 * TOUCH_BATCH + 1)]
    assert done(keeping_on(bus).touch(iter(session_keys))) == {session_keys[0], session_keys[TOUCH_BATCH + 1]}
    assert [len(keys) // 3 for _, keys, _ in bus.asked] == [TOUCH_BATCH, TOUCH_BATCH, 1]
    assert all(list(args) == [str(ME), 2500] for _, _, args in bus.asked)
