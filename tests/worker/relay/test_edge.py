"""Edges: what reaches their connections, in which order, and what becomes of holes, silence and strangers."""

from __future__ import annotations

import asyncio

import pytest
from msgspec.structs import replace
from support.clock import in_fake_time
from support.relay_posts import ME, OWNER, SESSION_KEY, EdgePostbox, Outbox, joined, patches, reply

from aperture.errors import ProtocolError, TransferFailed
from aperture.metrics import AppTally, RelayTally
from aperture.protocol import messages
from aperture.protocol.frames import FrameRun
from aperture.protocol.messages import Message
from aperture.wire.envelopes import FromClient, Hostile, Join, Leave, Probe, SessionEnded, Stored, unpack_fragments
from aperture.worker.relay import edge as module
from aperture.worker.relay import edge_viewer, repair
from aperture.worker.relay.edge import EdgeSession
from aperture.worker.relay.edge_viewer import EdgeViewer
from aperture.worker.relay.transfers import MAX_TRANSFER

RESTART = 1012
LARGEST = 1_000_000
"""Bytes that a viewer may send in one message."""


class Edge:
    """An edge of one session, and all that it touches."""

    def __init__(self, *, acknowledged: bool = False) -> None:
        self.acknowledged = acknowledged
        self.post = EdgePostbox()
        self.hostile = Hostile()
        self.ended = 0
        self.tally = RelayTally()
        self.session = EdgeSession(
            SESSION_KEY, OWNER, self.post, hostile=self.hostile, ended=self._on_ended, relay_tally=self.tally
        )

    def _on_ended(self, session: EdgeSession) -> None:
        self.ended += 1

    def enter(self) -> tuple[EdgeViewer, Outbox]:
        outbox = Outbox()
        viewer = EdgeViewer(
            self.session,
            outbox,
            "token",
            from_browser=True,
            max_message_size=LARGEST,
            acknowledged=self.acknowledged,
        )
        self.session.enter(viewer)
        return viewer, outbox

    def live(self, sequence: int = 0) -> tuple[EdgeViewer, Outbox]:
        """A connection that has pulled the document."""
        viewer, outbox = self.enter()
        self.session.take_joined(joined(viewer.connection, sequence))
        say(viewer, "PULL-DOC-REQ")
        self.session.take_reply(reply(viewer.connection, 1, b"document", after=sequence))
        return viewer, outbox


def say(viewer: EdgeViewer, kind: str = "PATCH-DOC", fragment: str = "fragment") -> None:
    message = Message("id", kind, None, {}, {})
    assert viewer.receive(message, (fragment,)) is None


async def turn() -> None:
    """Long enough for tasks, too short for timers that matter."""
    await asyncio.sleep(0.001)


@in_fake_time
async def test_patches_are_written_once_and_in_order() -> None:
    """Published twice, because the first answer was lost, is written once."""
    edge = Edge()
    _, outbox = edge.live()
    edge.session.deliver(patches(1, b"one", b"two"))
    edge.session.deliver(patches(1, b"one", b"two"))
    edge.session.deliver(patches(2, b"two", b"three"))
    assert outbox.runs == [b"document", b"one", b"two", b"three"]


@in_fake_time
async def test_a_connection_gets_patches_after_its_document() -> None:
    """Before, it could make nothing of them."""
    edge = Edge()
    edge.live()
    viewer, outbox = edge.enter()
    edge.session.take_joined(joined(viewer.connection))
    edge.session.deliver(patches(1, b"one"))
    say(viewer, "PULL-DOC-REQ")
    edge.session.take_reply(reply(viewer.connection, 1, b"document", after=1))
    edge.session.deliver(patches(2, b"two"))
    assert outbox.runs == [b"document", b"two"]


@in_fake_time
async def test_a_variant_goes_instead_and_answers() -> None:
    """The sender of a change gets the results and its answer in one write, and no echo."""
    edge = Edge()
    sender, outbox = edge.live()
    _, other = edge.live()
    say(sender)
    edge.session.deliver(patches(1, b"all", variants={sender.connection: b"own"}, answers={sender.connection: 2}))
    assert (outbox.runs[1:], other.runs[1:]) == ([b"own"], [b"all"])
    assert not sender.unanswered
    edge.session.take_reply(reply(sender.connection, 2, b"again", after=1))
    assert outbox.runs[1:] == [b"own"]


@in_fake_time
async def test_a_patch_to_the_author_of_a_change_counts_as_any_other() -> None:
    """But for the answer that travels with it, and not where there is nothing but the answer."""
    edge = Edge()
    tally = edge.session.tally = AppTally.unread("/app")
    author, _ = edge.live()
    edge.live()
    everyone, own = (messages.patch(content, [], epoch=1, sequence=1) for content in (b'{"events":[1]}', b"{}"))
    answer = messages.ok("1")

    say(author)
    both = FrameRun.join((own, answer)).plain
    edge.session.deliver(patches(1, everyone.plain, variants={author.connection: both}, answers={author.connection: 2}))
    assert (tally.patches_out, tally.patch_bytes_out) == (2, len(everyone.plain) + len(own.plain))

    say(author)
    edge.session.deliver(
        patches(2, everyone.plain, variants={author.connection: answer.plain}, answers={author.connection: 3})
    )
    assert (tally.patches_out, tally.patch_bytes_out) == (3, 2 * len(everyone.plain) + len(own.plain))


@in_fake_time
async def test_a_variant_without_an_answer_answers_nothing() -> None:
    """What an app held and let go later came from a message that was answered long ago."""
    edge = Edge()
    viewer, outbox = edge.live()
    say(viewer)
    edge.session.deliver(patches(1, b"all", variants={viewer.connection: b""}))
    assert [message.number for message in viewer.unanswered] == [2]
    assert outbox.runs == [b"document"]


@in_fake_time
async def test_a_hole_is_filled_from_the_stream() -> None:
    """All of it, before what came behind it; and answers keep their place."""
    edge = Edge()
    viewer, outbox = edge.live()
    edge.post.stream = [patches(1, b"one"), patches(2, b"two"), patches(3, b"three")]
    say(viewer)
    edge.session.deliver(patches(3, b"three"))
    edge.session.take_reply(reply(viewer.connection, 2, b"answer", after=3))
    edge.session.deliver(patches(4, b"four"))
    await turn()
    assert outbox.runs == [b"document", b"one", b"two", b"three", b"answer", b"four"]
    assert edge.post.reads == [0]


@in_fake_time
async def test_a_document_that_waits_for_a_hole_misses_nothing() -> None:
    """Patches that came behind the document while the hole was being filled are not in it."""
    edge = Edge()
    edge.live()
    viewer, outbox = edge.enter()
    edge.session.take_joined(joined(viewer.connection))
    say(viewer, "PULL-DOC-REQ")
    edge.post.stream = [patches(1, b"one")]
    edge.session.take_reply(reply(viewer.connection, 1, b"document", after=1))
    edge.session.deliver(patches(2, b"two"))
    await turn()
    assert outbox.runs == [b"document", b"two"]


@in_fake_time
async def test_what_came_after_the_stream_was_read_is_read_again() -> None:
    """A second hole behind the first is no reason to close anybody."""
    edge = Edge()
    _, outbox = edge.live()
    edge.post.readable.clear()
    edge.post.stream = [patches(1, b"one", b"two")]
    edge.session.deliver(patches(2, b"two"))
    await turn()
    edge.post.stream = [patches(3, b"three"), patches(4, b"four")]
    edge.session.deliver(patches(4, b"four"))
    edge.post.readable.set()
    await turn()
    assert outbox.runs == [b"document", b"one", b"two", b"three", b"four"]


@in_fake_time
async def test_what_is_gone_from_the_stream_closes() -> None:
    """The browsers come back at once, and pull afresh."""
    edge = Edge()
    _, outbox = edge.live()
    edge.post.stream = None
    edge.session.deliver(patches(3, b"three"))
    await turn()
    assert outbox.closed == (RESTART, "patches are lost")
    assert outbox.runs == [b"document"]
    assert edge.ended == 1


@pytest.mark.parametrize(
    ("problem", "reason"),
    [
        (ValueError("an entry of another program"), "its stream holds what is none of ours"),
        (RuntimeError("whatever"), "patches are lost"),
    ],
)
@in_fake_time
async def test_a_repair_that_fails_closes(problem: Exception, reason: str) -> None:
    """Else all that comes would be held for a repair that never ends."""
    edge = Edge()
    _, outbox = edge.live()
    edge.post.problem = problem
    edge.session.deliver(patches(2, b"two"))
    await turn()
    assert outbox.closed == (RESTART, reason)
    assert edge.ended == 1
    assert edge.hostile.counts.total() == isinstance(problem, ValueError)


@in_fake_time
async def test_a_bus_that_stays_away_closes() -> None:
    """No viewer looks at an old document for ever."""
    edge = Edge()
    _, outbox = edge.live()
    edge.post.down = True
    edge.session.deliver(patches(2, b"two"))
    await asyncio.sleep(repair.REPAIR_TIME - 1)
    assert outbox.closed is None
    await asyncio.sleep(2)
    assert outbox.closed is not None


@in_fake_time
async def test_too_much_behind_a_hole_closes(monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits is bounded."""
    monkeypatch.setattr(repair, "HELD_BYTES", 100)
    edge = Edge()
    _, outbox = edge.live()
    edge.post.readable.clear()
    edge.session.deliver(patches(2, b"x" * 60))
    assert outbox.closed is None
    edge.session.deliver(patches(3, b"x" * 60))
    assert outbox.closed is not None


@in_fake_time
async def test_a_probe_shows_what_is_missing() -> None:
    """The last patch of a while may be the one that is lost."""
    edge = Edge()
    _, outbox = edge.live()
    edge.post.stream = [patches(1, b"one")]
    edge.session.deliver(Probe(7, 1).pack())
    await turn()
    assert outbox.runs == [b"document", b"one"]
    edge.session.deliver(Probe(7, 1).pack())
    await turn()
    assert edge.post.reads == [0]


@pytest.mark.parametrize("payload", [patches(1, b"one", epoch=8), Probe(8, 0).pack()])
def test_another_epoch_is_another_document(payload: bytes) -> None:
    """A newer owner's patches do not fit what is shown here."""

    @in_fake_time
    async def test() -> None:
        edge = Edge()
        _, outbox = edge.live()
        edge.session.deliver(payload)
        assert outbox.closed is not None

    test()


@in_fake_time
async def test_an_old_owner_is_not_heeded() -> None:
    """Neither its patches nor its goodbye."""
    edge = Edge()
    _, outbox = edge.live()
    edge.session.deliver(patches(1, b"one", epoch=6))
    edge.session.deliver(SessionEnded(6, 1011, "old").pack())
    assert (outbox.runs, outbox.closed) == ([b"document"], None)


@in_fake_time
async def test_the_owner_ends_the_session() -> None:
    """With its own code."""
    edge = Edge()
    _, outbox = edge.live()
    edge.session.deliver(SessionEnded(7, 1011, "a reason").pack())
    assert outbox.closed == (1011, "a reason")


@in_fake_time
async def test_strangers_are_counted_and_dropped() -> None:
    """On the channel and in the stream."""
    edge = Edge()
    _, outbox = edge.live()
    edge.session.deliver(b"\xc1junk")
    edge.post.stream = [b"\xc1junk", patches(1, b"one")]
    edge.session.deliver(Probe(7, 1).pack())
    await turn()
    assert edge.hostile.counts == {"a session's channel": 1, "a session's stream": 1}
    assert outbox.runs == [b"document", b"one"]


@in_fake_time
async def test_messages_are_numbered_and_sent_again_if_the_owner_lacks_them() -> None:
    """It says what it has had; the last one that it answered is sent again for its answer."""
    edge = Edge()
    viewer, _ = edge.live()
    for _ in range(4):
        say(viewer)
    await turn()
    numbers = [message.number for message in edge.post.sent_of(FromClient)]
    assert numbers == [1, 2, 3, 4, 5]
    edge.post.sent.clear()
    edge.session.take_joined(joined(viewer.connection, received=3, answered=2))
    await turn()
    assert [m.number for m in edge.post.sent_of(FromClient)] == [2, 4, 5]


@in_fake_time
async def test_messages_say_what_their_sender_can_have_seen() -> None:
    """However late they are handled, what was sent meanwhile overtakes them."""
    edge = Edge()
    viewer, _ = edge.live()
    edge.session.deliver(patches(1, b"one", b"two"))
    say(viewer)
    await turn()
    assert [m.seen for m in edge.post.sent_of(FromClient)] == [0, 2]


@in_fake_time
async def test_nobody_who_listens_is_asked_again() -> None:
    """Until an owner listens, or the registry is asked who has the session."""
    edge = Edge()
    viewer, _ = edge.live()
    edge.post.receivers = 0
    say(viewer)
    await asyncio.sleep(module.SEND_AGAIN * 2.5)
    joins = len(edge.post.sent_of(Join))
    assert joins == 3
    edge.post.receivers = 1
    await asyncio.sleep(10)
    assert len(edge.post.sent_of(Join)) == joins + 1


@in_fake_time
async def test_what_stays_unanswered_is_asked_about() -> None:
    """It may never have come, with nothing behind it to show that."""
    edge = Edge()
    viewer, _ = edge.live()
    say(viewer)
    await asyncio.sleep(module.UNANSWERED_TIME / 2)
    edge.session.ask_about_unanswered()
    await turn()
    assert len(edge.post.sent_of(Join)) == 1
    await asyncio.sleep(module.UNANSWERED_TIME)
    edge.session.ask_about_unanswered()
    await turn()
    assert len(edge.post.sent_of(Join)) == 2


@in_fake_time
async def test_a_document_that_comes_late_is_not_shown() -> None:
    """The patches since were not kept for it."""
    edge = Edge()
    edge.live()
    viewer, outbox = edge.enter()
    edge.session.take_joined(joined(viewer.connection))
    say(viewer, "PULL-DOC-REQ")
    edge.session.deliver(patches(1, b"one"))
    edge.session.take_reply(reply(viewer.connection, 1, b"document", after=0))
    assert (outbox.runs, outbox.closed) == ([], (RESTART, "an answer is lost"))


@in_fake_time
async def test_an_answer_that_is_waited_for_is_not_skipped() -> None:
    """A client that waits for its document would wait for ever; one that sent a patch waits for nothing."""
    edge = Edge()
    viewer, outbox = edge.live()
    say(viewer, "PATCH-DOC")
    say(viewer, "PATCH-DOC")
    edge.session.take_reply(reply(viewer.connection, 3, b"ok"))
    assert (outbox.runs[1:], outbox.closed) == ([b"ok"], None)
    say(viewer, "PULL-DOC-REQ")
    say(viewer, "PATCH-DOC")
    edge.session.take_reply(reply(viewer.connection, 5, b"ok"))
    assert outbox.closed is not None


@in_fake_time
async def test_the_answer_to_a_change_is_not_skipped_where_it_acknowledges() -> None:
    """The owner repeats its last answer only, and a client that waits for an earlier one would wait for ever."""
    edge = Edge(acknowledged=True)
    viewer, outbox = edge.live()
    for number in (2, 3, 4):
        say(viewer)
        if number != 3:
            edge.session.take_reply(reply(viewer.connection, number, b"ok", after=0))
    assert outbox.runs == [b"document", b"ok"]
    assert outbox.closed == (RESTART, "an answer is lost")


@in_fake_time
async def test_an_owner_that_has_forgotten_a_connection() -> None:
    """It took this worker for dead: their counts of messages would never meet again."""
    edge = Edge()
    _, outbox = edge.live()
    viewer = next(iter(edge.session.viewers.values()))
    edge.session.take_joined(joined(viewer.connection))
    assert outbox.closed is not None


@in_fake_time
async def test_a_connection_that_is_gone_is_reported_until_the_bus_takes_it() -> None:
    """Or the owner would keep the session, and publish, without viewers; and when asked about it, once more."""
    edge = Edge()
    viewer, _ = edge.live()
    edge.post.down = True
    viewer.leave()
    viewer.leave()
    assert edge.ended == 1
    await asyncio.sleep(3)
    edge.post.down = False
    await asyncio.sleep(3)
    assert edge.post.sent_of(Leave) == [Leave(SESSION_KEY, ME, viewer.connection, lost=False)]
    edge.session.take_joined(joined(viewer.connection))
    await turn()
    assert len(edge.post.sent_of(Leave)) == 2


@in_fake_time
async def test_the_owner_learns_whether_a_page_was_closed_or_cut_off() -> None:
    """It keeps the session of one that was cut off for when it comes back."""
    edge = Edge()
    closed, _ = edge.live()
    cut_off, _ = edge.live()
    closed.leave(lost=False)
    cut_off.leave(lost=True)
    await turn()
    assert [(leave.connection, leave.lost) for leave in edge.post.sent_of(Leave)] == [
        (closed.connection, False),
        (cut_off.connection, True),
    ]


@in_fake_time
async def test_a_refusal_before_joining_leaves_the_socket_open() -> None:
    """Its `enter` looks for the owner once more; later, the browser has to."""
    edge = Edge()
    viewer, outbox = edge.enter()
    edge.session.refuse(viewer.connection, RESTART, "not here")
    assert viewer.joined.cancelled()
    assert outbox.closed is None
    viewer, outbox = edge.live()
    edge.session.refuse(viewer.connection, RESTART, "not here")
    assert outbox.closed == (RESTART, "not here")


@in_fake_time
async def test_too_much_that_is_unanswered_closes(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a code that says to try again later, in bytes as in messages."""
    monkeypatch.setattr(edge_viewer, "UNANSWERED_MESSAGES", 3)
    edge = Edge()
    viewer, _ = edge.live()
    for _ in range(3):
        say(viewer)
    with pytest.raises(ProtocolError) as problem:
        say(viewer)
    assert problem.value.close_code == 1013
    monkeypatch.setattr(edge_viewer, "UNANSWERED_BYTES", 100)
    other, _ = edge.live()
    say(other, fragment="x" * LARGEST)  # one of the largest always fits
    with pytest.raises(ProtocolError):
        say(other, fragment="x" * 201)


@in_fake_time
async def test_a_large_document_is_fetched_and_what_follows_it_waits_behind() -> None:
    """For its own connection only: the others get what comes meanwhile at once."""
    edge = Edge()
    _, other = edge.live()
    viewer, outbox = edge.enter()
    edge.session.take_joined(joined(viewer.connection))
    say(viewer, "PULL-DOC-REQ")
    arrives = edge.post.content["large"] = asyncio.get_running_loop().create_future()
    edge.session.take_reply(replace(reply(viewer.connection, 1, b""), transfer="large", size=8))
    edge.session.deliver(patches(1, b"one", b"two"))
    await turn()
    assert (outbox.runs, other.runs) == ([], [b"document", b"one", b"two"])
    arrives.set_result(b"all of it")
    await turn()
    edge.session.deliver(patches(3, b"three"))
    assert outbox.runs == [b"all of it", b"one", b"two", b"three"]


@in_fake_time
@pytest.mark.parametrize("size", [0, MAX_TRANSFER + 1, 100], ids=["nothing", "too large", "gone"])
async def test_a_document_that_cannot_be_fetched_closes_its_connection(size: int) -> None:
    """Only that one, which comes back and pulls afresh."""
    edge = Edge()
    _, other = edge.live()
    viewer, outbox = edge.enter()
    edge.session.take_joined(joined(viewer.connection))
    say(viewer, "PULL-DOC-REQ")
    edge.post.content["large"] = asyncio.get_running_loop().create_future()
    edge.post.content["large"].set_exception(TransferFailed("gone"))
    edge.session.take_reply(replace(reply(viewer.connection, 1, b""), transfer="large", size=size))
    await turn()
    assert outbox.closed == (RESTART, "a document is lost")
    assert other.closed is None
    assert edge.post.content["large"].exception() is not None


@in_fake_time
async def test_too_much_behind_a_document_that_is_being_fetched_closes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is bounded, however long the owner takes."""
    monkeypatch.setattr(edge_viewer, "BEHIND_BYTES", 10)
    edge = Edge()
    viewer, outbox = edge.enter()
    edge.session.take_joined(joined(viewer.connection))
    say(viewer, "PULL-DOC-REQ")
    edge.post.content["large"] = asyncio.get_running_loop().create_future()
    edge.session.take_reply(replace(reply(viewer.connection, 1, b""), transfer="large", size=8))
    await turn()
    for number in range(1, 5):
        edge.session.deliver(patches(number, b"x" * 6))
    await turn()
    assert outbox.closed == (RESTART, "too much came behind a document")
    assert edge.post.content["large"].cancelled()


@in_fake_time
async def test_patches_too_large_to_be_published_are_read_from_the_stream() -> None:
    """In their place among the others, and without being taken for lost."""
    edge = Edge()
    _, outbox = edge.live()
    edge.post.stream = [patches(1, b"large")]
    edge.session.deliver(Stored(7, 1).pack())
    edge.session.deliver(patches(2, b"two"))
    await turn()
    assert outbox.runs == [b"document", b"large", b"two"]
    assert edge.tally.repaired == 0


@in_fake_time
async def test_a_large_message_is_offered_until_it_is_answered() -> None:
    """Its place among the others is sent, and the owner fetches it."""
    edge = Edge()
    viewer, _ = edge.live()
    say(viewer, fragment="x" * 500_000)
    say(viewer)
    await turn()
    large, small = edge.post.sent_of(FromClient)[1:]
    assert isinstance(large, FromClient)
    assert isinstance(small, FromClient)
    assert (large.fragments, large.number, small.number) == ((), 2, 3)
    assert unpack_fragments(edge.post.offers[large.transfer]) == ("x" * 500_000,)
    assert large.size == len(edge.post.offers[large.transfer])
    edge.session.take_reply(reply(viewer.connection, 2, b"OK"))
    assert edge.post.offers == {}
    say(viewer, fragment="x" * 500_000)
    viewer.leave()
    assert edge.post.offers == {}


@in_fake_time
async def test_a_closed_connection_sends_nothing_more() -> None:
    """What its browser sent before it learned of that is dropped."""
    edge = Edge()
    viewer, _ = edge.live()
    edge.session.close_all("restarting")
    await turn()
    edge.post.sent.clear()
    say(viewer)
    await turn()
    assert edge.post.sent == []
