"""The owner's side: what is published, in which order and how much at once, and what if Redis refuses."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from bokeh.document import Document
from bokeh.models.widgets import Div, Slider
from bokeh.protocol import Protocol
from support.clock import in_fake_time
from support.peers import Peer, holding, make_session
from support.relay_posts import SESSION_KEY, OwnerPostbox, run_of

from aperture.errors import BusFull
from aperture.wire.envelopes import Joined, Probe, Refused, Reply, SessionEnded
from aperture.worker.patch.batch import Patch
from aperture.worker.relay import audience as module
from aperture.worker.relay.audience import RemoteViewer, SessionAudience
from aperture.worker.session.session import Session

EDGE = "node/1/edge"


class Stage:
    """A session with an audience over a made-up bus."""

    def __init__(self) -> None:
        self.slider = Slider(start=0, end=100000, value=1)
        self.shown = Div(text="")
        self.session = make_session(self.slider, self.shown)
        self.post = OwnerPostbox()
        self.lost: list[Session] = []
        self.audience = SessionAudience(self.session, SESSION_KEY, self.post, fenced=self._on_fenced)
        self.session.fanout.audience = self.audience
        self._names = iter(range(1000))

    async def _on_fenced(self, session: Session) -> None:
        self.lost.append(session)

    def join(self, *, live: bool = True, edge: str = EDGE) -> RemoteViewer:
        name = f"connection-{next(self._names)}"
        viewer = RemoteViewer(self.audience, edge, name, "token", inline=False, max_message_size=1000)
        self.audience.join(viewer)
        viewer.live = live
        return viewer

    async def slide(self, value: int) -> None:
        await self.session.with_document_locked(lambda: self.slider.update(value=value))

    @property
    def sequences(self) -> list[tuple[int, int]]:
        return [(patches.first, patches.last) for patches in self.post.appended]


async def turn() -> None:
    await asyncio.sleep(0.001)


@in_fake_time
async def test_patches_of_one_append_go_in_the_next() -> None:
    """However many there are: Redis' round trip sets the pace, not the number of patches."""
    stage = Stage()
    stage.join()
    stage.post.open.clear()
    await stage.slide(2)
    await turn()
    for value in range(3, 50):
        await stage.slide(value)
    stage.post.open.set()
    await turn()
    assert stage.sequences == [(1, 1), (2, 48)]


@in_fake_time
async def test_patches_of_one_turn_share_a_call() -> None:
    """Several callbacks of one turn of the loop are one publication."""
    stage = Stage()
    stage.join()
    for value in range(2, 6):
        await stage.slide(value)
    await turn()
    assert stage.sequences == [(1, 4)]


@in_fake_time
async def test_a_call_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A larger patch goes by itself."""
    monkeypatch.setattr(module, "APPEND_LIMIT", 5000)
    stage = Stage()
    stage.join()
    for text in ("x" * 2000, "y" * 2000, "z" * 9000, "small"):
        await stage.session.with_document_locked(lambda text=text: stage.shown.update(text=text))
    await turn()
    assert stage.sequences == [(1, 2), (3, 3), (4, 4)]


@in_fake_time
async def test_answers_and_patches_keep_their_order() -> None:
    """An answer is behind the patches before it, and says which they are."""
    stage = Stage()
    viewer = stage.join()
    await stage.slide(2)
    run = run_of("first")
    viewer.send(run)
    await stage.slide(3)
    await turn()
    assert stage.post.order == ["patches 1-1", "Reply", "patches 2-2"]
    [reply] = stage.post.messages_of(Reply)
    assert isinstance(reply, Reply)
    assert (reply.after, reply.number, reply.frames) == (1, 1, run.plain)


@in_fake_time
async def test_a_sender_elsewhere_is_answered_in_the_publication() -> None:
    """One call of Redis for the change, its results and the answer."""
    stage = Stage()
    stage.slider.on_change("value", lambda attr, old, new: stage.shown.update(text=str(new)))
    viewer = stage.join()
    peer = Peer(stage.session)  # only makes messages here
    stage.session.detach(peer.viewer)
    peer.viewer = viewer
    peer.send_events({"kind": "ModelChanged", "model": {"id": stage.slider.id}, "attr": "value", "new": 7})
    await turn()
    [patches] = stage.post.appended
    [relayed] = patches.patches
    own = relayed.variants[viewer.connection]
    assert b'"7"' in own
    assert b'"attr":"value"' not in own
    assert b"OK" in own
    assert b'"attr":"value"' in relayed.frames
    assert relayed.answers == {viewer.connection: 1}
    assert stage.post.messages == []


class SlowJournal:
    """Keeps everything, and says so when it is asked to."""

    writes = True
    acknowledges = True

    def __init__(self) -> None:
        self.held: list[Callable[[], None]] = []

    def record(self, sequence: int, patch: Patch) -> None: ...

    def start_over(self) -> None: ...

    def when_safe(self, act: Callable[[], None], refuse: Callable[[], None]) -> None:
        self.held.append(act)


@in_fake_time
async def test_an_answer_that_waits_to_be_safe_says_as_of_when_it_is() -> None:
    """Who pushed a document elsewhere has had no patch since, and its edge must notice."""
    stage = Stage()
    journal = SlowJournal()
    stage.session.begin_journal(journal)
    pusher = stage.join(live=False)
    stage.join()
    peer = Peer(stage.session)  # only makes messages here
    stage.session.detach(peer.viewer)
    peer.viewer = pusher
    document = Document()
    document.add_root(Div(text="pushed"))
    peer.send(Protocol().create("PUSH-DOC", document))
    pushed = stage.session.fanout.sequence
    await stage.session.with_document_locked(lambda: setattr(stage.session.document, "title", "later"))
    assert stage.session.fanout.sequence == pushed + 1
    journal.held[0]()
    await turn()
    [reply] = stage.post.messages_of(Reply)
    assert isinstance(reply, Reply)
    assert reply.live
    assert reply.after == pushed


@in_fake_time
async def test_a_viewer_here_that_left_while_it_waited() -> None:
    """Its change goes to those elsewhere all the same."""
    stage = Stage()
    stage.join()
    peer = Peer.pulled(stage.session)
    release = asyncio.Event()
    busy = holding(stage.session, release)
    await turn()
    work = peer.send_events({"kind": "ModelChanged", "model": {"id": stage.slider.id}, "attr": "value", "new": 7})
    assert work is not None
    stage.session.detach(peer.viewer)
    release.set()
    await asyncio.gather(busy, work)
    await turn()
    assert stage.sequences == [(1, 1)]


@in_fake_time
async def test_what_was_held_is_not_echoed() -> None:
    """An app that holds its document lets go later what a viewer elsewhere had changed; it has that already."""
    stage = Stage()
    viewer, other = stage.join(), stage.join()
    peer = Peer(stage.session)
    stage.session.detach(peer.viewer)
    peer.viewer = viewer
    await stage.session.with_document_locked(lambda: stage.session.document.hold("collect"))
    peer.send_events({"kind": "ModelChanged", "model": {"id": stage.slider.id}, "attr": "value", "new": 7})
    await turn()
    await stage.session.with_document_locked(stage.session.document.unhold)
    await turn()
    [relayed] = stage.post.appended[-1].patches
    assert relayed.variants == {viewer.connection: b""}
    assert relayed.answers == {}
    assert other.connection not in relayed.variants


@in_fake_time
@pytest.mark.parametrize("lost", [True, False])
async def test_the_session_learns_whether_a_page_elsewhere_was_cut_off(
    monkeypatch: pytest.MonkeyPatch, *, lost: bool
) -> None:
    """One that was may come back, and the session is kept for it."""
    stage = Stage()
    viewer = stage.join()
    ends: list[bool] = []
    monkeypatch.setattr(stage.session, "viewer_left", lambda *, lost: ends.append(lost))
    stage.audience.leave(viewer, lost=lost)
    assert ends == [lost]


@in_fake_time
async def test_without_edges_nothing_is_published() -> None:
    """Not before the first has come, and not after the last has gone."""
    stage = Stage()
    peer = Peer.pulled(stage.session)
    await stage.slide(2)
    viewer = stage.join()
    stage.audience.leave(viewer)
    stage.audience.leave(viewer)
    await stage.slide(3)
    stage.audience.close(1012, "over")
    await turn()
    assert stage.post.order == []
    assert (stage.audience.connections, stage.audience.workers, stage.audience.live) == (0, 0, False)
    assert peer.read() == ["PATCH-DOC", "PATCH-DOC"]


@in_fake_time
async def test_live_counts_those_with_the_document() -> None:
    """A viewer that has joined and not pulled makes no patch worth encoding."""
    stage = Stage()
    viewer = stage.join(live=False)
    assert not stage.audience.live
    await stage.slide(2)
    assert stage.session.fanout.sequence == 0
    viewer.live = True
    assert stage.audience.live
    stage.audience.drop_edge(EDGE)
    assert not stage.audience.live
    assert stage.session.connection_count == 0


@in_fake_time
async def test_a_viewer_that_has_left_does_not_get_the_document() -> None:
    """Its pull may still wait for its turn; it would never be counted out again."""
    stage = Stage()
    viewer = stage.join(live=False)
    stage.audience.leave(viewer)
    viewer.live = True
    assert not stage.audience.live


@in_fake_time
async def test_an_outage_loses_nothing() -> None:
    """What could not be published waits, and goes in order."""
    stage = Stage()
    viewer = stage.join()
    stage.post.down = True
    await stage.slide(2)
    viewer.send(run_of("answer"))
    await stage.slide(3)
    await asyncio.sleep(1)
    assert stage.post.order == []
    stage.post.down = False
    await asyncio.sleep(1)
    assert stage.post.order == ["patches 1-1", "Reply", "patches 2-2"]


@in_fake_time
async def test_what_is_tried_again_is_what_was_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Packed once, however long Redis is down; and if it has had it after all, it knows it by its number."""
    packed: list[int] = []
    pack = SessionAudience._pack_first

    def noted(audience: SessionAudience) -> Any:
        packed.append(audience._session.fanout.sequence)
        return pack(audience)

    monkeypatch.setattr(SessionAudience, "_pack_first", noted)
    stage = Stage()
    stage.join()
    stage.post.down = True
    await stage.slide(2)
    await turn()
    for value in range(3, 10):
        await stage.slide(value)
    await asyncio.sleep(5)
    stage.post.down = False
    await asyncio.sleep(1)
    assert packed == [1, 8]
    assert stage.sequences == [(1, 1), (2, 8)]


@in_fake_time
async def test_what_waits_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond it the viewers are given up, closed when the bus is back, and their patches are gone."""
    monkeypatch.setattr(module, "QUEUE_LIMIT", 20_000)
    stage = Stage()
    stage.join()
    stage.post.down = True
    for value in range(2, 200):
        await stage.slide(value)
    await asyncio.sleep(1)
    assert stage.audience.connections == 0
    assert len(stage.audience._queue) == 1
    stage.post.down = False
    await asyncio.sleep(1)
    assert stage.post.order == ["SessionEnded"]
    newcomer = stage.join()
    await stage.slide(500)
    await turn()
    assert newcomer.edge == EDGE
    assert len(stage.post.appended) == 1


@in_fake_time
async def test_a_session_of_another_worker_says_nothing_more() -> None:
    """Redis refuses the patch: what waits is dropped, and the session is lost."""
    stage = Stage()
    viewer = stage.join()
    stage.post.fenced = True
    await stage.slide(2)
    viewer.send(run_of("answer"))
    await stage.slide(3)
    await turn()
    assert stage.lost == [stage.session]
    assert stage.audience.connections == 0
    assert not stage.audience._queue
    await stage.slide(4)
    stage.session.destroy()
    await turn()
    assert stage.post.order == []
    assert stage.audience.connections == 0


@in_fake_time
async def test_a_refusal_of_redis_is_not_repeated_for_ever() -> None:
    """The viewers are given up; those who come back may have more luck."""
    stage = Stage()
    stage.join()
    stage.post.problem = RuntimeError("out of memory")
    await stage.slide(2)
    await turn()
    assert stage.audience.connections == 0
    stage.post.problem = None
    stage.join()
    await stage.slide(3)
    await turn()
    assert stage.sequences == [(2, 2)]


@in_fake_time
async def test_a_discarded_session_tells_its_edges() -> None:
    """Their browsers come back at once, instead of after a silence."""
    stage = Stage()
    stage.join()
    stage.session.destroy()
    await turn()
    assert stage.post.announced == [SessionEnded(1, 1012, "the session is gone")]


@in_fake_time
async def test_a_probe_comes_when_nothing_else_does() -> None:
    """Patches under way show the same."""
    stage = Stage()
    stage.join()
    await stage.audience.probe()
    assert stage.post.announced == [Probe(1, 0)]
    await stage.slide(2)
    await stage.audience.probe()
    assert stage.post.announced == [Probe(1, 0)]


@in_fake_time
async def test_an_answer_is_said_again_as_it_was() -> None:
    """With the number of the patch that it was behind: patches since are not in it."""
    stage = Stage()
    viewer = stage.join()
    viewer.send(run_of("document"))
    await stage.slide(2)
    stage.audience.answer_again(viewer)
    await turn()
    first, again = stage.post.messages_of(Reply)
    assert first == again


@in_fake_time
async def test_a_document_is_not_kept_to_be_said_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hundreds of viewers would keep hundreds of documents; who missed its own pulls it again."""
    monkeypatch.setattr(module, "RESENDABLE_ANSWER", 10)
    stage = Stage()
    viewer = stage.join()
    viewer.send(run_of("document"))
    stage.audience.answer_again(viewer)
    await turn()
    assert [type(envelope) for _, envelope in stage.post.messages] == [Reply, Refused]
    assert stage.audience.connections == 0


@in_fake_time
async def test_edges_hear_where_the_owner_is() -> None:
    """Which patch comes next, and which of the connection's messages have come."""
    stage = Stage()
    viewer: Any = stage.join()
    viewer.received, viewer.answered = 5, 4
    stage.audience.welcome_all()
    await turn()
    assert stage.post.messages == [(EDGE, Joined(SESSION_KEY, "node/0/owner", viewer.connection, 1, 0, 5, 4))]


@in_fake_time
async def test_large_patches_close_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """They have a bound of their own, which a few of them in one turn do not reach."""
    monkeypatch.setattr(module, "QUEUE_LIMIT", 20_000)
    monkeypatch.setattr(module, "ENTRY_BYTES", 15_000)
    monkeypatch.setattr(module, "APPEND_LIMIT", 15_000)
    monkeypatch.setattr(module, "LARGE_PATCHES_LIMIT", 60_000)
    stage = Stage()
    stage.join()
    for number in range(4):
        await stage.session.with_document_locked(lambda number=number: stage.shown.update(text=f"{number}" * 16_000))
        await stage.slide(number + 2)
    await turn()
    assert stage.audience.connections == 1
    assert [patches.last for patches in stage.post.appended] == list(range(1, 9))
    stage.post.down = True
    for number in range(9):
        await stage.session.with_document_locked(lambda number=number: stage.shown.update(text=f"{number}" * 16_000))
    assert stage.audience.connections == 0


@in_fake_time
async def test_a_patch_that_a_full_redis_cannot_store_sends_viewers_to_pull() -> None:
    """Documents need none of its memory; waiting for it would hold up all that comes behind."""
    stage = Stage()
    stage.join()
    stage.post.problem = BusFull("Redis is full")
    await stage.slide(2)
    await turn()
    stage.post.problem = None
    await asyncio.sleep(1)
    assert stage.audience.connections == 0
    assert stage.post.order == ["SessionEnded"]


@in_fake_time
async def test_what_is_too_large_for_other_workers_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """In the log and to the viewer; and nothing waits for it."""
    monkeypatch.setattr(module, "MAX_TRANSFER", 1000)
    monkeypatch.setattr(module, "MAX_STORED", 1000)
    stage = Stage()
    viewer = stage.join()
    viewer.send(run_of("x" * 2000))
    await turn()
    [refused] = stage.post.messages_of(Refused)
    assert isinstance(refused, Refused)
    assert (refused.code, refused.reason) == (1011, "the document is too large for this worker")
    stage.join()
    await stage.session.with_document_locked(lambda: stage.shown.update(text="x" * 2000))
    await turn()
    assert stage.post.order == ["Refused", "SessionEnded"]
    assert "is too large for viewers in other workers; 1000 is the most" in caplog.text
    assert "a patch of" in caplog.text


@in_fake_time
async def test_a_large_document_is_offered_to_its_edge() -> None:
    """Patches do not wait until it is there, and another edge's document does not either."""
    stage = Stage()
    viewer, other = stage.join(), stage.join(edge="node/2/edge")
    run = run_of("x" * 500_000)
    viewer.send(run)
    await stage.slide(2)
    other.send(run)
    await turn()
    assert stage.post.order == ["Reply", "patches 1-1", "Reply"]
    first, second = stage.post.messages_of(Reply)
    assert isinstance(first, Reply)
    assert isinstance(second, Reply)
    assert (first.frames, first.size, first.after, second.after) == (b"", len(run.plain), 0, 1)
    assert stage.post.offers[first.transfer][0] == run.plain
    stage.audience.leave(viewer)
    stage.post.end_offer(second.transfer)
    assert stage.post.offers == {}
    assert stage.audience._turns._offered == {}
