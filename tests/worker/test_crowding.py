"""When the gateway learns that a session has viewers enough here."""

from __future__ import annotations

from bokeh.models.widgets import Div
from support.peers import Peer, in_loop, make_session

from aperture.worker.crowding import Crowding


@in_loop
async def test_the_gateway_is_told_once_when_it_gets_crowded_and_once_when_it_is_over() -> None:
    """Between the two bounds nothing is said, so that one viewer who comes and goes does not make it flutter."""
    reports: list[tuple[str, bool]] = []
    crowding = Crowding(5, lambda session_id, crowded: reports.append((session_id, crowded)))
    session = make_session(Div(), session_id="s")
    peers = []
    for _ in range(6):
        peers.append(Peer(session))
        crowding.look(session)
    assert reports == [("s", True)]
    for leaving in peers[:1]:
        session.detach(leaving.viewer)
    crowding.look_again([session])
    assert reports == [("s", True)]
    for leaving in peers[1:3]:
        session.detach(leaving.viewer)
    crowding.look_again([session])
    assert reports == [("s", True), ("s", False)]


@in_loop
async def test_a_session_that_is_gone_is_not_crowded() -> None:
    """Its id may be claimed by another worker by now."""
    reports: list[tuple[str, bool]] = []
    crowding = Crowding(1, lambda session_id, crowded: reports.append((session_id, crowded)))
    session = make_session(Div(), session_id="s")
    peer = Peer(session)
    crowding.look(session)
    crowding.look_again([])
    assert reports == [("s", True), ("s", False)]
    assert peer.viewer in session.fanout.viewers


@in_loop
async def test_zero_turns_it_off() -> None:
    """However many come."""
    reports: list[tuple[str, bool]] = []
    crowding = Crowding(0, lambda session_id, crowded: reports.append((session_id, crowded)))
    session = make_session(Div())
    peers = [Peer(session) for _ in range(3)]
    crowding.look(session)
    crowding.look_again([session])
    assert reports == []
    assert len(peers) == 3
