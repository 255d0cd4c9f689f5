"""A client's copy of a document: what it reports, and what it makes of a server's messages."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from bokeh.document import Document
from bokeh.document.events import MessageSentEvent
from bokeh.io import doc
from bokeh.model import Model
from bokeh.models import Column, ColumnDataSource
from bokeh.models.widgets import Div, Slider
from support.peers import state_of

from aperture.client.mirror import Change, Mirror
from aperture.client.timers import Agenda
from aperture.document import current
from aperture.errors import Overloaded, ServerGarbled, UnknownReference
from aperture.protocol.codec import decode_document, encode_document
from aperture.protocol.message_type import MessageType
from aperture.protocol.messages import Message


@pytest.fixture(autouse=True)
def _curdoc_is_put_back() -> Iterator[None]:
    """Callbacks run with the document as the current one."""
    current.install()  # as a session does
    before = list(doc._PATCHED_CURDOCS)
    yield
    assert before == list(doc._PATCHED_CURDOCS)


class Copy:
    """A mirror with the changes that it has reported.

    Args:
        roots: of its document.
        document: to be followed in place of a new one.
    """

    def __init__(self, *roots: Model, document: Document | None = None) -> None:
        self.document = document or Document()
        for root in roots:
            self.document.add_root(root)
        self.changes: list[Change] = []
        self.full = False
        """Whether there is no room for further changes."""
        self.agenda = Agenda(float, lambda: None)
        self.mirror = Mirror(self.document, self._changed, self.agenda)
        self.mirror.attach()
        self.mirror.pushed()

    def apply(self, *events: dict[str, Any]) -> None:
        """A patch of the server arrives."""
        content = {"events": list(events)}
        self.mirror.apply(Message("m", MessageType.PATCH_DOC, None, content, {}, size=len(json.dumps(content))))

    def replace(self, content: Any, buffers: dict[str, bytes] | None = None) -> None:
        """The answer to a pull arrives."""
        self.mirror.replace(Message("m", MessageType.PULL_DOC_REPLY, "r", content, buffers or {}, size=10_000))

    @property
    def kinds(self) -> list[str]:
        return [change.event.kind for change in self.changes]

    def reported(self) -> list[dict[str, Any]]:
        """The events as the server gets them."""
        return [json.loads(change.encoded.json) for change in self.changes]

    def _changed(self, change: Change) -> None:
        if self.full:
            raise Overloaded("no room")
        self.changes.append(change)


def pulled(document: Document) -> tuple[Any, dict[str, bytes]]:
    """What a server answers to a pull."""
    content, buffers = encode_document(document, inline=False)
    return json.loads(content), {buffer.id: bytes(buffer.data) for buffer in buffers}


def set_to(model: Model, attr: str, new: Any) -> dict[str, Any]:
    return {"kind": "ModelChanged", "model": {"id": model.id}, "attr": attr, "new": new}


def test_local_changes_are_reported_as_they_happen() -> None:
    """Encoded then: what a list becomes later is another change."""
    div, source = Div(text="a"), ColumnDataSource({"x": [1]})
    copy = Copy(div, source)
    div.tags = ["one"]
    div.tags.append("two")
    copy.document.title = "t"
    source.stream({"x": [2]})
    copy.document.add_root(Slider(start=0, end=1, value=0))
    assert copy.kinds == ["ModelChanged", "ModelChanged", "TitleChanged", "ColumnsStreamed", "RootAdded"]
    assert [event["new"] for event in copy.reported()[:2]] == [["one"], ["one", "two"]]


def test_changes_held_back_are_reported_when_they_are_let_go() -> None:
    """Combined, as the program has asked for."""
    div = Div(text="a")
    copy = Copy(div)
    copy.document.hold("combine")
    div.text = "b"
    div.text = "c"
    assert copy.changes == []
    copy.document.unhold()
    assert [event["new"] for event in copy.reported()] == ["c"]


def test_an_assignment_that_finds_no_room_fails() -> None:
    """The caller learns of it where it happens."""
    div = Div(text="a")
    copy = Copy(div)
    copy.full = True
    with pytest.raises(Overloaded):
        div.text = "b"


def test_new_models_are_written_out_once() -> None:
    """And referred to afterwards; one that has left before is marked, because the server may have it still."""
    column = Column(children=[])
    copy = Copy(column)
    div = Div(text="new")
    column.children = [div]
    column.children = [div, Div(text="other")]
    column.children = []
    column.children = [div]
    first, second, _, again = copy.reported()
    assert first["new"][0]["attributes"]["text"] == "new"
    assert second["new"][0] == {"id": div.id}
    assert again["new"][0]["attributes"]["text"] == "new"
    assert [change.brings_back for change in copy.changes] == [False, False, False, True]


def test_a_mirror_that_is_detached_reports_nothing() -> None:
    """Nor do timed callbacks that are added later run; both calls may come twice, and it can attach again."""
    div = Div(text="a")
    copy = Copy(div)
    copy.document.add_timeout_callback(lambda: None, 1000)
    assert copy.agenda.next_due() is not None
    for _ in range(2):
        copy.mirror.detach()
    div.text = "b"
    copy.document.add_timeout_callback(lambda: None, 1000)
    assert (copy.changes, copy.agenda.next_due()) == ([], None)
    for _ in range(2):
        copy.mirror.attach()
    div.text = "c"
    assert copy.kinds == ["ModelChanged"]
    assert copy.agenda.next_due() is not None


def test_a_servers_patch_is_applied_and_not_reported() -> None:
    """Its callbacks run when all of it is there; what they change is a local change."""
    slider, div = Slider(start=0, end=100, value=1), Div(text="a")
    copy = Copy(slider, div)
    seen: list[Any] = []

    def moved(attr: str, old: Any, new: Any) -> None:
        seen.append((new, div.text))
        slider.title = "moved"

    slider.on_change("value", moved)
    copy.apply(set_to(slider, "value", 5), set_to(div, "text", "b"))
    assert seen == [(5, "b")]
    assert [event["attr"] for event in copy.reported()] == ["title"]


def test_a_callback_that_fails_costs_no_other(caplog: pytest.LogCaptureFixture) -> None:
    """It is logged; the patch is applied."""
    slider, div = Slider(start=0, end=100, value=1), Div(text="a")
    copy = Copy(slider, div)
    seen: list[str] = []

    def fail(attr: str, old: Any, new: Any) -> None:
        raise ValueError("a fault of the program's")

    slider.on_change("value", fail)
    div.on_change("text", lambda attr, old, new: seen.append(new))
    copy.apply(set_to(slider, "value", 5), set_to(div, "text", "b"))
    assert (slider.value, seen) == (5, ["b"])
    assert "a fault of the program's" in caplog.text


def test_a_message_of_the_server_is_handled_behind_the_changes() -> None:
    """Bokeh's `on_message`."""
    div = Div(text="a")
    copy = Copy(div)
    seen: list[Any] = []
    copy.document.on_message("hello", lambda data: seen.append((data, div.text)))
    sent = {"kind": "MessageSent", "msg_type": "hello", "msg_data": 5}
    copy.apply(sent, set_to(div, "text", "b"))
    assert seen == [(5, "b")]


def test_a_patch_of_a_model_that_has_left_is_dropped(caplog: pytest.LogCaptureFixture) -> None:
    """It crossed the removal; one of a model that never was is an error, and the document must be pulled."""
    caplog.set_level(logging.DEBUG)
    div = Div(text="a")
    copy = Copy(div)
    copy.document.remove_root(div)
    copy.apply(set_to(div, "text", "b"))
    assert div.text == "a"
    assert "patch dropped" in caplog.text
    with pytest.raises(UnknownReference, match="p-unknown"):
        copy.apply({"kind": "ModelChanged", "model": {"id": "p-unknown"}, "attr": "text", "new": "b"})


def test_a_pull_keeps_the_programs_objects() -> None:
    """Models that are there get the server's values, properties that the server has not set their defaults."""
    theirs = Document(title="theirs")
    div = Div(text="server's", name="div")
    theirs.add_root(Column(children=[div]))
    theirs.add_root(Slider(start=0, end=9, value=3))
    copy = Copy()
    copy.replace(*pulled(theirs))
    assert state_of(copy.document) == state_of(theirs)
    mine = copy.document.get_model_by_id(div.id)
    assert isinstance(mine, Div)
    seen: list[Any] = []
    for attr in ("text", "width"):
        mine.on_change(attr, lambda attr, old, new: seen.append((attr, old, new)))
    mine.width = 77
    seen.clear()
    copy.changes.clear()
    div.text = "newer"
    theirs.title = "renamed"
    copy.replace(*pulled(theirs))
    assert copy.document.get_model_by_id(div.id) is mine
    assert (mine.text, copy.document.title) == ("newer", "renamed")
    assert mine.width is None
    assert sorted(seen) == [("text", "server's", "newer"), ("width", 77, None)]
    assert copy.changes == []


@pytest.mark.parametrize(
    "content",
    [
        None,
        {"doc": []},
        {"doc": {"config": None, "roots": [], "title": "t"}},
        {"doc": {"config": None, "roots": [{"id": "p-unknown"}], "title": "t"}},
        {"doc": {"config": None, "roots": 5, "title": "t"}},
        {"doc": {"config": None, "roots": [], "title": 5}},
    ],
)
def test_what_is_no_document_is_garbled(content: Any) -> None:
    """And the document can still be changed: it is not left frozen, or held."""
    div = Div(text="a")
    copy = Copy(div)
    with pytest.raises(ServerGarbled):
        copy.replace(content)
    div.text = "b"
    assert copy.kinds == ["ModelChanged"]


def test_whose_document_it_is_shows_in_its_roots() -> None:
    """A session that was made anew has other ones; an empty document fits any."""
    div = Div()
    theirs, others = Document(), Document()
    theirs.add_root(div)
    others.add_root(Div())
    copy = Copy()
    answers = [
        Message("m", MessageType.PULL_DOC_REPLY, "r", content, {})
        for content in (pulled(theirs)[0], pulled(others)[0], None, {"doc": {"roots": "none"}})
    ]
    assert [copy.mirror.shares_roots_with(answer) for answer in answers] == [True] * 4
    copy.replace(*pulled(theirs))
    assert [copy.mirror.shares_roots_with(answer) for answer in answers] == [True, False, False, False]


def test_a_pushed_document_is_the_one_that_is_here() -> None:
    """With everything in it, for a server that has nothing."""
    copy = Copy(Column(children=[Div(text="a")]), ColumnDataSource({"x": [1, 2]}))
    content, buffers = copy.mirror.encoded_document()
    pushed = Document()
    message = Message("m", MessageType.PUSH_DOC, None, json.loads(content), {b.id: bytes(b.data) for b in buffers})
    pushed.replace_with_json(decode_document(message))  # type: ignore[arg-type]
    assert state_of(pushed) == state_of(copy.document)


def test_changes_are_made_again_on_the_document_of_now() -> None:
    """Of all kinds; those of a model that has left are dropped, and one that fails is logged."""
    div, source = Div(text="a"), ColumnDataSource({"x": [1, 2]})
    copy = Copy(div, source)
    added = Div(text="root")
    div.text = "mine"
    copy.document.title = "mine"
    source.stream({"x": [3]})
    source.patch({"x": [(0, 9)]})
    source.data["x"] = [7]
    copy.document.add_root(added)
    made, copy.changes = copy.changes, []
    with_setter: Any = object()
    div.text, copy.document.title, source.data = "theirs", "theirs", {"x": [1, 2]}
    copy.document.remove_root(added, with_setter)
    copy.changes.clear()
    for change in made:
        copy.mirror.make_again(change)
    assert (div.text, copy.document.title, list(source.data["x"])) == ("mine", "mine", [7])
    assert added in copy.document.roots
    copy.document.remove_root(div)
    copy.changes.clear()
    div.text = "elsewhere"
    copy.mirror.make_again(made[0])
    assert (div.text, copy.changes) == ("elsewhere", [])


def test_a_message_is_sent_again() -> None:
    """What the program has sent to the server's document has no model that could have left."""
    copy = Copy(Div())
    event = MessageSentEvent(copy.document, "hello", 5)
    copy.document.callbacks.trigger_on_change(event)
    [change] = copy.changes
    copy.changes.clear()
    copy.mirror.make_again(change)
    assert copy.kinds == ["MessageSent"]


def test_two_sessions_of_one_document_hear_of_each_other() -> None:
    """What one server sends is a change for the other; new models are written out for both."""
    div = Div(text="a")
    one = Copy(div)
    other = Copy(document=one.document)
    one.apply(set_to(div, "text", "b"))
    assert (one.kinds, other.kinds) == ([], ["ModelChanged"])
    added = Div(text="new")
    one.document.add_root(added)
    roots = [copy.reported()[-1]["model"]["attributes"]["text"] for copy in (one, other)]
    assert roots == ["new", "new"]
    div.tags = [added]
    assert [copy.reported()[-1]["new"] for copy in (one, other)] == [[{"id": added.id}]] * 2
    one.full = True
    with pytest.raises(Overloaded):
        div.text = "c"
    assert other.reported()[-1]["new"] == "c"
    one.mirror.detach()
    div.text = "d"
    assert other.reported()[-1]["new"] == "d"
    other.mirror.detach()
    assert "trigger_on_change" not in vars(one.document.callbacks)
