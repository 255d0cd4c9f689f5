"""Sessions of one worker that another worker goes on with, both of them in this process."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from bokeh.application import Application
from bokeh.application.handlers import FunctionHandler, ScriptHandler
from bokeh.document import Document
from bokeh.events import ButtonClick, DocumentReady
from bokeh.layouts import column
from bokeh.models import ColumnDataSource
from bokeh.models.widgets import Button, Div, Slider
from support.peers import Peer, in_loop, state_of
from support.stored_memory import MemoryStore, settled

from aperture.document import ids
from aperture.errors import BusDown, Fenced, SessionGone, StoredStateBroken
from aperture.worker.collector import GarbageCollector
from aperture.worker.recovery import journal as journal_module
from aperture.worker.recovery.rebuild import RedisRecovery
from aperture.worker.session.arrival import Arrival
from aperture.worker.session.context import AppSessionContext
from aperture.worker.session.host import AppHost, Origin
from aperture.worker.session.placement import LocalPlacement
from aperture.worker.session.session import Session
from aperture.worker.session.store import SessionStore

URL = "/app"
SESSION_KEY = "/app\ts"
Act = Callable[[Document], object]


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """What gathers or is tried again is so at the loop's next turn."""
    ids.install()
    monkeypatch.setattr(journal_module, "GATHER", 0)
    monkeypatch.setattr(journal_module, "RETRY", 0)


def app(document: Document) -> None:
    slider, text = Slider(name="slider", start=0, end=100, value=0), Div(name="text", text="")
    page = column(slider, text, name="page")

    def follow(attr: str, old: Any, new: Any) -> None:
        text.text = f"at {new}"

    slider.on_change("value", follow)
    document.add_root(page)


class Worker:
    """A worker's sessions.

    Args:
        kept: what all workers share.
        act: the app's code.
        application: the app, if it is no function.
    """

    epochs = 0

    def __init__(self, kept: MemoryStore, act: Act = app, application: Application | None = None) -> None:
        self.survival = RedisRecovery(kept, acknowledge=False)
        application = application or Application(FunctionHandler(cast("Any", act)))
        self.host = AppHost(URL, application, logout_url=None, issue_token=str)
        self.store = SessionStore(
            {URL: self.host}, LocalPlacement(), GarbageCollector(), unused_lifetime=15, recovery=self.survival
        )

    async def get(self, session_id: str = "s") -> Session:
        session = await self.store.get_or_create(Arrival(self.host, session_id, lambda: Origin(None, {"from": "page"})))
        await settled()
        return session


async def do(session: Session, name: str, attr: str, value: object) -> None:
    await session.with_document_locked(lambda: setattr(session.document.get_model_by_name(name), attr, value))
    await settled()


def value(session: Session, name: str, attr: str) -> Any:
    return getattr(session.document.get_model_by_name(name), attr)


@in_loop
async def test_another_worker_goes_on_with_the_document_and_its_callbacks() -> None:
    """And a third with what happened at the second."""
    kept = MemoryStore()
    for step in range(1, 4):
        session = await Worker(kept).get()
        assert value(session, "slider", "value") == step - 1
        await do(session, "slider", "value", step)
        assert value(session, "text", "text") == f"at {step}"
        assert isinstance(session.context, AppSessionContext)
        assert session.context.token_payload == {"from": "page"}


@in_loop
async def test_a_session_is_kept_anew_before_anybody_has_it_again() -> None:
    """Or what is changed until then would be lost with a second worker that dies soon after the first."""
    kept = MemoryStore()
    await do(await Worker(kept).get(), "slider", "value", 5)
    kept.calls.clear()
    second = Worker(kept)
    await second.store.get_or_create(Arrival(second.host, "s", lambda: Origin(None, {})))
    assert kept.calls == ["load", "begin"]
    assert kept.stored[SESSION_KEY].entries == []


@in_loop
async def test_a_session_is_built_again_though_it_cannot_be_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Redis that takes its time, or has gone since, does not delay the session; it is kept when it can be."""
    monkeypatch.setattr(journal_module, "SETTLE", 0)
    kept = MemoryStore()
    await do(await Worker(kept).get(), "slider", "value", 5)

    def closing(document: Document) -> None:
        kept.gate.clear()
        app(document)

    second = await Worker(kept, closing).get()
    await do(second, "slider", "value", 6)
    assert kept.stored[SESSION_KEY].entries != []
    kept.gate.set()
    await settled()
    assert kept.calls[-1] in {"begin", "add"}
    assert value(await Worker(kept).get(), "slider", "value") == 6


@in_loop
async def test_a_session_that_is_claimed_by_another_while_it_is_built_again_is_nobodys_here() -> None:
    """Its request looks for the session once more, and nothing of it stays."""
    kept = MemoryStore()
    await do(await Worker(kept).get(), "slider", "value", 5)

    def claimed(document: Document) -> None:
        app(document)
        kept.problem = Fenced("another's")

    second = Worker(kept, claimed)
    with pytest.raises(SessionGone):
        await second.get()
    kept.problem = None
    await settled()
    assert len(second.store) == 0
    assert kept.calls[-1] == "begin"
    assert value(await Worker(kept).get(), "slider", "value") == 5


@in_loop
async def test_what_is_restored_and_what_starts_afresh_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    """With one line for each."""
    kept = MemoryStore()
    await Worker(kept).get()
    second = Worker(kept)
    with caplog.at_level(logging.INFO, logger="aperture.worker.recovery"):
        await second.get()
        kept.stored[SESSION_KEY].snapshot = kept.stored[SESSION_KEY].snapshot[:50]
        third = Worker(kept)
        await third.get()
    assert second.survival.outcomes == {"restored": 1, "remade": 0, "fresh": 0}
    assert third.survival.outcomes == {"restored": 0, "remade": 0, "fresh": 1}
    assert len([record for record in caplog.records if record.name.startswith("aperture.worker.recovery")]) == 2


@pytest.mark.parametrize("part", ["origin", "snapshot", "entry"])
@in_loop
async def test_a_damaged_keeping_starts_the_session_afresh_and_is_replaced(part: str) -> None:
    """So that the next worker finds a good one: no loop of failures."""
    kept = MemoryStore()
    first = await Worker(kept).get()
    await do(first, "slider", "value", 5)
    stored = kept.stored[SESSION_KEY]
    if part == "entry":
        stored.entries[-1] = b"\x93\x01\xc4\x02{}\x90"
    else:
        setattr(stored, part, b"\xc1nothing")
    second = await Worker(kept).get()
    assert value(second, "slider", "value") == 0
    await do(second, "slider", "value", 6)
    third = await Worker(kept).get()
    assert value(third, "slider", "value") == 6


@in_loop
async def test_an_app_that_was_changed_starts_afresh() -> None:
    """What was kept does not fit what it makes now, and is replaced."""

    def changed(document: Document) -> None:
        document.add_root(Div(name="other", text="new"))

    kept = MemoryStore()
    await do(await Worker(kept).get(), "slider", "value", 5)
    workers = [Worker(kept, changed) for _ in range(2)]
    for worker in workers:
        assert value(await worker.get(), "other", "text") == "new"
    assert workers[-1].survival.outcomes == {"restored": 1, "remade": 0, "fresh": 0}


@in_loop
async def test_an_app_that_cannot_make_the_same_again_starts_afresh() -> None:
    """One that makes other models each time it runs."""
    runs: list[Document] = []

    def erratic(document: Document) -> None:
        runs.append(document)
        for _ in runs:
            document.add_root(Div())
        app(document)

    kept = MemoryStore()
    await do(await Worker(kept, erratic).get(), "slider", "value", 5)
    second = Worker(kept, erratic)
    assert value(await second.get(), "slider", "value") == 0
    assert second.survival.outcomes == {"restored": 0, "remade": 0, "fresh": 1}
    assert len(runs) == 3, "once here, once to try, once afresh"


@in_loop
async def test_a_session_does_not_start_afresh_while_what_was_kept_cannot_be_asked_for() -> None:
    """That would overwrite it: the request gets an error, Redis being down, and finds the session as it was later."""
    kept = MemoryStore()
    await do(await Worker(kept).get(), "slider", "value", 5)
    kept.problem = BusDown("away")
    worker = Worker(kept)
    with pytest.raises(BusDown):
        await worker.get()
    assert worker.survival.outcomes == {"restored": 0, "remade": 0, "fresh": 0}
    kept.problem = None
    assert value(await worker.get(), "slider", "value") == 5


@in_loop
async def test_a_redis_that_refuses_to_say_what_was_kept_starts_the_session_afresh() -> None:
    """Asking again would not help; the page is served."""
    kept = MemoryStore()
    await do(await Worker(kept).get(), "slider", "value", 5)

    def refusing(document: Document) -> None:
        kept.problem = None
        app(document)

    kept.problem = StoredStateBroken("refused")
    worker = Worker(kept, refusing)
    assert value(await worker.get(), "slider", "value") == 0
    assert worker.survival.outcomes == {"restored": 0, "remade": 0, "fresh": 1}


@in_loop
async def test_a_ready_callback_that_fails_keeps_no_session_from_being_built_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It is logged, as it was in the session's first life."""

    def failing(document: Document) -> None:
        app(document)

        def on_ready(event: object) -> None:
            raise RuntimeError("not ready at all")

        document.on_event(DocumentReady, on_ready)

    kept = MemoryStore()
    await do(await Worker(kept, failing).get(), "slider", "value", 5)
    worker = Worker(kept, failing)
    session = await worker.get()
    assert value(session, "slider", "value") == 5
    assert worker.survival.outcomes == {"restored": 1, "remade": 0, "fresh": 0}
    assert "not ready at all" in caplog.text
    await do(session, "slider", "value", 6)
    assert value(session, "text", "text") == "at 6"


@in_loop
async def test_new_models_of_a_rebuilt_session_have_ids_of_their_own() -> None:
    """An id that was given before the rebuild is not given again."""

    def growing(document: Document) -> None:
        button, page = Button(name="more"), column(name="page")
        button.on_event(ButtonClick, lambda: page.children.append(Div(text=f"number {len(page.children)}")))
        document.add_root(column(button, page))

    async def press(session: Session) -> None:
        button: Any = session.document.get_model_by_name("more")
        await session.with_document_locked(lambda: button._trigger_event(ButtonClick(button)))
        await settled()

    kept = MemoryStore()
    pressed = 0
    for _ in range(3):
        session = await Worker(kept, growing).get()
        peer = Peer.pulled(session)
        for _ in range(3):
            await press(session)
            pressed += 1
        children = value(session, "page", "children")
        assert [child.text for child in children] == [f"number {number}" for number in range(pressed)]
        assert len({child.id for child in children}) == pressed
        peer.read()
        assert peer.is_equal()


@in_loop
async def test_what_the_ready_page_started_goes_on_and_is_not_done_twice() -> None:
    """BokehJS does not say again that the page is ready, so its callbacks run with the rebuild, and change nothing."""
    ready: list[Document] = []

    def with_ready(document: Document) -> None:
        app(document)

        def on_ready(event: object) -> None:
            ready.append(document)
            document.add_root(Div(name=f"made{len(document.roots)}"))
            document.add_periodic_callback(lambda: None, 10_000)

        document.on_event(DocumentReady, on_ready)

    kept = MemoryStore()
    first = await Worker(kept, with_ready).get()
    await first.with_document_locked(lambda: first.document.callbacks.trigger_event(DocumentReady()))
    await do(first, "slider", "value", 3)
    before = state_of(first.document)
    assert len(before["roots"]) == 2
    second = await Worker(kept, with_ready).get()
    assert state_of(second.document) == before
    assert len(ready) == 2
    assert len(second.document.session_callbacks) == 1
    first.destroy()
    second.destroy()


@in_loop
async def test_a_model_that_the_app_shows_only_now_and_then_keeps_its_callbacks() -> None:
    """Its code made it, the page showed it later; after a rebuild it is still the one that the code knows."""

    def hiding(document: Document) -> None:
        hidden, text = Slider(name="hidden", start=0, end=9, value=0), Div(name="text", text="")
        page, button = column(name="page"), Button(name="show")

        def follow(attr: str, old: Any, new: Any) -> None:
            text.text = f"at {new}"

        def show() -> None:
            page.children = [] if page.children else [hidden]

        hidden.on_change("value", follow)
        button.on_event(ButtonClick, show)
        document.add_root(column(button, page, text))

    async def press(session: Session) -> None:
        button: Any = session.document.get_model_by_name("show")
        await session.with_document_locked(lambda: button._trigger_event(ButtonClick(button)))
        await settled()

    kept = MemoryStore()
    first = await Worker(kept, hiding).get()
    await press(first)
    await do(first, "hidden", "value", 4)
    second = await Worker(kept, hiding).get()
    assert value(second, "hidden", "value") == 4
    await do(second, "hidden", "value", 5)
    assert value(second, "text", "text") == "at 5"
    await press(second)
    await press(second)
    assert value(second, "hidden", "value") == 5


@in_loop
async def test_a_session_that_ends_in_good_order_is_not_kept() -> None:
    """Nor is one written down that is discarded before anything could be."""
    kept = MemoryStore()
    worker = Worker(kept)
    session = await worker.get()
    assert kept.stored
    session.request_expiration()
    await worker.store.discard_unused()
    await settled()
    assert kept.stored == {}
    quick = await worker.store.get_or_create(Arrival(worker.host, "s", lambda: Origin(None, {})))
    quick.request_expiration()
    await worker.store.discard_unused()
    await settled()
    assert kept.stored == {}


@in_loop
async def test_whether_a_session_could_be_built_again_is_known_without_its_snapshot() -> None:
    """A Redis that refuses keeps nothing of use; one that is down leaves it open."""
    kept = MemoryStore()
    worker = Worker(kept)
    assert not await worker.survival.exists(URL, "s")
    await worker.get()
    kept.calls.clear()
    assert await worker.survival.exists(URL, "s")
    assert kept.calls == ["exists"]
    kept.problem = StoredStateBroken("refused")
    assert not await worker.survival.exists(URL, "s")
    kept.problem = BusDown("away")
    with pytest.raises(BusDown):
        await worker.survival.exists(URL, "s")


@in_loop
async def test_what_redis_has_lost_is_kept_anew_without_a_change() -> None:
    """The regular look finds it; and so does the end of the worker."""
    kept = MemoryStore()
    worker = Worker(kept)
    session = await worker.get()
    await do(session, "slider", "value", 7)
    kept.stored.clear()
    await worker.survival.touch()
    await settled()
    assert value(await Worker(kept).get(), "slider", "value") == 7
    kept.stored.clear()
    await session.held.freeze()
    await worker.survival.flush(10)
    assert value(await Worker(kept).get(), "slider", "value") == 7


CLASSES = """
from bokeh.core.properties import Instance, Int, List
from bokeh.io import curdoc
from bokeh.model import DataModel
from bokeh.models import Button, Div


class Point(DataModel):
    x = Int(0)


class Loud(Div):
    volume = Int(1)


class Page(DataModel):
    points = List(Instance(Point))


points, loud, button = Page(name="page", points=[Point(x=1)]), Loud(name="loud", text="!"), Button(name="button")


def add():
    points.points = [*points.points, Point(x=len(points.points) + 1)]
    loud.volume += 1


button.on_click(add)
for root in (points, loud, button):
    curdoc().add_root(root)
"""


async def click(session: Session) -> None:
    button = session.document.get_model_by_name("button")
    assert isinstance(button, Button)
    await session.with_document_locked(lambda: button._trigger_event(ButtonClick(button)))
    await settled()


def scripted(file: Path, kept: MemoryStore) -> Worker:
    return Worker(kept, application=Application(ScriptHandler(filename=str(file))))


@in_loop
async def test_a_script_that_defines_its_own_model_classes_goes_on(tmp_path: Path) -> None:
    """Its module, and so its classes, have one name in all workers: in the snapshot, and in patches after it."""
    file = tmp_path / "app.py"
    file.write_text(CLASSES)
    kept = MemoryStore()
    for step in range(1, 4):
        worker = scripted(file, kept)
        session = await worker.get()
        assert worker.survival.outcomes["fresh"] == 0
        assert [point.x for point in value(session, "page", "points")] == list(range(1, step + 1))
        assert value(session, "loud", "volume") == step
        module = type(session.document.get_model_by_name("loud")).__module__
        assert {type(point).__module__ for point in value(session, "page", "points")} == {module}
        await click(session)
        await worker.store.hand_off(session, 1012, "moving")  # one process cannot have two modules of one name


@in_loop
async def test_a_session_is_only_written_down_where_redis_says_so() -> None:
    """Though nothing is pending: it may be down, or have been emptied."""
    kept = MemoryStore()
    worker = Worker(kept)
    session = await worker.get()
    assert await worker.survival.write_down(session)
    kept.stored.clear()
    assert not await worker.survival.write_down(session)
    kept.problem = BusDown("down")
    with pytest.raises(BusDown):
        await worker.survival.write_down(session)
    kept.problem = None


@in_loop
async def test_an_end_without_redis_is_logged_and_not_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    """The worker ends in its time, whatever is lost."""
    kept = MemoryStore()
    worker = Worker(kept)
    session = await worker.get()
    kept.problem = BusDown("away")
    await session.with_document_locked(lambda: setattr(session.document.get_model_by_name("slider"), "value", 1))
    await worker.survival.flush(10)
    assert "1 sessions were not written down in time" in caplog.text
    worker.survival.drop(session)


def holding(document: Document) -> None:
    """As `app`, but held back from the first line on."""
    document.hold("collect")
    app(document)


async def hold(session: Session, policy: Any = "combine") -> None:
    await session.with_document_locked(lambda: session.document.hold(policy))
    await settled()


async def unhold(session: Session) -> None:
    await session.with_document_locked(session.document.unhold)
    await settled()


@pytest.mark.parametrize("policy", ["combine", "collect"])
@in_loop
async def test_what_an_app_holds_back_is_kept_when_it_happens(policy: str) -> None:
    """The viewer that made the change has its answer, and viewers are not who is asked what has changed."""
    kept = MemoryStore()
    first = await Worker(kept).get()
    await hold(first, policy)
    for number in (5, 6):
        await do(first, "slider", "value", number)
        assert value(await Worker(kept).get(), "slider", "value") == number


@in_loop
async def test_what_is_let_go_is_not_kept_twice() -> None:
    """Rows that were kept when they were streamed do not come again when viewers get them."""
    kept = MemoryStore()

    def streaming(document: Document) -> None:
        document.add_root(Div(name="holder", tags=[ColumnDataSource({"x": [0]}, name="rows")]))

    def rows(session: Session) -> list[int]:
        return list(value(session, "rows", "data")["x"])

    first = await Worker(kept, streaming).get()
    peer = Peer.pulled(first)
    source: Any = first.document.get_model_by_name("rows")
    await hold(first, "collect")
    for number in (1, 2):
        await first.with_document_locked(lambda: source.stream({"x": [number]}))  # noqa: B023
    assert peer.read() == []
    await unhold(first)
    peer.read()
    assert peer.is_equal()
    assert rows(await Worker(kept, streaming).get()) == rows(first) == [0, 1, 2]


@in_loop
async def test_a_hold_that_was_ended_is_not_begun_again() -> None:
    """The app's code begins it whenever it runs; what a callback has ended since must not keep viewers from changes."""
    kept = MemoryStore()
    first = await Worker(kept, holding).get()
    await do(first, "slider", "value", 5)
    session = await Worker(kept, holding).get()
    assert session.document.callbacks.hold_value == "collect"
    await unhold(session)
    session = await Worker(kept, holding).get()
    assert session.document.callbacks.hold_value is None
    peer = Peer.pulled(session)
    await do(session, "slider", "value", 6)
    assert peer.read() == ["PATCH-DOC"]
    assert peer.is_equal()


@in_loop
async def test_a_hold_of_a_callback_ends_with_its_worker() -> None:
    """What would have ended it, such as a timeout, may be gone; nothing that was held back is."""
    kept = MemoryStore()
    first = await Worker(kept).get()
    await hold(first)
    await do(first, "slider", "value", 5)
    session = await Worker(kept).get()
    assert value(session, "slider", "value") == 5
    peer = Peer.pulled(session)
    await do(session, "slider", "value", 6)
    assert peer.read() == ["PATCH-DOC"]
    assert peer.is_equal()
