"""What a page is sent is followed patch by patch: one that is missing is seen."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from soak.census import Census
from soak.history import History
from soak.ledger import Ledger, Losses
from soak.operations import live_on
from soak.person import Person
from soak.wire import Message


class Written:
    """In place of a websocket."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, str, Any]] = []

    def send(self, msgid: str, msgtype: str, content: Any) -> None:
        self.sent.append((msgid, msgtype, content))


@pytest.fixture
def history() -> History:
    return History()


@pytest.fixture
def wire() -> Written:
    return Written()


@pytest.fixture
def person(history: History, wire: Written) -> Person:
    ledger = Ledger("session", 2, history, Losses(allowed=False))
    person = Person(["ws://"], "", 0, ledger, Census(), Random(1), live_on(0), history.now, lambda node: False)
    person.wire = wire  # type: ignore[assignment]
    person.pull()
    models: list[tuple[str, dict[str, Any]]] = [
        ("cell-0", {"value": 0}),
        ("cell-1", {"value": 0}),
        ("log", {"data": {"at": [0], "who": [-1], "n": [0]}}),
        ("notes", {"data": {"who": [], "n": []}}),
        ("shelf", {"children": []}),
    ]
    roots = [{"type": "object", "id": name, "attributes": {"name": name, **rest}} for name, rest in models]
    person.take(Message({"msgtype": "PULL-DOC-REPLY", "reqid": "0-1"}, {}, {"doc": {"roots": roots}}))
    return person


def patch(sequence: int, n: int) -> Message:
    """The other one's change, and its row in the log."""
    data = {"at": [n], "who": [1], "n": [n]}
    events = [
        {"kind": "ModelChanged", "model": {"id": "cell-1"}, "attr": "value", "new": n},
        {"kind": "ColumnsStreamed", "model": {"id": "log"}, "attr": "data", "data": data, "rollover": 50},
    ]
    return Message({"msgtype": "PATCH-DOC"}, {"epoch": 7, "seq": sequence}, {"events": events})


def broken(history: History) -> list[str]:
    return [violation.check for violation in history.violations]


def test_all_patches_in_their_order(person: Person, history: History) -> None:
    """Nothing is wrong with them."""
    for n in (1, 2, 3):
        person.take(patch(n, n))
    assert broken(history) == []
    assert person.replica is not None
    assert person.replica.cell(1) == 3


@pytest.mark.parametrize(("sequences", "found"), [((1, 3), ["order"]), ((1, 2, 2), ["epoch", "order"])])
def test_a_patch_that_is_dropped_or_comes_twice(
    sequences: tuple[int, ...], found: list[str], person: Person, history: History
) -> None:
    """The log has a hole, or a row twice."""
    for n in sequences:
        person.take(patch(n, n))
    assert broken(history)[: len(found)] == found


@pytest.mark.parametrize(("first", "found"), [(3, []), (8, []), (1, ["order"])])
def test_a_log_that_is_given_whole(first: int, found: list[str], person: Person, history: History) -> None:
    """As to whoever could not follow: it goes on behind what was seen, perhaps later, and never before it."""
    for n in (1, 2, 3, 4, 5):
        person.take(patch(n, n))
    rows = [*range(first, first + 4)]
    data = {"at": rows, "who": [1] * 4, "n": rows}
    given = {"kind": "ModelChanged", "model": {"id": "log"}, "attr": "data", "new": data}
    person.take(Message({"msgtype": "PATCH-DOC"}, {"epoch": 7, "seq": 12}, {"events": [given]}))
    assert broken(history) == found
    if not found:
        person.take(patch(13, rows[-1] + 1))
        assert broken(history) == []


def test_an_answer_to_a_flurry_acknowledges_all_of_it(person: Person, wire: Written) -> None:
    """Several changes travel in one message, and are as safe as one."""
    person.change(5)
    msgid, _, content = wire.sent[-1]
    assert [event["new"] for event in content["events"]] == [1, 2, 3, 4, 5]
    person.take(Message({"msgtype": "OK", "reqid": msgid}, {}, {}))
    assert person.ledger.floor == [5, 0]
    assert person.idle


def test_an_answer_to_nothing(person: Person, history: History) -> None:
    """Each request gets one."""
    person.take(Message({"msgtype": "OK", "reqid": "0-9"}, {}, {}))
    assert broken(history) == ["answers"]
