"""What workers tell operators of themselves: it comes through whole, and a stranger's does not come through."""

from __future__ import annotations

from typing import Any

import msgpack
import msgspec
import pytest

from aperture.errors import WireError
from aperture.wire.accounts import MOST_SESSIONS, Load, SessionRow, WorkerAccount, WorkerRow
from aperture.wire.endpoint import MAX_DATAGRAM
from aperture.wire.envelopes import Account, Envelope
from aperture.wire.node_messages import OthersAre
from aperture.worker.admin_commands import MAX_LETTER

ME = WorkerRow("node/0/abc", 12, Load(3, 4, 0.001, 1_000_000))


def rows(count: int) -> list[SessionRow]:
    return [SessionRow(f"{number:08}", "/app", number, 1, 0, 2.5) for number in range(count)]


def passed_on(account: WorkerAccount) -> WorkerAccount:
    received, ends = WorkerAccount(), []
    for part, last in account.parts():
        received.add(part)
        ends.append(last)
    assert ends[-1]
    assert not any(ends[:-1])
    return received


@pytest.mark.parametrize("count", [0, 1, 200, MOST_SESSIONS])
def test_an_account_comes_through_in_parts(count: int) -> None:
    """Whatever number of sessions, also none."""
    sent = WorkerAccount(ME, rows(count))
    assert passed_on(sent) == sent


def test_each_part_fits_a_datagram_whatever_the_routes_are_called() -> None:
    """It is counted in bytes, of which a character of a route may have four."""
    sent = WorkerAccount(
        ME, [msgspec.structs.replace(row, app="/" + "\N{TURTLE}" * 250) for row in rows(MOST_SESSIONS)]
    )
    assert passed_on(sent) == sent
    for part, _ in sent.parts():
        assert len(Account(1, part, False).pack()) < MAX_LETTER
        assert len(OthersAre(1, ME.name, part).pack()) < MAX_DATAGRAM


def test_an_account_is_bounded() -> None:
    """Of more sessions than that the first are listed, and that there are more."""
    received = passed_on(WorkerAccount(ME, rows(MOST_SESSIONS + 1)))
    assert len(received.sessions) == MOST_SESSIONS
    assert received.truncated


def test_a_sender_without_measure_is_bounded_too() -> None:
    """Parts without end do not fill the gateway's memory."""
    received, part = WorkerAccount(), next(WorkerAccount(ME, rows(200)).parts())[0]
    for _ in range(MOST_SESSIONS // 200 + 5):
        received.add(part)
    assert len(received.sessions) == MOST_SESSIONS
    assert received.truncated


def worker(**changed: Any) -> list[Any]:
    fields = {"name": "n/0/a", "pid": 1, "sessions": 0, "connections": 0, "lag": 0.0, "rss": 1}
    return list((fields | changed).values())


@pytest.mark.parametrize(
    "part",
    [
        [worker(pid=-1), [], False],
        [worker(pid=True), [], False],
        [worker(lag=float("nan")), [], False],
        [worker(lag=float("inf")), [], False],
        [worker(lag=-0.1), [], False],
        [worker(name="n" * 301), [], False],
        [worker(), [["a" * 9, "/app", 1, 1, 0, 1.0]], False],
        [worker(), [["a", "/app", 1, 1, 0]], False],
        [worker(), [["a", "/app", 1, 1, 0, "old"]], False],
        [worker(), [["a", "/" + "p" * 1024, 1, 1, 0, 1.0]], False],
        [worker(), [], 1],
        [worker(), []],
        [],
    ],
)
def test_what_cannot_be_is_refused_whole(part: list[Any]) -> None:
    """Each value has its type and its bounds; a whole session id is refused like any other lie."""
    with pytest.raises(WireError, match=r"Account\.part: "):
        Envelope.unpack(msgpack.packb([12, 1, part, True]))
