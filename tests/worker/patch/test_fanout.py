"""What each viewer is sent for one batch of changes, in which order, and what becomes of what cannot be encoded."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import Any

import pytest
from bokeh.models import Column, ColumnDataSource, CustomJS
from bokeh.models.widgets import Div, Slider
from support.outboxes import PlayedOutbox
from support.peers import Peer, in_loop, make_session

from aperture.worker.patch.viewer import Viewer


def slider(**fields: Any) -> Slider:
    return Slider(**{"start": 0, "end": 1000, "value": 1, "step": 1, **fields})


@in_loop
async def test_the_changes_of_one_callback_are_one_message() -> None:
    """However many changes one hold of the lock makes, a viewer gets one patch in one write."""
    first, second = slider(), slider()
    session = make_session(first, second)
    peer = Peer.pulled(session)

    def change() -> None:
        first.value = 2
        second.value = 3
        session.document.title = "changed"

    await session.with_document_locked(change)
    assert [[m.msgtype for m in write] for write in peer.mailbox.writes[1:]] == [["PATCH-DOC"]]
    assert len(peer.mailbox.writes[1][0].content["events"]) == 3
    peer.read()
    assert peer.is_equal()


@in_loop
async def test_nothing_changed_is_nothing_sent() -> None:
    """A callback without effect costs no message and no place in the sequence."""
    session = make_session(slider())
    peer = Peer.pulled(session)
    before = session.fanout.sequence
    await session.with_document_locked(lambda: None)
    assert peer.read() == []
    assert session.fanout.sequence == before


@in_loop
async def test_the_patch_comes_before_the_answer_in_one_write() -> None:
    """The sender sees the results of its change before it hears that the change is done, and no echo of it."""
    moved, shown = slider(), Div(text="1")
    moved.on_change("value", lambda attr, old, new: shown.update(text=str(new)))
    session = make_session(moved, shown)
    sender, other = Peer.pulled(session), Peer.pulled(session)
    sender.change(lambda: sender.find(moved).update(value=7))
    [write] = sender.mailbox.writes[1:]
    assert [message.msgtype for message in write] == ["PATCH-DOC", "OK"]
    assert [event["attr"] for event in write[0].content["events"]] == ["text"]
    assert sender.read() == ["PATCH-DOC", "OK"]
    assert other.read() == ["PATCH-DOC"]
    assert sender.is_equal()
    assert other.is_equal()


@in_loop
async def test_others_see_the_cause_before_its_result() -> None:
    """Bokeh tells of the callback's results first; here they come in the order in which they happened."""
    moved, shown = slider(), Div(text="1")
    moved.on_change("value", lambda attr, old, new: shown.update(text=str(new)))
    session = make_session(moved, shown)
    sender, other = Peer.pulled(session), Peer.pulled(session)
    sender.change(lambda: sender.find(moved).update(value=7))
    [[patch]] = other.mailbox.writes[1:]
    assert [(event["attr"], event["new"]) for event in patch.content["events"]] == [("value", 7), ("text", "7")]


@in_loop
async def test_a_callback_that_corrects_its_own_cause_is_believed_by_all() -> None:
    """The corrected value reaches the sender too, whose own is wrong, and none is left with the first one."""
    moved = slider()
    moved.on_change("value", lambda attr, old, new: moved.update(value=min(new, 100)))
    session = make_session(moved)
    sender, other = Peer.pulled(session), Peer.pulled(session)
    sender.change(lambda: sender.find(moved).update(value=150))
    for peer in (sender, other):
        peer.read()
        assert peer.find(moved).value == 100
    assert moved.value == 100


@in_loop
async def test_a_correction_after_another_change_reaches_all() -> None:
    """The same when something else changed between the cause and the correction, so that nothing collapses."""
    moved, shown = slider(), Div(text="")

    def correct(attr: str, old: int, new: int) -> None:
        shown.text = f"asked for {new}"
        moved.value = min(new, 100)

    moved.on_change("value", correct)
    session = make_session(moved, shown)
    sender, other = Peer.pulled(session), Peer.pulled(session)
    sender.change(lambda: sender.find(moved).update(value=150))
    for peer in (sender, other):
        peer.read()
        assert peer.find(moved).value == 100
        assert peer.is_equal()


@in_loop
async def test_viewers_without_the_document_get_no_patches() -> None:
    """A connection that has not pulled could make nothing of them; its own changes are only answered."""
    moved = slider()
    session = make_session(moved)
    waiting, peer = Peer(session), Peer.pulled(session)
    await session.with_document_locked(lambda: moved.update(value=5))
    waiting.send_events({"kind": "ModelChanged", "model": {"id": moved.id}, "attr": "value", "new": 6})
    assert waiting.read() == ["OK"]
    assert peer.read() == ["PATCH-DOC", "PATCH-DOC"]
    waiting.pull()
    assert waiting.read() == ["PULL-DOC-REPLY"]
    assert waiting.is_equal()


@in_loop
async def test_a_pull_and_the_patches_after_it_leave_no_gap() -> None:
    """The pull names its place in the sequence; the patches after it count on from there."""
    moved = slider()
    session = make_session(moved)
    early = Peer.pulled(session)
    for value in (2, 3):
        await session.with_document_locked(moved.update, value=value)
    late = Peer(session)
    late.pull()
    [reply] = late.mailbox.unread()
    late.take(reply)
    assert reply.metadata == {"epoch": 1, "seq": 2}
    for value in (4, 5):
        await session.with_document_locked(moved.update, value=value)
    assert [message.metadata["seq"] for message in late.mailbox.unread()] == [3, 4]
    assert [write[0].metadata["seq"] for write in early.mailbox.writes] == [0, 1, 2, 3, 4]


@in_loop
async def test_all_viewers_that_changed_nothing_get_the_same_bytes() -> None:
    """The message is encoded and framed once, however many look on."""
    moved = slider()
    session = make_session(moved)
    peers = [Peer.pulled(session) for _ in range(3)]
    runs: list[object] = []
    for peer in peers:
        peer.viewer.outbox = _Recorder(runs)
    await session.with_document_locked(moved.update, value=5)
    assert len(runs) == 3
    assert len(set(map(id, runs))) == 1


class _Recorder(PlayedOutbox):
    def __init__(self, runs: list[object]) -> None:
        self._runs = runs

    def send(self, run: object) -> None:
        self._runs.append(run)

    def close(self, code: int, reason: str) -> None:
        raise AssertionError(reason)


@in_loop
async def test_a_viewer_that_left_is_sent_nothing() -> None:
    """Detaching is for good; the change still goes to those who stay."""
    moved = slider()
    session = make_session(moved)
    leaver, stayer = Peer.pulled(session), Peer.pulled(session)
    session.detach(leaver.viewer)
    await session.with_document_locked(moved.update, value=5)
    assert leaver.read() == []
    assert stayer.read() == ["PATCH-DOC"]


@in_loop
async def test_a_change_that_cannot_be_encoded_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    """Alone, with a line in the log that does not quote it; everybody gets the rest, and what comes later."""
    source, shown = ColumnDataSource({"x": [1]}), Div(text="")
    session = make_session(source, shown)
    live, waiting = Peer.pulled(session), Peer(session)

    def act() -> None:
        source.data = {"x": [Decimal("271828")]}
        shown.text = "done"

    await session.with_document_locked(act)
    live.read()
    assert live.mailbox.closed is None
    assert live.find(shown).text == "done"
    [line] = [record.getMessage() for record in caplog.records if "cannot be encoded" in record.getMessage()]
    assert "ColumnDataSource.data" in line
    assert "Decimal" in line
    assert "271828" not in caplog.text
    await session.with_document_locked(lambda: source.update(data={"x": [2]}))
    waiting.pull()
    for peer in (live, waiting):
        peer.read()
        assert peer.is_equal()


@in_loop
async def test_who_caused_what_cannot_be_encoded_is_told_so() -> None:
    """With ERROR behind the rest of what it caused, as in Bokeh; the next message is nothing special."""
    moved, shown, source = slider(), Div(text=""), ColumnDataSource({"x": [1]})

    def spoil(attr: str, old: int, new: int) -> None:
        source.data = {"x": [object() if new == 2 else new]}
        shown.text = str(new)

    moved.on_change("value", spoil)
    session = make_session(moved, shown, source)
    sender, other = Peer.pulled(session), Peer.pulled(session)
    sender.change(lambda: sender.find(moved).update(value=2))
    other.read()
    assert [(message.msgtype, message.content.get("text")) for message in sender.mailbox.writes[-1]] == [
        ("PATCH-DOC", None),
        ("ERROR", "SerializationError: can't serialize <class 'object'>"),
    ]
    sender.read()
    sender.change(lambda: sender.find(moved).update(value=3))
    assert sender.read() == ["PATCH-DOC", "OK"]
    other.read()
    assert sender.is_equal()
    assert other.is_equal()


@in_loop
async def test_what_came_with_something_unencodable_breaks_nothing_later() -> None:
    """A new model beside it has not reached anybody, so nothing is said of it before it does."""
    column, shown, added = Column(children=[]), Div(text=""), Div(text="new")
    session = make_session(column, shown)
    peer = Peer.pulled(session)
    bad = Div(tags=[object()])
    await session.with_document_locked(lambda: column.update(children=[added, bad]))

    def later() -> None:
        added.text = "newer"
        shown.text = "later"

    await session.with_document_locked(later)
    peer.read()
    assert peer.find(shown).text == "later"
    await session.with_document_locked(lambda: column.update(children=[added]))
    peer.read()
    assert peer.is_equal()


@in_loop
async def test_a_document_that_cannot_be_encoded_closes_who_asks_for_it() -> None:
    """Behind the ERROR: without the document nothing could follow, and a page asks again when it comes back."""
    source = ColumnDataSource({"x": [1]})
    session = make_session(source)
    live, late = Peer.pulled(session), Peer(session)
    await session.with_document_locked(lambda: source.update(data={"x": [object()]}))
    late.pull()
    assert late.read() == ["ERROR"]
    await asyncio.sleep(0)
    assert late.mailbox.closed is not None
    assert late.mailbox.closed[0] == 1011
    assert live.mailbox.closed is None


@in_loop
async def test_a_new_model_reaches_every_live_viewer_in_full() -> None:
    """Bokeh sends it in full to one viewer and as a reference to nothing to the others."""
    column = Column(children=[])
    session = make_session(column)
    peers = [Peer.pulled(session) for _ in range(3)]
    await session.with_document_locked(lambda: column.update(children=[Div(text="new")]))
    await session.with_document_locked(lambda: column.children[0].update(text="newer"))
    for peer in peers:
        peer.read()
        assert peer.is_equal()
        assert peer.find(column).children[0].text == "newer"


@in_loop
async def test_a_new_model_is_sent_in_full_once() -> None:
    """Afterwards a reference does."""
    column, extra = Column(children=[]), Div(text="x" * 50)
    session = make_session(column)
    peer = Peer.pulled(session)
    await session.with_document_locked(lambda: column.update(children=[extra]))
    await session.with_document_locked(lambda: column.update(children=[extra, Div(text="second")]))
    sizes = [write[0].content_json.count("x" * 50) for write in peer.mailbox.writes[1:]]
    assert sizes == [1, 0]
    peer.read()
    assert peer.is_equal()


@in_loop
async def test_a_model_that_left_and_came_back_is_sent_in_full_again() -> None:
    """What it was changed to meanwhile reaches everyone, for BokehJS forgets models that leave."""
    div = Div(text="before")
    column = Column(children=[div])
    session = make_session(column)
    peers = [Peer.pulled(session), Peer.pulled(session)]
    await session.with_document_locked(lambda: column.update(children=[]))
    for peer in peers:
        peer.read()
    div.text = "after"
    await session.with_document_locked(lambda: column.update(children=[div]))
    for peer in peers:
        peer.read()
        assert peer.is_equal()
        assert peer.find(div).text == "after"


@in_loop
async def test_a_sender_gets_the_new_models_that_its_change_led_to() -> None:
    """Its variant of the batch holds them in full, as that of the others does."""
    moved, column = slider(), Column(children=[])
    moved.on_change("value", lambda attr, old, new: column.update(children=[Div(text=str(new))]))
    session = make_session(moved, column)
    sender, other = Peer.pulled(session), Peer.pulled(session)
    sender.change(lambda: sender.find(moved).update(value=5))
    for peer in (sender, other):
        peer.read()
        assert peer.is_equal()


@in_loop
async def test_a_model_made_by_one_viewer_reaches_the_others_in_full() -> None:
    """A client may add models too, and the others have never heard of them."""
    column = Column(children=[])
    session = make_session(column)
    sender, other = Peer.pulled(session), Peer.pulled(session)
    sender.change(lambda: sender.find(column).update(children=[Div(text="mine")]))
    assert sender.read() == ["OK"]
    other.read()
    assert other.is_equal()
    assert sender.is_equal()


@pytest.mark.parametrize("policy", ["combine", "collect"])
@in_loop
async def test_a_model_added_during_a_hold_reaches_every_viewer(policy: Any) -> None:
    """What is held back goes out in full to all when it is let go."""
    column, moved = Column(children=[]), slider()
    session = make_session(column, moved)
    peers = [Peer.pulled(session), Peer.pulled(session)]

    def add() -> None:
        session.document.hold(policy)
        column.children = [Div(text="held")]
        moved.value = 2

    await session.with_document_locked(add)
    assert [peer.read() for peer in peers] == [[], []]
    await session.with_document_locked(session.document.unhold)
    for peer in peers:
        assert peer.read() == ["PATCH-DOC"]
        assert peer.is_equal()


@pytest.mark.parametrize("policy", ["combine", "collect"])
@in_loop
async def test_a_viewer_that_pulls_during_a_hold_does_not_take_new_models_from_the_others(policy: Any) -> None:
    """The pull holds the new model; the viewers that were there before still get it in full at the end of the hold."""
    column = Column(children=[])
    session = make_session(column)
    early = Peer.pulled(session)

    def add() -> None:
        session.document.hold(policy)
        column.children = [Div(text="held")]

    await session.with_document_locked(add)
    late = Peer.pulled(session)
    await session.with_document_locked(session.document.unhold)
    for peer in (early, late):
        peer.read()
        assert peer.is_equal()


@in_loop
async def test_replace_then_stream_does_not_double_rows() -> None:
    """A column replaced and then streamed to in one callback arrives as it was when it was replaced."""
    source = ColumnDataSource({"x": [0]})
    session = make_session(source)
    peer = Peer.pulled(session)

    def act() -> None:
        source.data = {"x": [1, 2]}
        source.stream({"x": [3]})
        source.stream({"x": [4]}, rollover=3)
        source.patch({"x": [(0, 20)]})

    await session.with_document_locked(act)
    peer.read()
    assert source.data == {"x": [20, 3, 4]}
    assert dict(peer.find(source).data) == {"x": [20, 3, 4]}
    assert len(peer.mailbox.writes) == 2


@in_loop
async def test_a_list_changed_in_place_after_it_was_set_goes_out_as_it_was() -> None:
    """Each change has its own value, and the last one is the document's."""
    model = CustomJS(code="", args={})
    session = make_session(Column(tags=["a"], js_property_callbacks={"change:width": [model]}))
    column = session.document.roots[0]
    peer = Peer.pulled(session)

    def act() -> None:
        column.tags = ["b"]
        column.tags.append("c")
        column.name = "named"
        column.tags.append("d")

    await session.with_document_locked(act)
    [[patch]] = peer.mailbox.writes[1:]
    assert [event["new"] for event in patch.content["events"]] == [["b", "c"], "named", ["b", "c", "d"]]
    peer.read()
    assert peer.is_equal()


@in_loop
async def test_what_is_held_back_can_be_sent_in_the_middle_of_a_callback() -> None:
    """Behind what has changed before it; the sender hears that its message was acted on at the end, and once."""
    moved, first, then, last = slider(), Div(text=""), Div(text=""), Div(text="")

    def follow(attr: str, old: int, new: int) -> None:
        first.text = "first"
        session.document.hold()
        then.text = "then"
        session.flush(session.document.callbacks._held_events)
        session.document.callbacks._held_events = []
        session.document.unhold()
        halfway.extend((sender.read(), other.read()))
        last.text = "last"

    moved.on_change("value", follow)
    halfway: list[list[str]] = []
    session = make_session(moved, first, then, last)
    sender, other = Peer.pulled(session), Peer.pulled(session)
    sender.change(lambda: sender.find(moved).update(value=7))
    assert halfway == [["PATCH-DOC"], ["PATCH-DOC"]]
    assert sender.find(then).text == "then"
    assert sender.read() == ["PATCH-DOC", "OK"]
    assert other.read() == ["PATCH-DOC"]
    assert sender.is_equal()
    assert other.is_equal()


@in_loop
async def test_what_is_held_back_without_the_lock_is_sent_when_it_is_free() -> None:
    """At once where the lock is free; else before anything that the next who has it changes."""
    shown = Div(text="")
    session = make_session(shown)
    peer = Peer.pulled(session)

    def change(text: str) -> None:
        session.document.hold()
        shown.text = text
        session.flush(session.document.callbacks._held_events)
        session.document.callbacks._held_events = []
        session.document.unhold()

    change("at once")
    assert peer.read() == ["PATCH-DOC"]
    await session.held.freeze()
    change("later")
    assert peer.read() == []
    session.held.thaw()
    await session.with_document_locked(lambda: shown.update(text="last"))
    assert peer.read() == ["PATCH-DOC", "PATCH-DOC"]
    assert peer.find(shown).text == "last"
    session.destroy()
    session.flush([])


def test_a_viewer_starts_without_the_document() -> None:
    """Patches are for those who have pulled or pushed."""
    assert not Viewer(_Recorder([]), "token", inline_pulls=False).live
