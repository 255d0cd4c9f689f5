"""Values that an app keeps with its session, from one worker to the next, both of them in this process."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, cast

import msgpack
import numpy as np
import pytest
from bokeh.application import Application
from bokeh.application.handlers import FunctionHandler, ScriptHandler
from bokeh.application.handlers.handler import Handler
from bokeh.document import Document
from bokeh.events import ButtonClick
from bokeh.layouts import column
from bokeh.models.widgets import Button, Div, Slider, TextInput
from support.node import EXAMPLES
from support.peers import Peer, in_loop
from support.stored_memory import MemoryStore, settled

from aperture import session_state
from aperture.app_state import pack_value
from aperture.document import ids
from aperture.errors import BusDown, NotLocked, StateMismatch
from aperture.worker.collector import GarbageCollector
from aperture.worker.document.snapshot import pack_patch, stored_values
from aperture.worker.patch.batch import Patch
from aperture.worker.recovery import journal as journal_module
from aperture.worker.recovery.rebuild import RedisRecovery
from aperture.worker.session.arrival import Arrival
from aperture.worker.session.host import AppHost, Origin
from aperture.worker.session.placement import LocalPlacement
from aperture.worker.session.session import Session
from aperture.worker.session.store import SessionStore

SESSION_KEY = "/app\ts"
NOTES = ScriptHandler(filename=str(EXAMPLES / "apps" / "notes.py"))

Act = Callable[[Document], object]


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """What gathers or is tried again is so at the loop's next turn."""
    ids.install()
    monkeypatch.setattr(journal_module, "GATHER", 0)
    monkeypatch.setattr(journal_module, "RETRY", 0)


def app(document: Document) -> None:
    """A slider and a text; its values are set to what they are at first whenever it runs."""
    session_state(document)["count"] = 0
    document.add_root(column(Slider(name="slider", start=0, end=100, value=0), Div(name="text", text="")))


class Worker:
    """A worker's sessions.

    Args:
        kept: what all workers share.
        code: the app's.
        acknowledge: as with `--durability ack`.
    """

    def __init__(self, kept: MemoryStore, code: Act | Handler = app, *, acknowledge: bool = False) -> None:
        handler = code if isinstance(code, Handler) else FunctionHandler(cast("Any", code))
        self.survival = RedisRecovery(kept, acknowledge=acknowledge)
        self.host = AppHost("/app", Application(handler), logout_url=None, issue_token=str)
        self.store = SessionStore(
            {"/app": self.host}, LocalPlacement(), GarbageCollector(), unused_lifetime=15, recovery=self.survival
        )

    async def get(self) -> Session:
        session = await self.store.get_or_create(Arrival(self.host, "s", lambda: Origin(None, {})))
        await settled()
        return session

    @property
    def outcome(self) -> str | None:
        return next((outcome for outcome, count in self.survival.outcomes.items() if count), None)


def named(session: Session, name: str) -> Any:
    return session.document.get_model_by_name(name)


def state_of(session: Session) -> dict[str, Any]:
    return dict(session_state(session.document))


async def do(session: Session, act: Callable[[], object]) -> None:
    await session.with_document_locked(act)
    await settled()


async def keep(session: Session, **values: object) -> None:
    await do(session, lambda: session_state(session.document).update(values))


async def click(session: Session, name: str) -> None:
    button = named(session, name)
    await do(session, lambda: button._trigger_event(ButtonClick(button)))


async def write(session: Session, words: str) -> None:
    await do(session, lambda: setattr(named(session, "text"), "value", words))


def listed(session: Session) -> list[str]:
    return [line.children[0].text for line in named(session, "listed").children]


@in_loop
async def test_values_go_from_worker_to_worker_through_journal_and_snapshot() -> None:
    """Changed, added and deleted ones; whatever the code assigns when it runs again, where its document is kept."""
    kept = MemoryStore()
    first = await Worker(kept).get()
    await keep(first, count=5, array=np.arange(3), gone=1)
    await do(first, lambda: session_state(first.document).pop("gone"))
    await do(first, lambda: setattr(named(first, "slider"), "value", 7))
    assert len(kept.stored[SESSION_KEY].entries) == 3
    second = Worker(kept)
    session = await second.get()
    assert second.outcome == "restored"
    assert state_of(session).keys() == {"count", "array"}
    assert session_state(session.document)["count"] == 5
    assert session_state(session.document)["array"].tolist() == [0, 1, 2]
    assert named(session, "slider").value == 7
    assert kept.stored[SESSION_KEY].entries == [], "it begins with a snapshot"
    assert session_state((await Worker(kept).get()).document)["count"] == 5


@in_loop
async def test_a_change_of_both_is_one_entry() -> None:
    """So that there is never one without the other."""
    kept = MemoryStore()
    session = await Worker(kept).get()

    def both() -> None:
        session_state(session.document)["count"] = 1
        named(session, "slider").value = 1
        session_state(session.document)["count"] = 2

    await do(session, both)
    (entry,) = kept.stored[SESSION_KEY].entries
    assert stored_values(kept.stored[SESSION_KEY].snapshot, [entry]) == {"count": pack_value(2)}


@in_loop
async def test_viewers_are_told_nothing_of_values() -> None:
    """Neither in a patch nor in the document; what comes next still reaches them in order."""
    session = await Worker(MemoryStore()).get()
    peer = Peer.pulled(session)
    await keep(session, secret="in no browser")
    assert peer.read() == []
    await do(session, lambda: setattr(named(session, "slider"), "value", 3))
    assert peer.read() == ["PATCH-DOC"]
    assert peer.is_equal()


@in_loop
async def test_a_change_of_values_alone_is_acknowledged_when_it_is_safe() -> None:
    """As a change of the document is."""

    def counting(document: Document) -> None:
        button = Button(name="count")
        button.on_click(lambda: session_state(document).update(count=1))
        document.add_root(button)

    kept = MemoryStore()
    session = await Worker(kept, counting, acknowledge=True).get()
    peer = Peer.pulled(session)
    kept.problem = BusDown("away")
    peer.send_event(ButtonClick(peer.find(named(session, "count"))))
    await settled()
    assert peer.read() == []
    kept.problem = None
    await settled()
    assert peer.read() == ["OK"]
    after = kept.stored[SESSION_KEY]
    assert stored_values(after.snapshot, after.entries) == {"count": pack_value(1)}


class Elsewhere:
    """Viewers in other workers, who count the numbers of what is published."""

    connections = workers = 1
    live = True

    def __init__(self) -> None:
        self.published: list[tuple[int, bool]] = []

    def publish(self, sequence: int, everyone: object, variants: object, answered: object) -> None:
        self.published.append((sequence, everyone is not None))

    def close(self, code: int, reason: str) -> None:
        """No-op."""

    def abandon(self) -> None:
        """No-op."""


@in_loop
async def test_viewers_elsewhere_count_on_when_values_change() -> None:
    """They get nothing, but its number, or they would look for a lost patch."""
    session = await Worker(MemoryStore()).get()
    audience = Elsewhere()
    session.fanout.relay_to(audience)
    await keep(session, count=1)
    await do(session, lambda: setattr(named(session, "slider"), "value", 3))
    assert audience.published == [(1, False), (2, True)]


@in_loop
async def test_a_change_without_the_lock_is_refused() -> None:
    """And changes nothing. Before the session begins and after it has ended there is no lock to hold."""
    worker = Worker(MemoryStore())
    session = await worker.get()
    state = session_state(session.document)
    for change in (lambda: state.update(count=1), state.clear, lambda: state.pop("count")):
        with pytest.raises(NotLocked, match="add_next_tick_callback"):
            change()
    assert dict(state) == {"count": 0}
    session.destroy()
    state["count"] = 1


@in_loop
async def test_an_app_that_builds_from_its_values_has_its_callbacks_again() -> None:
    """Each button of the notes' example deletes its own note, in whichever worker."""
    kept = MemoryStore()
    first = await Worker(kept, NOTES).get()
    for words in ("one", "two", "three"):
        await write(first, words)
    second = Worker(kept, NOTES)
    session = await second.get()
    assert second.outcome == "remade"
    assert listed(session) == ["one", "two", "three"]
    await click(session, "delete-2")
    assert listed(session) == ["one", "three"]
    session = await Worker(kept, NOTES).get()
    assert listed(session) == ["one", "three"]
    await click(session, "delete-1")
    assert listed(session) == ["three"]
    assert named(session, "summary").text == "1 of 3 notes are left"


@in_loop
async def test_other_models_by_the_same_ids_are_told_by_their_names() -> None:
    """As many notes as before, but not the same: a button deletes the note that it stands beside, and no other."""
    kept = MemoryStore()
    await write(await Worker(kept, NOTES).get(), "one")
    session = await Worker(kept, NOTES).get()
    await click(session, "delete-1")
    await write(session, "two")
    third = Worker(kept, NOTES)
    session = await third.get()
    assert third.outcome == "remade"
    await click(session, "delete-2")
    assert listed(session) == []
    assert state_of(session) == {"notes": {}, "written": 2}


@in_loop
async def test_the_same_document_whatever_the_values_is_kept() -> None:
    """An app may read its values while it builds; if that changes no model's id, type or name, nothing is lost."""

    def reading(document: Document) -> None:
        count = session_state(document).setdefault("count", 0)
        document.add_root(column(TextInput(name="draft"), Div(name="text", text=f"count {count}")))

    kept = MemoryStore()
    first = await Worker(kept, reading).get()
    await keep(first, count=3)
    await do(first, lambda: setattr(named(first, "draft"), "value", "half a sen"))
    second = Worker(kept, reading)
    session = await second.get()
    assert second.outcome == "restored"
    assert named(session, "draft").value == "half a sen"
    assert named(session, "text").text == "count 0", "what it was on the page"


@in_loop
async def test_a_changed_app_finds_its_values() -> None:
    """After a deploy its document is new."""

    def newer(document: Document) -> None:
        app_count = session_state(document).get("count")
        document.add_root(Div(name="newer", text=str(app_count)))

    kept = MemoryStore()
    await keep(await Worker(kept).get(), count=4)
    second = Worker(kept, newer)
    assert named(await second.get(), "newer").text == "4"
    assert second.outcome == "remade"


def failing(document: Document) -> None:
    """Cannot deal with a count."""
    if session_state(document).get("count"):
        raise ZeroDivisionError
    document.add_root(Div(name="text", text="fresh"))


@pytest.mark.parametrize("kind", ["function", "script"])
@in_loop
async def test_code_that_fails_with_its_values_starts_afresh_without_them(kind: str, tmp_path: Any) -> None:
    """Or the page would never load again: no loop of failures."""
    script = tmp_path / "failing.py"
    script.write_text(
        "from bokeh.io import curdoc\nfrom bokeh.models import Div\nfrom aperture import session_state\n"
        "1 / (not session_state().get('count'))\ncurdoc().add_root(Div(name='text', text='fresh'))\n"
    )
    kept = MemoryStore()
    await keep(await Worker(kept).get(), count=4)
    second = Worker(kept, failing if kind == "function" else ScriptHandler(filename=str(script)))
    session = await second.get()
    assert second.outcome == "fresh"
    assert named(session, "text").text == "fresh"
    assert state_of(session) == {}


@pytest.mark.parametrize(
    "values", [{"count": b"\xc1"}, {"count": "text"}, [1], {"count": msgpack.packb(msgpack.ExtType(9, b""))}]
)
@in_loop
async def test_damaged_values_start_the_session_afresh(values: Any, caplog: pytest.LogCaptureFixture) -> None:
    """With one line, before any of the app's code has seen them."""
    kept = MemoryStore()
    await keep(await Worker(kept).get(), count=4)
    stored = kept.stored[SESSION_KEY]
    stored.entries[-1] = msgpack.packb([2, b"", [], values])
    with pytest.raises(StateMismatch):
        stored_values(stored.snapshot, stored.entries)
    second = Worker(kept)
    with caplog.at_level(logging.INFO, logger="aperture.worker.recovery"):
        assert state_of(await second.get()) == {"count": 0}
    assert second.outcome == "fresh"
    assert len(caplog.records) == 1


def test_a_patch_without_values_changes_none() -> None:
    """And the last of several changes holds."""
    state = pack_patch(Patch([], {"a": pack_value(1), "b": pack_value(1)}))
    patches = [
        pack_patch(Patch([(b"{}", [])])),
        pack_patch(Patch([], {"a": pack_value(2), "b": None, "c": None})),
    ]
    assert stored_values(state, patches) == {"a": pack_value(2)}


def test_buttons_have_names_in_the_example() -> None:
    """Which is what tells its lists apart."""
    document = Document()
    session_state(document).update(notes={7: "seven"}, written=7)
    Application(NOTES).initialize_document(document)
    assert isinstance(document.get_model_by_name("delete-7"), Button)
