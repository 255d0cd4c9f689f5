"""Two viewers that change the same thing at once end up with what the server has."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Any

import pytest
from bokeh.models import ColumnDataSource
from bokeh.models.widgets import Slider, TextInput
from bokeh.protocol.message import Message
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.peers import Peer, in_loop, make_session, state_of

from aperture.worker.patch.contention import WINDOW, Contention
from aperture.worker.patch.corrections import PAUSE
from aperture.worker.session.session import Session

KEY = ("p1001", "value")
ONE, OTHER = object(), object()


class Clock:
    """Time that passes when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_what_waited_is_overtaken_by_what_was_sent_meanwhile() -> None:
    """However long it waited, for the document or for the bus; but not by what its sender can have seen."""
    for seen, overtaken in ((4, True), (5, False)):
        clock = Clock()
        contention = Contention(clock)
        contention.begin(5, 0)
        contention.note(KEY, None)
        clock.now += WINDOW * 2
        contention.begin(6, seen)
        assert contention.note(KEY, ONE) is overtaken


def test_what_waited_longer_than_memory_is_overtaken() -> None:
    """It is not known any more who wrote what; a correction more does no harm."""
    for seen, overtaken in ((4, True), (5, False)):
        clock = Clock()
        contention = Contention(clock)
        contention.begin(5, 0)
        contention.note(KEY, None)
        clock.now += WINDOW * 2
        contention.begin(6, 6)
        contention.note((None, "title"), None)  # which forgets the other
        contention.begin(7, seen)
        assert contention.note(KEY, ONE) is overtaken


def test_a_single_writer_is_never_overtaken() -> None:
    """No other viewer writes, so none needs a correction."""
    contention = Contention(Clock())
    assert not any(contention.note(KEY, ONE) for _ in range(10))


def test_the_server_needs_no_correction() -> None:
    """The app's own writes are what the others are corrected to."""
    contention = Contention(Clock())
    contention.note(KEY, ONE)
    assert not contention.note(KEY, None)


@pytest.mark.parametrize("first", [OTHER, None])
def test_a_writer_right_after_another_is_overtaken(first: object) -> None:
    """Whether the other one is a viewer or the app."""
    clock = Clock()
    contention = Contention(clock)
    contention.note(KEY, first)
    clock.now += WINDOW - 0.1
    assert contention.note(KEY, ONE)


def test_what_is_long_ago_does_not_count() -> None:
    """The other's patch has been seen by then."""
    clock = Clock()
    contention = Contention(clock)
    contention.note(KEY, OTHER)
    clock.now += WINDOW
    assert not contention.note(KEY, ONE)


def test_other_attributes_do_not_count() -> None:
    """Two viewers at two sliders do not disturb each other."""
    contention = Contention(Clock())
    contention.note(KEY, OTHER)
    assert not contention.note(("p1002", "value"), ONE)
    assert not contention.note(("p1001", "title"), ONE)


def test_writing_again_does_not_forget_who_else_did() -> None:
    """A viewer's second change within the window is as late as its first."""
    clock = Clock()
    contention = Contention(clock)
    contention.note(KEY, OTHER)
    for _ in range(3):
        clock.now += 1
        assert contention.note(KEY, ONE)


def test_a_correction_counts_as_a_change_by_another() -> None:
    """It overwrites what its viewer changed while it was on its way, so that change needs a correction of its own."""
    clock = Clock()
    contention = Contention(clock)
    contention.note(KEY, OTHER)
    clock.now += WINDOW - 0.1
    assert contention.note(KEY, ONE)
    clock.now += 0.2
    assert contention.note(KEY, ONE)


def test_memory_is_bounded() -> None:
    """Old writes are forgotten, and the oldest of very many."""
    clock = Clock()
    contention = Contention(clock)
    for number in range(100):
        contention.note((f"p{number}", "value"), OTHER)
    clock.now += WINDOW
    contention.note(KEY, ONE)
    assert len(contention._writes) == 1
    for number in range(20_000):
        contention.note((f"p{number}", "value"), OTHER)
    assert len(contention._writes) == 10_000
    assert contention.note(("p19999", "value"), ONE)


# Simulated networks


@dataclass(order=True, slots=True)
class _Arrival:
    at: float
    number: int
    act: Callable[[], object] = field(compare=False)


class Network:
    """Peers whose messages take their time, in order, in each direction. Time is the session's own clock.

    Args:
        session: whom the peers are connected to.
        delays: seconds up and down for each peer; no message takes longer.
    """

    def __init__(self, session: Session, clock: Clock, delays: list[tuple[float, float]]) -> None:
        self.session = session
        self.peers = [Peer.pulled(session, token=f"token {number}") for number in range(len(delays))]
        self._clock = clock
        self._delays = delays
        self._arrivals: list[_Arrival] = []
        self._number = count()

    def wait(self, seconds: float) -> None:
        """Let time pass, and arrive what arrives meanwhile."""
        until = self._clock.now + seconds
        while self._arrivals and self._arrivals[0].at <= until:
            self._correct_before(self._arrivals[0].at)
            arrival = heapq.heappop(self._arrivals)
            self._clock.now = max(self._clock.now, arrival.at)
            arrival.act()
            self._send_down()
        self._correct_before(until)
        self._clock.now = until

    def change(self, who: int, act: Callable[[Peer], object]) -> None:
        """Have a peer change its document; the message is on its way."""
        peer = self.peers[who]
        act(peer)
        changes, peer.changes = peer.changes, []
        for message in changes:
            self._arrive_in(self._delays[who][0], partial(self._to_session, peer, message))

    def serve(self, act: Callable[[], None]) -> None:
        """Have the app change the document."""
        self._arrive_in(0, lambda: self._as_app(act))
        self.wait(0)

    def settle(self) -> None:
        """Let everything arrive."""
        self.wait(2 * WINDOW)
        while self._arrivals:
            self.wait(2 * WINDOW)

    def _correct_before(self, next_arrival: float) -> None:
        """What the session's timer does in a pause; here time only passes when a test says so."""
        if next_arrival - self._clock.now > PAUSE and (contested := self.session.corrections.take()):
            self._clock.now += PAUSE
            work = self.session._correct(contested)
            with pytest.raises(StopIteration):
                work.send(None)
            self._send_down()

    def _to_session(self, peer: Peer, message: Message[Any]) -> None:
        assert peer.send(message) is None

    def _as_app(self, act: Callable[[], None]) -> None:
        work = self.session.with_document_locked(act)
        with pytest.raises(StopIteration):
            work.send(None)

    def _send_down(self) -> None:
        for peer, (_, down) in zip(self.peers, self._delays, strict=True):
            for message in peer.mailbox.unread():
                self._arrive_in(down, partial(peer.take, message))

    def _arrive_in(self, delay: float, act: Callable[[], object]) -> None:
        heapq.heappush(self._arrivals, _Arrival(self._clock.now + delay, next(self._number), act))


def shared_session(clock: Clock) -> Session:
    """A slider that snaps to even numbers below 100, a text, and a table."""
    slider = Slider(start=0, end=1000, value=0, step=1, name="slider")
    slider.on_change("value", lambda attr, old, new: slider.update(value=min(new, 100) // 2 * 2))
    return make_session(slider, TextInput(name="text"), ColumnDataSource({"x": [0, 0]}, name="table"), clock=clock)


def named(document: Any, name: str) -> Any:
    return document.get_model_by_name(name)


CHANGES: dict[str, Callable[[Any, int], object]] = {
    "slider": lambda document, n: named(document, "slider").update(value=n),
    "text": lambda document, n: named(document, "text").update(value=f"text {n}"),
    "title": lambda document, n: setattr(document, "title", f"title {n}"),
    "stream": lambda document, n: named(document, "table").stream({"x": [n]}),
    "roll": lambda document, n: named(document, "table").stream({"x": [n]}, rollover=3),
    "patch": lambda document, n: named(document, "table").patch({"x": [(n % 2, n)]}),
    "replace": lambda document, n: named(document, "table").update(data={"x": [n, n + 1]}),
}

APP = 3
PEERS = 3

steps = st.lists(
    st.tuples(st.floats(0, 3), st.integers(0, APP), st.sampled_from(sorted(CHANGES)), st.integers(0, 200)), max_size=14
)
delays = st.floats(0, WINDOW / 2 - 0.01)


@given(steps, st.lists(st.tuples(delays, delays), min_size=PEERS, max_size=PEERS))
@settings(max_examples=60, deadline=None)
@example([(0, APP, "slider", 2), (4.9, 0, "slider", 4), (0.2, 0, "slider", 6)], [(0.0, 1.0)] * PEERS)
@example([(0, 1, "stream", 2), (4.9, 0, "stream", 4), (0.2, 0, "stream", 6)], [(0.0, 1.0)] * PEERS)
@example([(0, 0, "slider", 151), (0.1, 1, "slider", 3)], [(1.0, 1.0)] * PEERS)
def test_all_documents_are_equal_in_the_end(
    steps: list[tuple[float, int, str, int]], delays: list[tuple[float, float]]
) -> None:
    """Whatever three viewers and the app change, and whenever it arrives: all see the server's document at the end."""

    async def scenario() -> None:
        clock = Clock()
        session = shared_session(clock)
        network = Network(session, clock, delays)
        for pause, who, change, number in steps:
            network.wait(pause)
            act = CHANGES[change]
            if who == APP:
                network.serve(lambda act=act, number=number: act(session.document, number))  # type: ignore[misc]
            else:
                network.change(who, lambda peer, act=act, number=number: act(peer.document, number))  # type: ignore[misc]
        network.settle()
        for peer in network.peers:
            assert state_of(peer.document) == state_of(session.document)

    asyncio.run(scenario())


@in_loop
async def test_the_servers_order_wins() -> None:
    """Two sliders dragged at once: the change that arrived last is what everyone has, both writers included."""
    clock = Clock()
    session = shared_session(clock)
    network = Network(session, clock, [(0.5, 0.5), (1.0, 0.5), (0.1, 0.1)])
    network.change(0, lambda peer: CHANGES["slider"](peer.document, 10))
    network.change(1, lambda peer: CHANGES["slider"](peer.document, 20))
    network.settle()
    assert [named(peer.document, "slider").value for peer in network.peers] == [20, 20, 20]


def _write(peer: Peer, number: int) -> None:
    CHANGES["text"](peer.document, number)


@in_loop
async def test_without_contention_there_are_no_echoes() -> None:
    """A viewer alone at its slider gets nothing but its OKs."""
    clock = Clock()
    session = shared_session(clock)
    network = Network(session, clock, [(0.1, 0.1), (0.1, 0.1)])
    for number in (10, 20, 30):
        network.change(0, partial(_write, number=number))
        network.wait(1)
    types = [message.msgtype for write in network.peers[0].mailbox.writes[1:] for message in write]
    assert types == ["OK"] * 3
