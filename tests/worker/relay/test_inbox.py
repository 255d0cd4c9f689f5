"""The inbox: each viewer's messages in order and once, and an end for those that cannot be handled."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

from bokeh.models import Slider
from support.clock import in_fake_time
from support.peers import make_session
from support.relay_posts import PLACE, OwnerPostbox, run_of

from aperture.bus.envelope import FromClient, Joined, Refused, Reply
from aperture.errors import ProtocolError, SessionGone
from aperture.protocol.messages import Message
from aperture.worker.relay.audience import RemoteViewer, SessionAudience
from aperture.worker.relay.inbox import Inbox
from aperture.worker.session.session import Session
from aperture.worker.session.viewer import Viewer

EDGE = "node/1/edge"


class Desk:
    """An inbox whose messages are only noted, or held up, or fail."""

    def __init__(self) -> None:
        self.session = make_session(Slider(start=0, end=1))
        self.post = OwnerPostbox()
        self.audience = SessionAudience(self.session, PLACE, self.post, fenced=self._never)
        self.viewer = RemoteViewer(self.audience, EDGE, "c", "token", inline=False, max_message_size=1000)
        self.audience.join(self.viewer)
        self.inbox = Inbox(self._receive)
        self.handled: list[tuple[str, int | None]] = []
        self.problem: Exception | None = None
        self.busy: asyncio.Event | None = None

    async def _never(self, session: Session) -> None:
        raise AssertionError("not fenced")

    def _receive(self, session: Session, viewer: Viewer, message: Message) -> Awaitable[None] | None:
        self.handled.append((message.msgid, viewer.seen))
        return self._work() if self.busy else self._act()

    def _act(self) -> None:
        if self.problem is not None:
            raise self.problem
        self.viewer.send(run_of("x"))

    async def _work(self) -> None:
        assert self.busy is not None
        await self.busy.wait()
        self._act()

    def take(self, *numbers: int) -> None:
        for number in numbers:
            header = f'{{"msgid": "m{number}", "msgtype": "PATCH-DOC"}}'
            letter = FromClient(PLACE, EDGE, "c", number, 10 + number, (header, "{}", "{}"))
            self.inbox.take(self.session, self.audience, self.viewer, letter)

    def told(self, kind: type[Any]) -> list[Any]:
        return self.post.told_of(kind)


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
    assert [(j.received, j.answered) for j in desk.told(Joined)] == [(1, 1)]


@in_fake_time
async def test_the_last_answer_is_said_again() -> None:
    """When its message comes again: the answer may have been lost."""
    desk = Desk()
    desk.take(1, 2, 2, 1)
    await turn()
    assert [r.number for r in desk.told(Reply)] == [1, 2, 2]


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
async def test_what_breaks_the_protocol_ends_its_connection() -> None:
    """With the code that says so, and nothing behind it is handled."""
    desk = Desk()
    desk.busy = asyncio.Event()
    desk.problem = ProtocolError("bad", 1008)
    desk.take(1, 2, 3)
    desk.busy.set()
    await turn()
    assert desk.handled == [("m1", 11)]
    assert [(r.code, r.reason) for r in desk.told(Refused)] == [(1008, "bad")]
    assert desk.audience.connections == 0


@in_fake_time
async def test_fragments_that_are_none_end_their_connection() -> None:
    """As they would on a websocket that is here."""
    desk = Desk()
    letter = FromClient(PLACE, EDGE, "c", 1, 0, ("no json",))
    desk.inbox.take(desk.session, desk.audience, desk.viewer, letter)
    await turn()
    assert len(desk.told(Refused)) == 1


@in_fake_time
async def test_a_session_that_is_gone_sends_its_viewers_away() -> None:
    """They come back to wherever it is by then."""
    desk = Desk()
    desk.problem = SessionGone("gone")
    desk.take(1)
    await turn()
    assert [r.code for r in desk.told(Refused)] == [1012]


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
        assert [r.code for r in desk.told(Refused)] == [1011]
