"""From changes to patches: what collapses, in which order, and what each origin is left out of."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from bokeh.core.serialization import Serialized
from bokeh.document import Document
from bokeh.document.events import ModelChangedEvent, TitleChangedEvent
from bokeh.models import Column, ColumnDataSource
from bokeh.models.widgets import Div, Slider
from support.peers import state_of

from aperture.protocol.codec import EventEncoder
from aperture.worker.document.loading import new_document
from aperture.worker.patch.batch import Batch, Patch
from aperture.worker.patch.callbacks import OrderedCallbacks
from aperture.worker.patch.changes import final_change
from aperture.worker.patch.contention import Contention

ONE, OTHER = object(), object()


class Desk:
    """A document, a batch that records what happens to it, and a copy of it as a viewer had it before."""

    def __init__(self, *roots: Any) -> None:
        self.document = new_document()
        for root in roots:
            self.document.add_root(root)
        models = self.document.models
        encoder = EventEncoder(
            lambda model: model.document is self.document and model not in models._new_models,
            models._new_models.discard,
        )
        self.before = json.dumps(self.document.to_json(deferred=False))
        self.now = 0.0
        self._contention = Contention(lambda: self.now)
        self._encoder = encoder
        self.batch = self.next_batch()

    def next_batch(self) -> Batch:
        """Begin the next hold of the lock."""
        self.batch = Batch(self.document, self._encoder, self._contention)
        callbacks = self.document.callbacks
        assert isinstance(callbacks, OrderedCallbacks)
        callbacks.recorder = self.batch.record
        return self.batch

    def applied(self, *patches: Patch | None) -> Document:
        """The viewer's copy after these patches."""
        copy = Document.from_json_string(self.before)
        for patch in patches:
            if patch is not None:
                for content, _ in patch.parts:
                    copy.apply_json_patch(Serialized(json.loads(content), []))
        return copy


def events_of(patch: Patch | None) -> list[tuple[str, Any]]:
    assert patch is not None
    events = [event for content, _ in patch.parts for event in json.loads(content)["events"]]
    return [(event.get("attr", event["kind"]), event.get("new", event.get("title"))) for event in events]


def slider(**fields: Any) -> Slider:
    return Slider(**{"start": 0, "end": 1000, "value": 1, "step": 1, **fields})


def change(model: Any, attr: str, value: Any, origin: object | None) -> None:
    model.set_from_json(attr, value, setter=origin)


def test_consecutive_changes_of_one_attribute_are_one() -> None:
    """A hundred steps of a slider are its last."""
    moved = slider()
    desk = Desk(moved)
    for value in range(2, 102):
        moved.value = value
    assert events_of(desk.batch.patch()) == [("value", 101)]


def test_consecutive_titles_are_one() -> None:
    """The document's title collapses like an attribute."""
    desk = Desk(slider())
    for title in ("a", "b", "c"):
        desk.document.title = title
    assert events_of(desk.batch.patch()) == [("TitleChanged", "c")]


def test_changes_with_another_between_them_stay() -> None:
    """BokehJS may have handlers that look at both: the order of what happened is kept."""
    one, two = slider(), slider()
    desk = Desk(one, two)
    one.value, two.value, one.value = 2, 3, 4
    assert events_of(desk.batch.patch()) == [("value", 2), ("value", 3), ("value", 4)]


def test_two_attributes_and_two_models_do_not_collapse() -> None:
    """Only the same attribute of the same model is the same thing."""
    one, two = slider(), slider()
    desk = Desk(one, two)
    one.value, one.title, two.title = 2, "t", "t"
    assert len(events_of(desk.batch.patch())) == 3


def test_streams_do_not_collapse() -> None:
    """Each holds rows of its own."""
    source = ColumnDataSource({"x": [1]})
    desk = Desk(source)
    source.stream({"x": [2]})
    source.stream({"x": [3]})
    patch = desk.batch.patch()
    assert len(events_of(patch)) == 2
    assert state_of(desk.applied(patch)) == state_of(desk.document)


def test_a_change_that_brought_a_model_is_not_collapsed() -> None:
    """The model would be missing: what comes after refers to it."""
    column, extra = Column(children=[]), Div(text="new")
    desk = Desk(column)
    column.children = [extra]
    column.children = [extra, extra]
    extra.text = "newer"
    patch = desk.batch.patch()
    assert [attr for attr, _ in events_of(patch)] == ["children", "children", "text"]
    assert state_of(desk.applied(patch)) == state_of(desk.document)


def test_a_viewers_own_changes_collapse_among_themselves() -> None:
    """Others need only its last."""
    moved = slider()
    desk = Desk(moved)
    change(moved, "value", 2, ONE)
    change(moved, "value", 3, ONE)
    assert events_of(desk.batch.patch()) == [("value", 3)]
    assert desk.batch.patch_for(ONE) is None


def test_the_apps_correction_takes_the_place_of_a_viewers_change() -> None:
    """The app's value is for everyone, the viewer included, so the viewer's own need not be sent."""
    moved = slider()
    desk = Desk(moved)
    change(moved, "value", 200, ONE)
    change(moved, "value", 100, None)
    assert desk.batch.origins() == set()
    assert events_of(desk.batch.patch()) == [("value", 100)]


def test_a_viewers_change_does_not_take_the_place_of_the_apps() -> None:
    """The others get both in one; the viewer has the later value, and the older one would only take it away again."""
    moved = slider()
    desk = Desk(moved)
    change(moved, "value", 100, None)
    change(moved, "value", 200, ONE)
    assert events_of(desk.batch.patch())[-1] == ("value", 200)
    assert desk.batch.patch_for(ONE) is None
    assert desk.batch.contested == {(moved.id, "value")}


def test_a_viewer_gets_everything_but_its_own() -> None:
    """In the order in which it happened."""
    moved, shown = slider(), Div(text="")
    moved.on_change("value", lambda attr, old, new: shown.update(text=str(new), name="n"))
    desk = Desk(moved, shown)
    change(moved, "value", 5, ONE)
    assert desk.batch.origins() == {ONE}
    assert events_of(desk.batch.patch()) == [("value", 5), ("text", "5"), ("name", "n")]
    assert events_of(desk.batch.patch_for(ONE)) == [("text", "5"), ("name", "n")]


def test_what_two_change_at_once_is_contested() -> None:
    """After the app, or another viewer, changed the same thing a moment before; not long after."""
    moved = slider()
    desk = Desk(moved)
    change(moved, "value", 5, OTHER)
    batch = desk.next_batch()
    change(moved, "value", 6, ONE)
    assert batch.contested == {(moved.id, "value")}
    desk.now += 60
    batch = desk.next_batch()
    change(moved, "value", 7, ONE)
    assert batch.contested == set()


def test_titles_and_streams_are_contested_too() -> None:
    """The title has no model, and rows have an order, which only the server knows."""
    source = ColumnDataSource({"x": [0]})
    desk = Desk(source)
    desk.document.set_title("other's", setter=OTHER)  # type: ignore[arg-type]
    source.stream({"x": [1]})
    batch = desk.next_batch()
    desk.document.set_title("one's", setter=ONE)  # type: ignore[arg-type]
    stream: Any = getattr(source, "_stream")  # noqa: B009 - unknown to Bokeh's types
    stream({"x": [2]}, setter=ONE)
    assert batch.contested == {(None, "title"), (source.id, "data")}


def test_new_models_are_sent_with_a_value_that_was_replaced_since() -> None:
    """Later changes only refer to models that came with it."""
    column, shown = Column(children=[]), Div(text="")
    desk = Desk(column, shown)
    added = Div(text="new")
    column.children = [added]
    change(column, "children", [], ONE)
    shown.text = "after"
    assert [attr for attr, _ in events_of(desk.batch.patch_for(ONE))] == ["children", "text"]


def test_the_final_change_is_what_the_document_holds() -> None:
    """Of a model, of the title, and nothing of a model that has left."""
    moved = slider()
    column = Column(children=[moved])
    desk = Desk(column)
    moved.value = 6
    desk.document.title = "final"
    value, title = final_change(desk.document, (moved.id, "value")), final_change(desk.document, (None, "title"))
    assert isinstance(value, ModelChangedEvent)
    assert value.new == 6
    assert isinstance(title, TitleChangedEvent)
    assert title.title == "final"
    column.children = []
    assert final_change(desk.document, (moved.id, "value")) is None


def test_scalars_are_encoded_at_the_end_and_the_rest_when_it_happens() -> None:
    """A list is written down before it is changed in place."""
    column = Column(tags=[])
    desk = Desk(column)
    mine = [1]
    column.tags = mine
    column.name = "n"
    column.tags.append(2)
    assert events_of(desk.batch.patch()) == [("tags", [1]), ("name", "n"), ("tags", [1, 2])]


def test_a_change_that_cannot_be_encoded_is_left_out() -> None:
    """Recording raises nothing, so the app's callbacks run; what was changed before it is kept."""
    source = ColumnDataSource({"x": [1]})
    desk = Desk(source)
    assert desk.batch.unencodable is None
    source.data = {"x": [2]}
    source.data = {"x": [object()]}
    assert "object" in str(desk.batch.unencodable)
    assert len(events_of(desk.batch.patch())) == 1
    desk.next_batch()
    source.data = {"x": [object()]}
    assert not desk.batch


def test_a_model_that_is_brought_back_begins_a_new_patch() -> None:
    """And with it the changes that follow; nothing else does, not even a new model."""
    div, source = Div(text="before"), ColumnDataSource({"x": [1]})
    column, other = Column(children=[div]), Column(children=[])
    desk = Desk(column, other, source)
    div.text = "loading"
    other.children = [Div(text="new")]
    column.children = []
    div.text = "done"
    column.children = [div]
    source.stream({"x": [2]})
    patch = desk.batch.patch()
    kinds = [[event.get("attr") for event in json.loads(content)["events"]] for content, _ in patch.parts]
    assert kinds == [["text", "children", "children"], ["children", "data"]]
    copy = desk.applied(patch)
    found: Any = copy.get_model_by_id(div.id)
    assert found.text == "done"


def test_a_viewers_own_change_of_what_it_is_sent_in_full_is_sent_back() -> None:
    """Or it would be left with what the model was before its change."""
    div = Div(text="before")
    column = Column(children=[div])
    desk = Desk(column)
    column.children = []
    column.children = [div]
    change(div, "text", "mine", ONE)
    assert events_of(desk.batch.patch_for(ONE))[-1] == ("text", "mine")


def test_a_viewer_that_has_it_all_is_left_out() -> None:
    """It pulled or pushed the whole document."""
    moved = slider()
    desk = Desk(moved)
    moved.value = 5
    desk.batch.leave_out(ONE)
    assert ONE in desk.batch.origins()
    assert desk.batch.patch_for(ONE) is None
    assert events_of(desk.batch.patch_for(OTHER)) == [("value", 5)]


@pytest.mark.parametrize("policy", ["combine", "collect"])
def test_what_is_held_back_is_recorded_when_it_is_let_go(policy: Any) -> None:
    """A hold hides changes from the viewers, not from the batch that is there at its end."""
    moved = slider()
    desk = Desk(moved)
    desk.document.hold(policy)
    moved.value = 5
    assert not desk.batch
    batch = desk.next_batch()
    desk.document.unhold()
    assert events_of(batch.patch()) == [("value", 5)]


def test_what_is_let_go_late_is_not_made_twice() -> None:
    """Values are written down when they are let go: rows that are in them already do not come again."""
    replaced, streamed = ColumnDataSource({"x": [1]}), ColumnDataSource({"x": [1]})
    column = Column(children=[])
    desk = Desk(replaced, streamed, column)
    desk.document.hold("collect")
    replaced.data = {"x": [2]}
    streamed.stream({"x": [2]})
    replaced.stream({"x": [3]})
    fresh = ColumnDataSource({"x": [1]})
    column.tags = [fresh]
    fresh.stream({"x": [2]})
    desk.document.unhold()
    copy = desk.applied(desk.batch.patch())
    for source in (replaced, streamed, fresh):
        found: Any = copy.get_model_by_id(source.id)
        assert dict(found.data) == dict(source.data)


def test_what_was_held_is_recorded_before_the_callbacks_of_any_of_it() -> None:
    """Which change the same things, later."""
    moved, source = slider(), ColumnDataSource({"x": [1]})
    desk = Desk(moved, source)
    moved.on_change("value", lambda attr, old, new: source.stream({"x": [3]}))
    desk.document.hold("collect")
    moved.value = 5
    source.stream({"x": [2]})
    desk.document.unhold()
    copy = desk.applied(desk.batch.patch())
    found: Any = copy.get_model_by_id(source.id)
    assert found.data["x"] == source.data["x"] == [1, 2, 3]


def test_changes_are_recorded_before_their_callbacks_run() -> None:
    """That is what gives cause and result their order."""
    moved = slider()
    desk = Desk(moved)
    seen: list[bool] = []
    moved.on_change("value", lambda attr, old, new: seen.append(bool(desk.batch)))
    moved.value = 5
    assert seen == [True]


def test_session_callbacks_are_no_changes() -> None:
    """A timer is the session's business, and nothing to send."""
    desk = Desk(slider())
    tick: Callable[[], None] = lambda: None  # noqa: E731
    desk.document.add_next_tick_callback(tick)
    assert not desk.batch
