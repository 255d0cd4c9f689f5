"""What the messages of a viewer do, and how each is answered."""

from __future__ import annotations

import asyncio
from typing import Any

import bokeh
import numpy as np
import pytest
from bokeh.document import Document
from bokeh.events import ButtonClick
from bokeh.model import Model
from bokeh.models import Column, ColumnDataSource
from bokeh.models.widgets import Button, Div, Slider
from support.peers import Peer, holding, in_loop, make_session, state_of

from aperture.errors import ProtocolError, SessionGone
from aperture.protocol.allowance import MIN_BUDGET, Allowance
from aperture.worker.document.loading import new_document


def slider(**fields: Any) -> Slider:
    return Slider(**{"start": 0, "end": 1000, "value": 1, "step": 1, **fields})


def change_of(model: Any, attr: str, new: Any) -> dict[str, Any]:
    return {"kind": "ModelChanged", "model": {"id": model.id}, "attr": attr, "new": new}


@in_loop
async def test_a_pull_is_answered_with_the_whole_document() -> None:
    """Bokeh's own client builds the same document from it, arrays and all, and it names the request."""
    source = ColumnDataSource({"x": np.arange(5.0), "name": list("abcde")})
    document = new_document()
    document.title = "the title"
    session = make_session(source, Column(children=[slider(), Div(text="text")]), document=document)
    peer = Peer(session)
    assert peer.pull() is None
    [reply] = peer.mailbox.writes[0]
    assert reply.header["reqid"]
    assert reply.buffers
    assert peer.read() == ["PULL-DOC-REPLY"]
    assert peer.is_equal()


@in_loop
async def test_a_page_that_comes_back_gets_its_arrays_inline() -> None:
    """BokehJS 3.9 loses the buffers of a second pull, so the same token pulls without any from then on."""
    session = make_session(ColumnDataSource({"x": np.arange(5.0)}))
    assert not session.pages.is_return("token")
    first = Peer.pulled(session)
    session.detach(first.viewer)
    assert session.pages.is_return("token")
    assert not session.pages.is_return("another")
    second = Peer(session, inline_pulls=session.pages.is_return("token"))
    second.pull()
    [reply] = second.mailbox.writes[0]
    assert not reply.buffers
    second.read()
    assert second.is_equal()


@in_loop
async def test_a_patch_changes_the_document_and_is_answered() -> None:
    """Values, streams, patches, titles and arrays of Bokeh's own client arrive as they were sent."""
    moved, source = slider(), ColumnDataSource({"x": [1, 2]})
    session = make_session(moved, source)
    sender, other = Peer.pulled(session), Peer.pulled(session)
    sender.change(lambda: sender.find(moved).update(value=9))
    sender.change(lambda: sender.find(source).stream({"x": [3]}))
    sender.change(lambda: sender.find(source).patch({"x": [(0, 10)]}))
    sender.change(lambda: setattr(sender.document, "title", "patched"))
    assert sender.read() == ["OK"] * 4
    assert (moved.value, dict(source.data), session.document.title) == (9, {"x": [10, 2, 3]}, "patched")
    sender.change(lambda: sender.find(source).update(data={"x": np.arange(4.0)}))
    assert list(source.data["x"]) == [0, 1, 2, 3]
    other.read()
    assert other.is_equal()


@in_loop
async def test_roots_added_and_removed_by_a_client_reach_the_others() -> None:
    """The document's list of roots is shared like everything else."""
    kept, dropped = slider(), Div(text="dropped")
    session = make_session(kept, dropped)
    sender, other = Peer.pulled(session), Peer.pulled(session)
    sender.change(lambda: sender.document.remove_root(sender.find(dropped)))
    sender.change(lambda: sender.document.add_root(Div(text="added")))
    assert sender.read() == ["OK", "OK"]
    assert other.read() == ["PATCH-DOC", "PATCH-DOC"]
    assert [getattr(root, "text", None) for root in session.document.roots] == [None, "added"]
    assert other.is_equal()
    assert sender.is_equal()


@in_loop
async def test_a_ui_event_runs_its_callbacks() -> None:
    """A click changes nothing by itself; what its callback changes goes to all, the sender before its OK."""
    button, shown = Button(label="go"), Div(text="")
    button.on_click(lambda: shown.update(text="clicked"))
    session = make_session(button, shown)
    sender, other = Peer.pulled(session), Peer.pulled(session)
    sender.send_event(ButtonClick(sender.find(button)))
    assert sender.read() == ["PATCH-DOC", "OK"]
    other.read()
    assert sender.find(shown).text == other.find(shown).text == "clicked"


@in_loop
async def test_a_callback_that_raises_is_answered_and_its_changes_stand(caplog: pytest.LogCaptureFixture) -> None:
    """The document keeps what was changed before, so all viewers get it; no traceback leaves the server."""
    moved, shown = slider(), Div(text="")

    def fail(attr: str, old: int, new: int) -> None:
        shown.text = "so far"
        raise ValueError("no good")

    moved.on_change("value", fail)
    session = make_session(moved, shown)
    sender, other = Peer.pulled(session), Peer.pulled(session)
    sender.change(lambda: sender.find(moved).update(value=2))
    [[patch, error]] = sender.mailbox.writes[1:]
    assert [patch.msgtype, error.msgtype] == ["PATCH-DOC", "ERROR"]
    assert error.content == {"text": "ValueError: no good", "traceback": None}
    for peer in (sender, other):
        peer.read()
        assert peer.is_equal()
        assert peer.find(shown).text == "so far"
    assert "no good" in caplog.text
    sender.send_events(change_of(shown, "name", "still here"))
    assert sender.read() == ["OK"]
    assert shown.name == "still here"


@in_loop
async def test_a_patch_of_an_unknown_model_is_refused() -> None:
    """The document never had it: ERROR, and nothing else happens."""
    moved = slider()
    session = make_session(moved)
    peer = Peer.pulled(session)
    peer.send_events({**change_of(moved, "value", 2), "model": {"id": "p-absent"}})
    assert peer.read() == ["ERROR"]
    assert peer.mailbox.closed is None
    assert moved.value == 1


@in_loop
async def test_a_patch_of_a_model_that_left_is_dropped() -> None:
    """It crossed the removal on the way, by no fault: OK, and no event of the patch is applied."""
    leaving, staying = slider(), slider()
    column = Column(children=[leaving, staying])
    session = make_session(column)
    peer = Peer.pulled(session)
    await session.with_document_locked(lambda: column.update(children=[staying]))
    peer.send_events(change_of(staying, "value", 5), change_of(leaving, "value", 5))
    assert peer.read() == ["PATCH-DOC", "OK"]
    assert (leaving.value, staying.value) == (1, 1)


@pytest.mark.parametrize("new", ["text", {"type": "nonsense"}, [1, 2], {"id": "p-absent"}])
@in_loop
async def test_a_value_that_does_not_fit_is_refused(new: Any) -> None:
    """Bokeh's validation, or the codec, says no; the connection stays and works."""
    moved = slider()
    session = make_session(moved)
    peer = Peer.pulled(session)
    peer.send_events(change_of(moved, "value", new))
    assert peer.read() == ["ERROR"]
    assert moved.value == 1
    peer.send_events(change_of(moved, "value", 3))
    assert peer.read() == ["OK"]


@pytest.mark.parametrize("msgtype", ["ACK", "OK", "PULL-DOC-REPLY", "NONSENSE", ""])
@in_loop
async def test_messages_that_no_client_sends_break_the_protocol(msgtype: str) -> None:
    """The connection handler closes the connection for it."""
    peer = Peer.pulled(make_session(slider()))
    with pytest.raises(ProtocolError):
        peer.ask(msgtype)


@pytest.mark.parametrize(("msgtype", "content"), [("PATCH-DOC", {}), ("PATCH-DOC", []), ("PUSH-DOC", {"doc": 1})])
@in_loop
async def test_content_that_is_not_of_its_messages_form_breaks_the_protocol(msgtype: str, content: Any) -> None:
    """There is no sensible answer to it, and the lock is free again."""
    session = make_session(slider())
    peer = Peer.pulled(session)
    with pytest.raises(ProtocolError):
        peer.send_content(msgtype, content)
    assert peer.pull() is None
    assert peer.read() == ["PULL-DOC-REPLY"]


@in_loop
async def test_a_broken_message_that_had_to_wait_raises_when_its_turn_comes() -> None:
    """The awaitable carries the error to the connection handler."""
    session = make_session(slider())
    peer = Peer.pulled(session)
    released = asyncio.Event()
    busy = holding(session, released)
    await asyncio.sleep(0)
    work = peer.send_content("PATCH-DOC", {})
    assert work is not None
    released.set()
    with pytest.raises(ProtocolError):
        await work
    await busy


@in_loop
async def test_a_message_waits_for_a_busy_document() -> None:
    """A callback that awaits holds the lock; the message comes after it and sees what it did."""
    moved, shown = slider(), Div(text="")
    session = make_session(moved, shown)
    peer = Peer.pulled(session)
    released = asyncio.Event()

    async def busy() -> None:
        shown.text = "first"
        await released.wait()
        shown.text += " last"

    moved.on_change("value", lambda attr, old, new: shown.update(text=shown.text + f" {new}"))
    task = asyncio.create_task(session.with_document_locked(busy))
    await asyncio.sleep(0)
    work = peer.send_events(change_of(moved, "value", 2))
    assert work is not None
    assert moved.value == 1
    released.set()
    await asyncio.gather(task, work)
    assert shown.text == "first last 2"
    assert peer.read() == ["PATCH-DOC", "PATCH-DOC", "OK"]
    assert peer.find(shown).text == shown.text


@in_loop
async def test_a_push_replaces_the_document_for_all() -> None:
    """The pusher has it and gets OK only; every other viewer gets the change, and pushes nothing back."""
    session = make_session(slider(), Div(text="old"))
    other = Peer.pulled(session)
    pusher = Peer(session)
    pushed = Document()
    pushed.add_root(Column(children=[Div(text="new"), slider(value=5)]))
    pushed.title = "pushed"
    pusher.push(pushed)
    assert [[m.msgtype for m in write] for write in pusher.mailbox.writes] == [["OK"]]
    assert other.read() == ["PATCH-DOC"]
    assert state_of(session.document) == state_of(pushed) == state_of(other.document)


@in_loop
async def test_a_push_to_a_session_nobody_looks_at_is_answered_with_ok_only() -> None:
    """Bokeh's `push_session` is the first and only one there."""
    session = make_session(Div(text="old"))
    pusher = Peer(session)
    pushed = Document()
    pushed.add_root(Div(text="new"))
    pusher.push(pushed)
    assert pusher.read() == ["OK"]
    assert state_of(session.document) == state_of(pushed)


@in_loop
async def test_a_pusher_gets_the_patches_after_its_push() -> None:
    """It has the document, so from now on it is a viewer like the others, and knows the models it pushed."""
    session = make_session(Div(text="old"))
    pusher, other = Peer(session), Peer.pulled(session)
    pusher.document.add_root(Div(text="pushed"))
    pusher.changes.clear()
    pusher.push(pusher.document)
    assert pusher.read() == ["OK"]
    [root] = session.document.roots
    await session.with_document_locked(lambda: root.update(text="changed"))
    assert pusher.read() == ["PATCH-DOC"]
    other.read()
    assert pusher.is_equal()
    assert other.is_equal()


@in_loop
async def test_a_viewer_that_pushes_gets_no_echo() -> None:
    """Also when it had pulled before, and others look on."""
    session = make_session(Div(text="old"))
    pusher, other = Peer.pulled(session), Peer.pulled(session)
    pushed = Document()
    pushed.add_root(Div(text="new"))
    pusher.push(pushed)
    assert [message.msgtype for message in pusher.mailbox.unread()] == ["OK"]
    other.read()
    assert other.is_equal()


@in_loop
async def test_a_push_that_fails_leaves_its_viewer_with_the_patches() -> None:
    """ERROR, and a viewer that had the document before still follows it."""
    shown = Div(text="old")
    session = make_session(shown)
    pusher = Peer.pulled(session)
    doc = {
        "version": "3.9.2",
        "title": "t",
        "config": {"type": "object", "name": "NoSuchModel", "id": "c"},
        "roots": [],
    }
    pusher.send_content("PUSH-DOC", {"doc": doc})
    assert pusher.read() == ["ERROR"]
    await session.with_document_locked(lambda: shown.update(text="new"))
    assert pusher.read() == ["PATCH-DOC"]
    assert pusher.is_equal()


@in_loop
async def test_versions_are_told_even_while_the_document_is_busy() -> None:
    """Bokeh's client asks to learn that the server still answers."""
    session = make_session(slider())
    peer = Peer.pulled(session)
    released = asyncio.Event()
    busy = holding(session, released)
    await asyncio.sleep(0)
    assert peer.ask("SERVER-INFO-REQ") is None
    [info] = peer.mailbox.unread()
    assert info.content == {"version_info": {"bokeh": bokeh.__version__, "server": bokeh.__version__}}
    released.set()
    await busy


@in_loop
async def test_a_discarded_session_answers_nobody() -> None:
    """The connection handler gets the error, whether or not it had to wait."""
    session = make_session(slider())
    peer = Peer.pulled(session)
    released = asyncio.Event()
    busy = holding(session, released)
    await asyncio.sleep(0)
    waiting = peer.pull()
    assert waiting is not None
    session.destroy()
    released.set()
    await busy
    with pytest.raises(SessionGone):
        await waiting
    with pytest.raises(SessionGone):
        peer.pull()


@in_loop
async def test_a_page_that_sends_back_what_it_has_changes_nothing() -> None:
    """After a reconnect BokehJS sends its roots again in full; they are recognised by their ids."""
    moved = slider()
    session = make_session(moved)
    peer, other = Peer.pulled(session), Peer.pulled(session)
    full = {"type": "object", "name": "Slider", "id": moved.id, "attributes": {"value": 77, "start": 0, "end": 100}}
    peer.send_events({"kind": "RootAdded", "model": full})
    assert peer.read() == ["OK"]
    assert moved.value == 1
    assert len(session.document.roots) == 1
    other.read()
    assert other.is_equal()


@in_loop
async def test_a_client_that_replaces_one_column_leaves_the_others() -> None:
    """Bokeh's own handler of this event drops them, and the server's document is not what the viewers show."""
    source = ColumnDataSource({"x": [1, 2], "y": [3, 4]})
    session = make_session(source)
    peer, other = Peer.pulled(session), Peer.pulled(session)
    peer.change(lambda: peer.find(source).data.update({"x": [8, 9]}))
    assert dict(source.data) == {"x": [8, 9], "y": [3, 4]}
    other.read()
    assert dict(other.find(source).data) == {"x": [8, 9], "y": [3, 4]}


@in_loop
async def test_a_viewer_may_change_the_documents_configuration() -> None:
    """As from BokehJS 3.10 on; later pulls have it, and viewers that are there do not get it, as in Bokeh."""
    session = make_session(slider())
    peer, other = Peer.pulled(session), Peer.pulled(session)
    config = session.document.config
    assert config.notify_connection_status is True
    peer.send_events(change_of(config, "notify_connection_status", False))
    peer.send_events(change_of(config.notifications, "name", "mine"))
    peer.send_events(change_of(config, "of_a_newer_version", 1))
    assert peer.read() == ["OK", "OK", "OK"]
    assert other.read() == []
    assert config.notify_connection_status is False
    late = Peer.pulled(session)
    assert late.document.config.notify_connection_status is False
    assert late.document.config.notifications.name == "mine"


@in_loop
async def test_a_push_of_many_roots_walks_through_the_models_a_few_times_in_all() -> None:
    """And not for each of the roots: with hundreds of plots that takes minutes."""
    walks = 0

    class Counted(Div):
        def references(self) -> set[Model]:
            nonlocal walks
            walks += 1
            return super().references()

    session = make_session(Div(text="old"))
    viewer, pusher = Peer.pulled(session), Peer(session)
    pushed = Document()
    for number in range(30):
        pushed.add_root(Counted(text=str(number)))
    walks = 0
    pusher.push(pushed)
    assert pusher.read() == ["OK"]
    assert walks <= 3 * 30
    assert viewer.read()
    assert state_of(session.document) == state_of(pushed) == state_of(viewer.document)


@in_loop
async def test_a_message_of_many_changes_to_a_large_document_is_refused_before_it_takes_minutes() -> None:
    """Each new root has Bokeh walk through all models. The peer is closed; what a few change is taken."""
    session = make_session(*(Div(text=str(number)) for number in range(100)))
    peer = Peer.pulled(session)
    peer.viewer.allowance = Allowance(MIN_BUDGET, visits=1000)
    adding = [{"kind": "RootAdded", "model": {"type": "object", "name": "Div", "id": f"n{n}"}} for n in range(20)]
    peer.send_events(*adding[:5])
    assert peer.read() == ["OK"]
    with pytest.raises(ProtocolError) as refusal:
        peer.send_events(*adding[5:])
    assert refusal.value.close_code == 1009
    assert len(session.document.roots) < 120
    peer.send_events(*(change_of(session.document.roots[0], "text", str(number)) for number in range(50)))


@in_loop
async def test_streams_into_arrays_are_bounded_by_what_they_have_copied() -> None:
    """Bokeh makes each column anew for each of them; a list is extended, and costs what is sent."""
    array, plain = (ColumnDataSource({"y": column}) for column in (np.zeros(1000), [0.0] * 1000))
    session = make_session(array, plain)
    peer = Peer.pulled(session)
    peer.viewer.allowance = Allowance(MIN_BUDGET, copied=100_000)

    def streams(source: ColumnDataSource) -> list[dict[str, Any]]:
        model = {"id": source.id}
        return [{"kind": "ColumnsStreamed", "model": model, "attr": "data", "data": {"y": [1.0]}}] * 20

    peer.send_events(*streams(plain))
    for _ in range(3):  # each message has its own
        peer.send_events(*streams(array)[:10])
    assert peer.read() == ["OK"] * 4
    with pytest.raises(ProtocolError) as refusal:
        peer.send_events(*streams(array))
    assert refusal.value.close_code == 1009


@in_loop
async def test_a_chain_of_models_over_many_messages_stays_such_that_others_can_pull() -> None:
    """Each message puts what the one before it has made into something new, until one is an error."""
    holder = Div()
    session = make_session(holder)
    peer = Peer.pulled(session)
    answers = []
    inside: list[Any] = []
    for number in range(200):
        new = {"type": "object", "name": "Div", "id": f"n{number}", "attributes": {"tags": inside}}
        peer.send_events(change_of(holder, "tags", [new]))
        answers += peer.read()
        inside = [{"id": f"n{number}"}]
        if answers[-1] != "OK":
            break
    assert answers[-1] == "ERROR"
    assert len(answers) > 20
    other = Peer.pulled(session)
    assert state_of(session.document) == state_of(other.document)
