"""The inbox: each viewer's messages in order and once, and an end for those that cannot be handled."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

import pytest
from bokeh.models.widgets import Slider
from support.clock import in_fake_time
from support.peers import make_session
from support.relay_posts import SESSION_KEY, OwnerPostbox, run_of

from aperture.errors import BusDown, ProtocolError, SessionGone, TransferFailed
from aperture.protocol.messages import Message
from aperture.wire.envelopes import FromClient, Joined, Refused, Reply, pack_fragments
from aperture.worker.patch.viewer import Viewer
from aperture.worker.relay import audience as module
from aperture.worker.relay.audience import RemoteViewer, SessionAudience
from aperture.worker.relay.remote_messages import Inbox
from aperture.worker.session.session import Session
from aperture.worker.session.slice import SLICE, Slice

EDGE = "node/1/edge"


class Desk:
    """An inbox whose messages are only noted, or held up, or fail."""

    def __init__(self) -> None:
        self.session = make_session(Slider(start=0, end=1))
        self.post = OwnerPostbox()
        self.audience = SessionAudience(self.session, SESSION_KEY, self.post, fenced=self._never)
        self.viewer = RemoteViewer(self.audience, EDGE, "c", "token", inline=False, max_message_size=1000)
        self.audience.join(self.viewer)
        self.inbox = Inbox(self._receive, self._fetch)
        self.offers: dict[str, asyncio.Future[bytes]] = {}
        """What the edge offers, when the test lets it come."""
        self.handled: list[tuple[str, int | None]] = []
        self.problem: Exception | None = None
        self.busy: asyncio.Event | None = None
        self.work = 0.0
        """Seconds that acting on a message takes."""
        self._spent = 0.0
        self.viewer.slice = Slice(lambda: self._spent)

    async def _fetch(self, worker: str, transfer: str, size: int) -> bytes:
        assert worker == EDGE
        return await self.offers[transfer]

    async def _never(self, session: Session) -> None:
        raise AssertionError("not fenced")

    def _receive(self, session: Session, viewer: Viewer, message: Message) -> Awaitable[None] | None:
        self.handled.append((message.msgid, viewer.seen))
        if self.busy:
            return self._work()
        self._act()
        return None

    def _act(self) -> None:
        self._spent += self.work
        if self.problem is not None:
            raise self.problem
        self.viewer.send(run_of("x"))

    async def _work(self) -> None:
        assert self.busy is not None
        await self.busy.wait()
        self._act()

    def take(self, *numbers: int) -> None:
        for number in numbers:
            self._take(self.viewer, number, "PATCH-DOC")

    def _take(self, viewer: RemoteViewer, number: int, kind: str) -> None:
        header = f'{{"msgid": "m{number}", "msgtype": "{kind}"}}'
        letter = FromClient(SESSION_KEY, EDGE, viewer.connection, number, 10 + number, (header, "{}", "{}"))
        self.inbox.take(self.session, self.audience, viewer, letter)

    def answers(self, kind: type[Any]) -> list[Any]:
        return self.post.messages_of(kind)


class Crowd(Desk):
    """Viewers who pull at the same moment.

    Args:
        count: how many.
        size: of the document.
    """

    def __init__(self, count: int, size: int = 100_000) -> None:
        super().__init__()
        self.audience.leave(self.viewer)
        self._run = run_of("x" * size)
        self.viewers = []
        for number in range(count):
            viewer = RemoteViewer(self.audience, EDGE, f"c{number}", "token", inline=False, max_message_size=1000)
            self.audience.join(viewer)
            self.viewers.append(viewer)
        self.made = 0
        """How many documents."""

    def _receive(self, session: Session, viewer: Viewer, message: Message) -> Awaitable[None] | None:
        if message.msgtype != "PULL-DOC-REQ":
            viewer.outbox.send(run_of("OK"))
            return None
        self.made += 1
        if self.busy:
            return self._make(viewer)
        viewer.outbox.send(self._run)
        return None

    async def _make(self, viewer: Viewer) -> None:
        assert self.busy is not None
        await self.busy.wait()
        viewer.outbox.send(self._run)

    def pull(self, *numbers: int) -> None:
        for number in numbers or range(len(self.viewers)):
            self._take(self.viewers[number], 1, "PULL-DOC-REQ")

    @property
    def answered(self) -> list[str]:
        return [reply.connection for reply in self.answers(Reply)]


async def turn() -> None:
    await asyncio.sleep(0.001)


@in_fake_time
async def test_each_message_is_handled_once_and_in_order() -> None:
    """Copies of old ones are dropped; one that comes too early waits until its predecessor has come."""
    desk = Desk()
    desk.take(1, 1, 3, 2, 2, 3, 1)
    assert desk.handled == [("m1", 11), ("m2", 12), ("m3", 13)]


@in_fake_time
async def test_a_gap_is_asked_for_once() -> None:
    """A thousand messages may be behind it."""
    desk = Desk()
    desk.take(1, 3, 4, 5)
    await turn()
    assert [(j.received, j.answered) for j in desk.answers(Joined)] == [(1, 1)]


@in_fake_time
async def test_the_last_answer_is_said_again() -> None:
    """When its message comes again: the answer may have been lost."""
    desk = Desk()
    desk.take(1, 2, 2, 1)
    await turn()
    assert [r.number for r in desk.answers(Reply)] == [1, 2, 2]


@in_fake_time
async def test_a_busy_document_keeps_the_order() -> None:
    """The next message is handled when the one before is done, with what its own sender had seen."""
    desk = Desk()
    desk.busy = asyncio.Event()
    desk.take(1, 2)
    await turn()
    assert desk.handled == [("m1", 11)]
    assert desk.viewer.seen == 11
    desk.busy.set()
    await turn()
    assert desk.handled == [("m1", 11), ("m2", 12)]
    assert not desk.inbox._tasks


@in_fake_time
async def test_a_burst_gives_way_between_its_messages() -> None:
    """A viewer whose messages take long has one acted on per turn of the loop, in their order, whenever they came."""
    desk = Desk()
    desk.work = SLICE
    turns = 0

    def next_turn() -> None:
        nonlocal turns
        turns += 1
        if turns == 1:
            desk.take(4)
        if turns < 10:
            asyncio.get_running_loop().call_soon(next_turn)
        counts.append(len(desk.handled))

    counts: list[int] = []
    asyncio.get_running_loop().call_soon(next_turn)
    desk.take(1, 2, 3)
    await turn()
    assert [name for name, _ in desk.handled] == ["m1", "m2", "m3", "m4"]
    assert counts == [1, 2, 3, 4, 4, 4, 4, 4, 4, 4]


@in_fake_time
async def test_a_burst_of_quick_messages_is_acted_on_at_once() -> None:
    """Up to the slice that a connection has, nothing gives way."""
    desk = Desk()
    desk.work = SLICE / 4
    desk.take(*range(1, 7))
    assert len(desk.handled) == 4
    await turn()
    assert len(desk.handled) == 6


@in_fake_time
async def test_what_breaks_the_protocol_ends_its_connection(caplog: pytest.LogCaptureFixture) -> None:
    """With the code that says so, a line in the log, and nothing behind it is handled."""
    desk = Desk()
    desk.busy = asyncio.Event()
    desk.problem = ProtocolError("bad", 1008)
    desk.take(1, 2, 3)
    desk.busy.set()
    await turn()
    assert desk.handled == [("m1", 11)]
    assert [(r.code, r.reason) for r in desk.answers(Refused)] == [(1008, "bad")]
    assert [record.getMessage().partition(", ")[2] for record in caplog.records if record.levelname == "WARNING"] == [
        "in another worker, broke the protocol: bad"
    ]
    assert desk.audience.connections == 0


@in_fake_time
async def test_fragments_that_are_none_end_their_connection() -> None:
    """As they would on a websocket that is here."""
    desk = Desk()
    letter = FromClient(SESSION_KEY, EDGE, "c", 1, 0, ("no json",))
    desk.inbox.take(desk.session, desk.audience, desk.viewer, letter)
    await turn()
    assert len(desk.answers(Refused)) == 1


@in_fake_time
async def test_a_session_that_is_gone_sends_its_viewers_away() -> None:
    """They come back to wherever it is by then."""
    desk = Desk()
    desk.problem = SessionGone("gone")
    desk.take(1)
    await turn()
    assert [r.code for r in desk.answers(Refused)] == [1012]


@in_fake_time
async def test_a_bus_that_is_down_costs_a_line_and_a_reconnect(caplog: pytest.LogCaptureFixture) -> None:
    """No traceback: it is neither the viewer's fault nor ours."""
    desk = Desk()
    desk.problem = BusDown("no connection")
    desk.take(1)
    await turn()
    assert [r.code for r in desk.answers(Refused)] == [1012]
    assert [record.exc_info for record in caplog.records] == [None]


@in_fake_time
async def test_what_fails_is_not_sent_for_ever() -> None:
    """Our own fault: logged, and the connection is closed, at once or later."""
    for busy in (None, asyncio.Event()):
        desk = Desk()
        desk.busy = busy
        desk.problem = RuntimeError("ours")
        desk.take(1)
        if busy is not None:
            busy.set()
        await turn()
        assert [r.code for r in desk.answers(Refused)] == [1011]


@in_fake_time
async def test_a_crowd_is_answered_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """However much larger its documents are than all that may wait for Redis: none is given up, nothing piles up."""
    monkeypatch.setattr(module, "QUEUE_LIMIT", 300_000)
    monkeypatch.setattr(module, "PULL_MARK", 250_000)
    crowd = Crowd(20)
    crowd.post.open.clear()
    crowd.pull()
    await turn()
    assert crowd.made == 3
    crowd.post.open.set()
    await turn()
    assert crowd.answered == [viewer.connection for viewer in crowd.viewers]
    assert crowd.audience.connections == 20
    assert (crowd.audience._documents, crowd.audience._queued) == (0, 0)


@in_fake_time
async def test_a_document_larger_than_all_that_may_wait_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also while patches wait, and patches behind it."""
    monkeypatch.setattr(module, "QUEUE_LIMIT", 100_000)
    crowd = Crowd(2, size=500_000)
    crowd.post.open.clear()
    for _ in range(2):
        crowd.audience.publish(1, run_of("x" * 10_000), {}, None)
        crowd.pull(crowd.made)
    crowd.post.open.set()
    await turn()
    assert crowd.answered == ["c0"]  # an edge fetches one at a time
    crowd.post.end_offer("offer-1")
    await turn()
    assert crowd.answered == ["c0", "c1"]
    assert crowd.audience.connections == 2


@in_fake_time
async def test_a_message_that_is_fetched_keeps_its_place() -> None:
    """What comes behind it waits for it, and is not asked for again."""
    desk = Desk()
    arrives = desk.offers["large"] = asyncio.get_running_loop().create_future()
    letter = FromClient(SESSION_KEY, EDGE, desk.viewer.connection, 1, 11, (), "large", 100)
    desk.inbox.take(desk.session, desk.audience, desk.viewer, letter)
    desk.take(2)
    await turn()
    assert desk.handled == []
    arrives.set_result(pack_fragments(('{"msgid": "m1", "msgtype": "PATCH-DOC"}', "{}", "{}")))
    await turn()
    assert desk.handled == [("m1", 11), ("m2", 12)]
    assert desk.answers(Joined) == []


@in_fake_time
@pytest.mark.parametrize(("size", "code"), [(100, 1012), (10_000_000, 1009)], ids=["gone", "too large"])
async def test_a_message_that_cannot_be_fetched_ends_its_connection(size: int, code: int) -> None:
    """It would be waited for for ever, and nothing behind it may overtake it."""
    desk = Desk()
    gone = desk.offers["large"] = asyncio.get_running_loop().create_future()
    gone.set_exception(TransferFailed("gone"))
    letter = FromClient(SESSION_KEY, EDGE, desk.viewer.connection, 1, 11, (), "large", size)
    desk.inbox.take(desk.session, desk.audience, desk.viewer, letter)
    desk.take(2)
    await turn()
    assert desk.handled == []
    [refused] = desk.answers(Refused)
    assert refused.code == code
    assert gone.exception() is not None


@in_fake_time
async def test_a_crowd_that_waits_for_a_busy_document_gets_it_one_after_the_other() -> None:
    """When it is free again not all of them are made at once."""
    crowd = Crowd(20)
    crowd.busy = asyncio.Event()
    crowd.pull()
    await turn()
    assert crowd.made == 1
    crowd.busy.set()
    await turn()
    assert len(crowd.answered) == 20


@in_fake_time
async def test_whoever_leaves_keeps_nobody_waiting() -> None:
    """Whether it is its turn or not, and whether or not its document is made in the end: that is not sent."""
    crowd = Crowd(4)
    crowd.busy = asyncio.Event()
    crowd.pull()
    await turn()
    for leaving in crowd.viewers[:2]:
        crowd.audience.leave(leaving)
    await turn()
    assert crowd.made == 2
    crowd.busy.set()
    await turn()
    crowd.viewers[0].live = True
    assert crowd.answered == ["c2", "c3"]
    assert not crowd.audience.live


@in_fake_time
async def test_other_messages_do_not_wait_for_documents() -> None:
    """But for those that the same viewer has sent behind its own pull."""
    crowd = Crowd(3)
    crowd.busy = asyncio.Event()
    crowd.pull(0, 1)
    crowd._take(crowd.viewers[1], 2, "PATCH-DOC")
    crowd._take(crowd.viewers[2], 1, "PATCH-DOC")
    await turn()
    assert crowd.answered == ["c2"]
    crowd.busy.set()
    await turn()
    assert crowd.answered == ["c2", "c0", "c1", "c1"]


@in_fake_time
async def test_answers_are_not_said_again_on_top_of_much_that_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hundreds of viewers ask at once when the bus is back; their edges ask again."""
    monkeypatch.setattr(module, "PULL_MARK", 5000)
    desk = Desk()
    desk.take(1)
    desk.post.open.clear()
    for _ in range(100):
        desk.take(1)
    assert desk.audience._queued < 6000
    desk.post.open.set()
    await turn()
    before = len(desk.answers(Reply))
    desk.take(1)
    await turn()
    assert len(desk.answers(Reply)) == before + 1
