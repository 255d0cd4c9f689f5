"""A session's journal: nothing is missing from it, nothing waits without a bound, nothing is acknowledged too early."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from bokeh.document import Document
from bokeh.layouts import column
from bokeh.models import ColumnDataSource
from bokeh.models.widgets import Div, Slider
from support.clock import in_fake_time, now
from support.peers import Peer, in_loop, make_session, state_of
from support.stored_memory import MemoryStore, settled

from aperture.document import ids
from aperture.document.ids import IdSequence
from aperture.errors import BusDown, Fenced
from aperture.worker.document.loading import new_document
from aperture.worker.document.snapshot import lay_over, replay
from aperture.worker.recovery import journal as journal_module
from aperture.worker.recovery.journal import SessionJournal
from aperture.worker.session.session import Session
from aperture.worker.session.turns import Turns

SESSION_KEY = "/app\tsession"


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """What gathers or is tried again is so at the loop's next turn."""
    monkeypatch.setattr(journal_module, "GATHER", 0)
    monkeypatch.setattr(journal_module, "RETRY", 0)
    monkeypatch.setattr(journal_module, "SNAPSHOT_PAUSE", 0)
    monkeypatch.setattr(journal_module, "UNENCODABLE_PAUSE", 0)


def made() -> Document:
    """The app's document, as the session makes it anywhere."""
    ids.install()
    with IdSequence("session").active():
        document = new_document()
        document.add_root(column(Slider(name="slider", start=0, end=1000, value=0), Div(name="text", text="")))
    return document


def journalled(
    store: MemoryStore, *, at_once: bool = False, lost: list[Session] | None = None
) -> tuple[Session, SessionJournal]:
    session = make_session(document=made())

    async def fenced(session: Session) -> None:
        assert lost is not None, "another worker's"
        lost.append(session)

    journal = SessionJournal(session, SESSION_KEY, b"origin", store, turns=Turns(), at_once=at_once, fenced=fenced)
    session.begin_journal(journal)
    return session, journal


def unexpected() -> None:
    """For an answer that must not be refused."""
    raise AssertionError("refused")


async def move(session: Session, value: int) -> None:
    slider: Any = session.document.get_model_by_name("slider")
    await session.with_document_locked(lambda: setattr(slider, "value", value))


async def say(session: Session, text: str) -> None:
    div: Any = session.document.get_model_by_name("text")
    await session.with_document_locked(lambda: setattr(div, "text", text))


async def assert_kept(store: MemoryStore, session: Session) -> None:
    """What is kept gives the session's document again."""
    kept = await store.load(SESSION_KEY)
    assert kept is not None
    rebuilt = made()
    lay_over(rebuilt, kept.snapshot)
    for entry in kept.entries:
        replay(rebuilt, entry)
    assert state_of(rebuilt) == state_of(session.document)


@in_loop
async def test_a_session_is_kept_from_its_beginning() -> None:
    """One that was not changed yet can be built again as well."""
    store = MemoryStore()
    session, _ = journalled(store)
    await settled()
    assert store.calls == ["begin"]
    await assert_kept(store, session)


@in_loop
async def test_changes_that_come_together_go_to_redis_in_one_call() -> None:
    """And all of them are there."""
    store = MemoryStore()
    session, _ = journalled(store)
    await settled()
    for value in range(20):
        await move(session, value + 1)
    await settled()
    assert store.calls == ["begin", "add"]
    assert len(store.stored[SESSION_KEY].entries) == 20
    await assert_kept(store, session)


@in_loop
async def test_a_change_of_the_configuration_is_kept() -> None:
    """Bokeh does not report it, but it was acknowledged. In the journal, and in a snapshot with what belongs to it."""
    store = MemoryStore()
    session, journal = journalled(store)
    await settled()
    peer = Peer.pulled(session)
    config = session.document.config
    notifications: Any = config.notifications
    for model, attr, value in ((config, "notify_connection_status", False), (notifications, "name", "mine")):
        peer.send_events({"kind": "ModelChanged", "model": {"id": model.id}, "attr": attr, "new": value})
    assert peer.read() == ["OK", "OK"]
    await settled()
    assert len(store.stored[SESSION_KEY].entries) == 2
    for _ in range(2):
        kept = await store.load(SESSION_KEY)
        assert kept is not None
        rebuilt = made()
        lay_over(rebuilt, kept.snapshot)
        for entry in kept.entries:
            replay(rebuilt, entry)
        assert rebuilt.config.notify_connection_status is False
        assert rebuilt.config.notifications is not None
        assert rebuilt.config.notifications.name == "mine"
        journal.start_over()
        await settled()
    assert store.stored[SESSION_KEY].entries == []


@in_loop
async def test_changes_made_while_a_call_is_under_way_are_in_the_next() -> None:
    """The beginning too takes its time, and what happens meanwhile is not lost."""
    store = MemoryStore()
    store.gate.clear()
    session, _ = journalled(store)
    await settled(lambda: store.calls)
    await move(session, 1)
    store.gate.set()
    await settled()
    store.gate.clear()
    await move(session, 2)
    await settled(lambda: store.calls.count("add") == 2)
    await move(session, 3)
    store.gate.set()
    await settled()
    await assert_kept(store, session)


@in_fake_time
async def test_what_came_during_a_long_call_does_not_gather_again() -> None:
    """It would be older than what may be lost; a call that is answered soon is followed by a pause, as the first."""
    journal_module.GATHER = 0.05  # set back with the fixture
    begun = []

    class Slow(MemoryStore):
        async def add(self, *args: Any) -> int:
            begun.append(now())
            await asyncio.sleep(takes)
            return await super().add(*args)

    store, takes = Slow(), 0.08
    session, _ = journalled(store)
    await asyncio.sleep(1)
    await move(session, 1)
    await asyncio.sleep(0.06)
    await move(session, 2)
    await asyncio.sleep(0.04)
    takes = 0.01
    await move(session, 3)
    await asyncio.sleep(0.04)
    await move(session, 4)
    await asyncio.sleep(1)
    assert begun == pytest.approx([1.05, 1.13, 1.18])
    await assert_kept(store, session)


@in_loop
async def test_a_long_journal_becomes_a_snapshot() -> None:
    """So that neither Redis nor the one who builds it again has more to do the longer a session lives."""
    store = MemoryStore()
    session, _ = journalled(store)
    for number in range(9):
        await say(session, str(number) * (journal_module.JOURNAL_LIMIT // 4))
        await settled()
    assert 1 <= store.calls.count("snapshot") <= 3
    assert sum(map(len, store.stored[SESSION_KEY].entries)) <= journal_module.JOURNAL_LIMIT
    await assert_kept(store, session)


@in_loop
async def test_while_redis_is_away_nothing_waits_without_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """And when it is back the session is kept as it is then."""
    monkeypatch.setattr(journal_module, "PENDING_LIMIT", 10_000)
    store = MemoryStore()
    session, journal = journalled(store)
    await settled()
    store.problem = BusDown("away")
    most = 0
    for number in range(100):
        await say(session, str(number) * 1000)
        await asyncio.sleep(0)
        most = max(most, sum(len(entry) for _, entry in journal._pending))
    assert most <= 10_000
    store.problem = None
    await settled()
    assert store.calls[-1] in ("begin", "add")
    await assert_kept(store, session)


@in_loop
async def test_what_overflows_during_the_beginning_is_not_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was dropped is in no snapshot, so another one is made; and no answer is given before."""
    monkeypatch.setattr(journal_module, "PENDING_LIMIT", 1000)
    store = MemoryStore()
    store.gate.clear()
    session, journal = journalled(store, at_once=True)
    answers: list[str] = []
    await settled(lambda: store.calls)
    await say(session, "x" * 2000)
    journal.when_safe(lambda: answers.append(store.stored[SESSION_KEY].snapshot.decode("latin-1")), unexpected)
    store.gate.set()
    await settled()
    await assert_kept(store, session)
    assert len(answers) == 1
    assert "x" * 2000 in answers[0]


@in_loop
async def test_what_redis_has_lost_is_kept_anew() -> None:
    """The next change does not continue anything, so the journal begins again."""
    store = MemoryStore()
    session, _ = journalled(store)
    await settled()
    store.stored.clear()
    await move(session, 5)
    await settled()
    assert store.calls[:4] == ["begin", "add", "begin", "add"][: len(store.calls)]
    await assert_kept(store, session)


@in_loop
async def test_a_change_that_cannot_be_encoded_leaves_no_hole(caplog: pytest.LogCaptureFixture) -> None:
    """The journal begins anew, and the session goes on being kept with what is changed afterwards."""
    store = MemoryStore()
    session, _ = journalled(store)
    await settled()

    def spoil() -> None:
        div: Any = session.document.get_model_by_name("text")
        div.tags = [object()]

    await move(session, 1)
    await session.with_document_locked(spoil)
    await session.with_document_locked(lambda: setattr(session.document.get_model_by_name("text"), "tags", ["good"]))
    await move(session, 2)
    await settled()
    await move(session, 3)
    await settled()
    await assert_kept(store, session)
    assert "cannot be stored" not in caplog.text


@in_loop
async def test_what_cannot_be_encoded_is_never_missing_from_what_is_kept(caplog: pytest.LogCaptureFixture) -> None:
    """While it is in the document, what was kept last stays; no answer waits; once replaced, all is kept again."""
    store = MemoryStore()
    session, journal = journalled(store, at_once=True)
    await settled()
    div: Any = session.document.get_model_by_name("text")
    await session.with_document_locked(lambda: setattr(div, "tags", [object()]))
    answered: list[int] = []
    journal.when_safe(lambda: answered.append(1), unexpected)
    await move(session, 1)
    await settled(lambda: "is not stored for now" in caplog.text)
    kept = await store.load(SESSION_KEY)
    assert kept is not None
    assert (kept.sequence, kept.entries) == (0, ())
    assert answered == [1]
    assert not journal.safe
    assert caplog.text.count("is not stored for now") == 1
    await session.with_document_locked(lambda: setattr(div, "tags", ["good"]))
    await move(session, 2)
    await settled(lambda: journal.safe)
    await move(session, 3)
    await settled()
    await assert_kept(store, session)


@in_loop
async def test_a_model_that_is_brought_back_in_one_callback_is_kept_as_it_was_left() -> None:
    """It is written out in full behind what happened to it before, and both would not fit into one patch."""
    store = MemoryStore()
    session, _ = journalled(store)
    await settled()
    page: Any = session.document.roots[0]
    slider, div = page.children

    def act() -> None:
        div.text = "loading"
        page.children = [slider]
        div.text = "done"
        page.children = [slider, div]

    await session.with_document_locked(act)
    await settled()
    kept = await store.load(SESSION_KEY)
    assert kept is not None
    assert len(kept.entries) == 1
    await assert_kept(store, session)


@in_loop
async def test_a_model_that_is_held_back_is_kept_in_full() -> None:
    """Also when the only other viewer pulls the document meanwhile."""
    store = MemoryStore()
    session, _ = journalled(store)
    await settled()
    session.held.resume(held=False)
    page: Any = session.document.roots[0]

    def hold() -> None:
        session.document.hold()
        page.children = [*page.children, Div(text="new")]

    await session.with_document_locked(hold)
    Peer.pulled(session)
    await session.with_document_locked(session.document.unhold)
    await settled()
    await assert_kept(store, session)


@in_loop
async def test_a_snapshot_of_what_is_held_back_does_not_get_it_twice() -> None:
    """Rows that were streamed before it, or set in it, do not come again when the app lets go of them."""
    store = MemoryStore()
    session, journal = journalled(store)
    source = ColumnDataSource({"x": [1]}, name="source")
    page: Any = session.document.roots[0]
    await session.with_document_locked(lambda: setattr(page, "tags", [source]))
    await settled()

    def hold() -> None:
        session.document.hold("collect")
        source.stream({"x": [2]})
        page.children[1].tags = [fresh]

    fresh = Div(text="fresh")
    await session.with_document_locked(hold)
    journal.start_over()
    await settled(lambda: journal.safe)
    late = Peer.pulled(session)
    await session.with_document_locked(lambda: fresh.update(text="fresher"))
    await session.with_document_locked(lambda: source.stream({"x": [3]}))
    await session.with_document_locked(session.document.unhold)
    await settled()
    late.read()
    assert late.is_equal()
    await assert_kept(store, session)


@in_loop
async def test_what_is_held_back_without_the_lock_is_kept_with_the_next_who_has_it() -> None:
    """Panel's async callbacks change a document so. Rows that were streamed come once, also from a snapshot."""
    store = MemoryStore()
    session, journal = journalled(store)
    source = ColumnDataSource({"x": [1]}, name="source")
    page: Any = session.document.roots[0]
    await session.with_document_locked(lambda: setattr(page, "tags", [source]))
    await settled()
    peer = Peer.pulled(session)

    session.document.hold()
    source.stream({"x": [2]})
    page.children[1].text = "changed"
    journal.start_over()
    await settled(lambda: journal.safe)
    source.stream({"x": [3]})
    session.flush(session.document.callbacks._held_events)
    session.document.callbacks._held_events = []
    session.document.unhold()
    await settled()
    peer.read()
    assert peer.is_equal()
    await assert_kept(store, session)


@in_loop
async def test_what_panel_drops_before_there_is_a_page_is_kept() -> None:
    """Its hold forgets changes that no viewer needs; the journal has them all the same."""
    store = MemoryStore()
    session, _ = journalled(store)
    await settled()
    page: Any = session.document.roots[0]
    session.document.hold()
    page.children[1].text = "changed"
    session.document.callbacks._held_events = []
    session.document.callbacks._hold = None
    await move(session, 3)
    await settled()
    await assert_kept(store, session)


@in_loop
async def test_answers_wait_until_what_they_answer_is_safe() -> None:
    """In their order; without `ack` none of them waits."""
    store = MemoryStore()
    session, journal = journalled(store, at_once=True)
    await settled()
    answers: list[int] = []
    journal.when_safe(lambda: answers.append(0), unexpected)
    assert answers == [0]
    store.gate.clear()
    for number in (1, 2):
        await move(session, number)
        journal.when_safe(lambda number=number: answers.append(number), unexpected)  # type: ignore[misc]
        await settled()
    assert answers == [0]
    store.gate.set()
    await settled()
    assert answers == [0, 1, 2]
    await assert_kept(store, session)


@in_loop
async def test_a_viewer_hears_ok_after_its_change_is_safe() -> None:
    """And other viewers see the change at once."""
    store = MemoryStore()
    session, _ = journalled(store, at_once=True)
    await settled()
    mover, watcher = Peer.pulled(session), Peer.pulled(session)
    slider: Any = mover.document.get_model_by_name("slider")
    store.gate.clear()
    mover.change(lambda: setattr(slider, "value", 7))
    await settled()
    assert watcher.read() == ["PATCH-DOC"]
    assert mover.read() == []
    store.gate.set()
    await settled()
    assert mover.read() == ["OK"]
    await assert_kept(store, session)


@in_loop
async def test_a_session_that_another_worker_has_is_written_no_more() -> None:
    """And no change is acknowledged that the other does not have; its viewers are sent there."""
    store, lost = MemoryStore(), list[Session]()
    session, journal = journalled(store, at_once=True, lost=lost)
    await settled()
    answers: list[int] = []
    store.problem = Fenced("another's")
    await move(session, 1)
    journal.when_safe(lambda: answers.append(1), unexpected)
    await settled()
    assert lost == [session]
    store.problem = None
    before = list(store.calls)
    await move(session, 2)
    journal.when_safe(lambda: answers.append(2), unexpected)
    await settled()
    assert store.calls == before
    assert answers == []
    journal.close()
    journal.close()


@in_loop
async def test_a_document_that_is_too_large_is_not_kept(caplog: pytest.LogCaptureFixture) -> None:
    """That is logged once, no answer waits for it, and what was kept before is gone: it would be of another time."""
    store = MemoryStore(max_snapshot=20_000)
    session, journal = journalled(store, at_once=True)
    answers: list[int] = []
    await settled()
    with caplog.at_level(logging.WARNING):
        for number in range(6):
            await say(session, str(number) * journal_module.JOURNAL_LIMIT)
            journal.when_safe(lambda number=number: answers.append(number), unexpected)  # type: ignore[misc]
            await settled()
    assert answers == list(range(6))
    assert [record.message for record in caplog.records].count("session session is too large to be stored") == 1
    assert SESSION_KEY not in store.stored


@in_loop
async def test_a_flush_writes_what_is_pending_though_nobody_may_change_the_session() -> None:
    """As at the end of a worker: the session rests, and its document can still be read."""
    store = MemoryStore()
    store.gate.clear()
    session, journal = journalled(store)
    await settled(lambda: store.calls)
    await move(session, 1)
    await session.held.freeze()
    store.gate.set()
    await journal.flush()
    await assert_kept(store, session)


@in_loop
async def test_a_flush_keeps_anew_what_redis_has_lost() -> None:
    """The end of a worker is no time to find that out and give up."""
    store = MemoryStore()
    session, journal = journalled(store)
    await settled()
    store.stored.clear()
    await move(session, 1)
    await session.held.freeze()
    await journal.flush()
    await assert_kept(store, session)


@in_loop
async def test_what_a_flush_could_not_write_is_written_when_it_can_be() -> None:
    """The session was to be handed over, and goes on here because Redis was away."""
    store = MemoryStore()
    session, journal = journalled(store, at_once=True)
    await settled()
    answers: list[int] = []
    store.problem = BusDown("away")
    await move(session, 1)
    journal.when_safe(lambda: answers.append(1), unexpected)
    with pytest.raises(BusDown):
        await journal.flush()
    assert answers == []
    store.problem = None
    await settled()
    assert answers == [1]
    await assert_kept(store, session)


@in_loop
async def test_no_more_answers_wait_than_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Redis may be away for long; those who ask on are refused, and the others' answers come in order."""
    monkeypatch.setattr(journal_module, "HELD_LIMIT", 3)
    store = MemoryStore()
    session, journal = journalled(store, at_once=True)
    await settled()
    answers: list[int] = []
    store.gate.clear()
    for number in range(5):
        await move(session, number + 1)
        journal.when_safe(lambda number=number: answers.append(number), lambda number=number: answers.append(-number))  # type: ignore[misc]
    assert answers == [-3, -4]
    store.gate.set()
    await settled()
    assert answers == [-3, -4, 0, 1, 2]


@in_loop
async def test_a_viewer_is_sent_away_when_too_many_answers_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a code that makes its browser come back."""
    monkeypatch.setattr(journal_module, "HELD_LIMIT", 0)
    store = MemoryStore()
    session, _ = journalled(store, at_once=True)
    await settled()
    mover = Peer.pulled(session)
    slider: Any = mover.document.get_model_by_name("slider")
    store.gate.clear()
    mover.change(lambda: setattr(slider, "value", 7))
    assert mover.mailbox.closed == (1013, "changes cannot be kept now")
    store.gate.set()
    await settled()
    await assert_kept(store, session)


@in_loop
async def test_a_journal_of_many_small_changes_ends_in_a_snapshot(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each takes its time to be replayed, however few bytes it has; a large document is not written again for a few."""
    monkeypatch.setattr(journal_module, "ENTRIES_LIMIT", 10)
    store = MemoryStore()
    session, _ = journalled(store)
    await settled()
    for number in range(100):
        await move(session, number + 1)
        await settled()
    assert store.calls.count("snapshot") == 100 // 11
    assert len(store.stored[SESSION_KEY].entries) <= 11
    await assert_kept(store, session)
    await say(session, "x" * 100 * journal_module.BYTES_PER_ENTRY)
    for number in range(22):
        await move(session, number)
        await settled()
    store.calls.clear()
    for number in range(90):
        await move(session, number + 200)
        await settled()
    assert store.calls.count("snapshot") <= 1
    await assert_kept(store, session)


@in_loop
async def test_a_session_that_changes_all_the_time_is_not_written_down_whole_all_the_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Between two snapshots is a pause, unless the journal has become very long."""
    monkeypatch.setattr(journal_module, "SNAPSHOT_PAUSE", 1000)
    monkeypatch.setattr(journal_module, "ENTRIES_LIMIT", 10)
    monkeypatch.setattr(journal_module, "LONGEST_JOURNAL", 50_000)
    store = MemoryStore()
    session, _ = journalled(store)
    await settled()
    for number in range(30):
        await move(session, number + 1)
        await settled()
    assert "snapshot" not in store.calls
    await say(session, "x" * 60_000)
    await settled()
    assert store.calls.count("snapshot") == 1
    await assert_kept(store, session)
