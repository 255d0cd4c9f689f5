"""A session: its lock, its callbacks, its expiry, and its end."""

from __future__ import annotations

import asyncio
import logging
import threading
from functools import partial
from typing import Any

import pytest
from bokeh.document import without_document_lock
from bokeh.events import ConnectionLost, Event
from bokeh.io import curdoc
from bokeh.models.widgets import Div, Slider
from support.patience import seconds
from support.peers import Peer, holding, in_loop, make_session

from aperture.errors import AppQuit, NotLocked, SessionGone
from aperture.worker.document.loading import new_document


def slider(**fields: Any) -> Slider:
    return Slider(**{"start": 0, "end": 1000, "value": 1, "step": 1, **fields})


async def eventually(event: asyncio.Event) -> None:
    async with asyncio.timeout(seconds(10)):
        await event.wait()


@in_loop
async def test_a_change_without_the_lock_is_refused() -> None:
    """It would reach no viewer in any order; the error says what to use instead, and is a RuntimeError as in Bokeh."""
    moved = slider()
    make_session(moved)
    with pytest.raises(NotLocked, match="add_next_tick_callback"):
        moved.value = 5
    assert issubclass(NotLocked, RuntimeError)


@in_loop
async def test_functions_of_both_kinds_run_with_the_lock() -> None:
    """What they return comes back, and their changes go out when they are done."""
    moved = slider()
    session = make_session(moved)
    peer = Peer.pulled(session)

    def sync(value: int, *, more: int) -> int:
        moved.value = value + more
        return value

    async def slow(value: int) -> str:
        moved.value = value
        await asyncio.sleep(0)
        moved.title = "t"
        return "done"

    assert await session.with_document_locked(sync, 2, more=3) == 2
    assert peer.read() == ["PATCH-DOC"]
    assert peer.find(moved).value == 5
    assert await session.with_document_locked(slow, 6) == "done"
    assert peer.read() == ["PATCH-DOC"]
    assert peer.is_equal()


@in_loop
async def test_what_a_failing_function_changed_goes_out() -> None:
    """The caller gets the error, the viewers the document as it is, and the lock is free."""
    moved = slider()
    session = make_session(moved)
    peer = Peer.pulled(session)

    async def fail() -> None:
        moved.value = 2
        await asyncio.sleep(0)
        raise ValueError("no good")

    with pytest.raises(ValueError, match="no good"):
        await session.with_document_locked(fail)
    assert peer.read() == ["PATCH-DOC"]
    await session.with_document_locked(moved.update, value=3)
    peer.read()
    assert peer.is_equal()


@pytest.mark.parametrize("quitting", [SystemExit, GeneratorExit, asyncio.CancelledError])
@in_loop
async def test_code_that_ends_everything_ends_itself(quitting: type[BaseException]) -> None:
    """On the event loop, what it raises would end the worker, or the reading of a connection: it is an error."""
    moved = slider()
    session = make_session(moved)

    def leave() -> None:
        raise quitting

    async def leave_later() -> None:
        await asyncio.sleep(0)
        raise SystemExit

    moved.on_change("value", lambda attr, old, new: leave() if new == 5 else None)
    peer = Peer.pulled(session)
    peer.send_events({"kind": "ModelChanged", "model": {"id": moved.id}, "attr": "value", "new": 5})
    assert peer.read() == ["ERROR"]
    for func in (leave, leave_later):
        with pytest.raises(AppQuit):
            await session.with_document_locked(func)
    ran = asyncio.Event()

    def tick() -> None:
        times.append(1)
        if len(times) == 2:  # again, although it has quit before
            session.document.remove_periodic_callback(periodic)
            ran.set()
        raise quitting

    times: list[int] = []
    periodic: Any = session.document.add_periodic_callback(tick, 1)
    await eventually(ran)
    assert not session.held.lock.held


@in_loop
async def test_cancelling_a_holder_sends_what_it_changed_and_frees_the_lock() -> None:
    """A task that is cancelled half-way leaves no viewer behind."""
    moved = slider()
    session = make_session(moved)
    peer = Peer.pulled(session)

    async def stuck() -> None:
        moved.value = 2
        await asyncio.Event().wait()

    task = asyncio.create_task(session.with_document_locked(stuck))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    peer.read()
    assert peer.is_equal()
    await session.with_document_locked(moved.update, value=3)
    assert not session.expiration_blocked


@in_loop
async def test_messages_and_functions_take_turns() -> None:
    """Who asks first is served first, whether it is a viewer or a callback."""
    moved = slider()
    session = make_session(moved)
    order: list[str] = []
    moved.on_change("value", lambda attr, old, new: order.append(f"viewer {new}"))
    peer = Peer.pulled(session)
    released = asyncio.Event()
    tasks: list[asyncio.Future[None]] = [holding(session, released)]
    await asyncio.sleep(0)
    for number in (2, 3):
        work = peer.send_events({"kind": "ModelChanged", "model": {"id": moved.id}, "attr": "value", "new": number})
        assert work is not None
        tasks.append(asyncio.ensure_future(work))
        await asyncio.sleep(0)
        tasks.append(asyncio.create_task(session.with_document_locked(order.append, f"callback {number}")))
        await asyncio.sleep(0)
    released.set()
    await asyncio.gather(*tasks)
    assert order == ["viewer 2", "callback 2", "viewer 3", "callback 3"]


@in_loop
async def test_models_made_with_the_lock_have_the_sessions_ids() -> None:
    """In functions and in the callbacks of a viewer's patch alike."""
    made: list[str] = []
    document = new_document()
    moved = slider()
    document.add_root(moved)
    session = make_session(document=document)
    session.held.ids = _Watched(made)  # type: ignore[assignment]
    moved.on_change("value", lambda attr, old, new: made.append("callback"))
    peer = Peer.pulled(session)
    made.clear()
    await session.with_document_locked(lambda: made.append("function"))
    peer.change(lambda: peer.find(moved).update(value=5))
    assert made == ["enter", "function", "leave", "enter", "callback", "leave"]


class _Watched:
    def __init__(self, made: list[str]) -> None:
        self._made = made

    def enter(self) -> None:
        self._made.append("enter")

    def leave(self, token: None) -> None:
        self._made.append("leave")


# Callbacks of the document


@in_loop
async def test_next_tick_callbacks_run_with_the_lock_and_once() -> None:
    """Also those added before the session was there, and `curdoc` is the session's document."""
    document = new_document()
    moved = slider()
    document.add_root(moved)
    done = asyncio.Event()
    seen: list[object] = []
    document.add_next_tick_callback(lambda: moved.update(value=moved.value + 1))
    session = make_session(document=document)
    peer = Peer.pulled(session)

    def later() -> None:
        seen.append(curdoc())
        moved.value += 10
        done.set()

    await session.with_document_locked(lambda: document.add_next_tick_callback(later))
    await eventually(done)
    await session.with_document_locked(lambda: None)
    assert moved.value == 12
    assert seen == [document]
    peer.read()
    assert peer.is_equal()


@in_loop
async def test_timeout_and_periodic_callbacks_run_until_removed() -> None:
    """With Bokeh's own methods to add and remove them."""
    moved = slider(value=0)
    session = make_session(moved)
    document = session.document
    ticks: list[int] = []
    done = asyncio.Event()

    def tick() -> None:
        ticks.append(1)
        if len(ticks) == 3:
            document.remove_periodic_callback(periodic)
            document.add_timeout_callback(done.set, 1)

    def unwanted() -> None:
        raise AssertionError("it was removed")

    periodic: Any = document.add_periodic_callback(tick, 1)
    document.remove_timeout_callback(document.add_timeout_callback(unwanted, 1))
    document.remove_next_tick_callback(document.add_next_tick_callback(unwanted))
    await eventually(done)
    assert len(ticks) == 3


@in_loop
async def test_callbacks_run_in_the_order_of_adding() -> None:
    """Next ticks and timeouts, added before the session was there, while it begins and by a callback."""
    document = new_document()
    ran: list[str] = []
    done = asyncio.Event()

    def add(name: str) -> None:
        document.add_next_tick_callback(lambda: ran.append(f"tick {name}"))
        document.add_timeout_callback(lambda: ran.append(f"timeout {name}"), 5)

    names = [f"{number:03}" for number in range(90)]
    for name in names[:60]:
        add(name)
    session = make_session(document=document)
    for name in names[60:70]:
        add(name)
    await session.with_document_locked(lambda: list(map(add, names[70:])))
    document.add_timeout_callback(done.set, 30)
    await eventually(done)
    assert [step for step in ran if step.startswith("tick")] == [f"tick {name}" for name in names]
    assert [step for step in ran if step.startswith("timeout")] == [f"timeout {name}" for name in names]


@in_loop
async def test_callbacks_of_a_thread_run_in_the_order_of_adding() -> None:
    """One that the app's code has started goes on while the session begins; each is run, once."""
    document = new_document()
    ran: list[int] = []
    done = asyncio.Event()
    begun = threading.Event()

    def act() -> None:
        for number in range(2000):
            document.add_next_tick_callback(partial(ran.append, number))
            if number == 200:
                begun.set()
        document.add_next_tick_callback(done.set)

    thread = threading.Thread(target=act)
    thread.start()
    begun.wait()
    make_session(document=document)
    await eventually(done)
    thread.join()
    assert ran == list(range(2000))


@in_loop
async def test_a_callback_that_was_held_back_is_scheduled_once() -> None:
    """The app may hold its document while it adds callbacks, and let go when the session has them already."""
    document = new_document()
    document.hold("collect")
    ran: list[str] = []
    first, last = asyncio.Event(), asyncio.Event()

    def note(name: str, done: asyncio.Event) -> None:
        ran.append(name)
        done.set()

    document.add_next_tick_callback(partial(note, "first", first))
    document.add_periodic_callback(lambda: None, 60_000)
    session = make_session(document=document)
    await eventually(first)
    await session.with_document_locked(document.unhold)
    await session.with_document_locked(document.add_next_tick_callback, partial(note, "last", last))
    await eventually(last)
    assert ran == ["first", "last"]


@in_loop
async def test_a_callback_may_be_added_from_a_thread() -> None:
    """The one thing that other threads may do."""
    moved = slider()
    session = make_session(moved)
    done = asyncio.Event()

    def act() -> None:
        moved.value = 5
        done.set()

    thread = threading.Thread(target=session.document.add_next_tick_callback, args=(act,))
    thread.start()
    await eventually(done)
    thread.join()
    assert moved.value == 5


@in_loop
async def test_a_callback_without_the_lock_runs_beside_one_that_holds_it() -> None:
    """That is what `without_document_lock` is for; the document may not be changed there, other callbacks be added."""
    moved = slider()
    session = make_session(moved)
    released, ran = asyncio.Event(), asyncio.Event()
    problems: list[Exception] = []
    busy = holding(session, released)
    await asyncio.sleep(0)

    @without_document_lock
    def unlocked() -> None:
        try:
            curdoc().clear()
        except Exception as problem:
            problems.append(problem)
        curdoc().add_next_tick_callback(lambda: moved.update(value=5))
        ran.set()

    session.document.add_next_tick_callback(unlocked)
    await eventually(ran)
    assert session.held.lock.held
    assert len(problems) == 1
    released.set()
    await busy
    await asyncio.sleep(0)
    await session.with_document_locked(lambda: None)
    assert moved.value == 5


@in_loop
async def test_a_failing_callback_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """With the session's short id and the traceback, and the session goes on."""
    session = make_session(slider(), session_id="a-very-long-secret-session-id")
    done = asyncio.Event()

    def fail() -> None:
        done.set()
        raise ValueError("no good")

    session.document.add_next_tick_callback(fail)
    await eventually(done)
    await session.with_document_locked(lambda: None)
    assert "no good" in caplog.text
    assert "a-very-long-secret-session-id" not in caplog.text


# Viewers


@in_loop
async def test_connections_are_counted() -> None:
    """Each viewer once, whatever is done twice."""
    session = make_session(slider())
    peers = [Peer(session), Peer(session)]
    assert session.connection_count == 2
    for _ in range(2):
        session.detach(peers[0].viewer)
    assert session.connection_count == 1


@in_loop
async def test_an_app_hears_of_a_lost_connection() -> None:
    """Its `ConnectionLost` callbacks run with the lock, so they may change the document."""
    document = new_document()
    shown = Div(text="")
    document.add_root(shown)
    lost = asyncio.Event()

    def on_lost(event: Event) -> None:
        shown.text = "a viewer left"
        lost.set()

    document.on_event(ConnectionLost, on_lost)
    session = make_session(document=document)
    leaver, stayer = Peer.pulled(session), Peer.pulled(session)
    session.detach(leaver.viewer)
    await eventually(lost)
    stayer.read()
    assert stayer.find(shown).text == "a viewer left"


@in_loop
async def test_returning_pages_are_remembered_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest is forgotten first; tokens themselves are not kept."""
    monkeypatch.setattr("aperture.worker.session.known_pages._REMEMBERED", 3)
    session = make_session(slider())
    for number in range(5):
        session.pages.note_pulled(f"token {number}")
    assert [session.pages.is_return(f"token {number}") for number in range(5)] == [False, False, True, True, True]


# Expiry and end


@in_loop
async def test_expiration_is_blocked_by_whoever_holds_or_awaits_the_lock() -> None:
    """And by the app, which must unblock as often as it blocked."""
    session = make_session(slider())
    released = asyncio.Event()
    tasks = [holding(session, released) for _ in range(2)]
    await asyncio.sleep(0)
    assert session.expiration_blocked_count == 2
    released.set()
    await asyncio.gather(*tasks)
    assert not session.expiration_blocked
    session.block_expiration()
    assert session.expiration_blocked
    session.unblock_expiration()
    with pytest.raises(RuntimeError, match="mismatched"):
        session.unblock_expiration()
    assert not session.expiration_requested
    session.request_expiration()
    assert session.expiration_requested


@in_loop
async def test_unused_time_counts_from_the_last_page_or_connection() -> None:
    """Serving a page and losing a connection both start it anew."""
    session = make_session(slider())
    peer = Peer(session)
    session.expiry.last_used -= 100
    assert session.milliseconds_since_last_unsubscribe > 99_000
    session.expiry.touch()
    assert session.milliseconds_since_last_unsubscribe < 50_000
    session.expiry.last_used -= 100
    session.detach(peer.viewer)
    assert session.milliseconds_since_last_unsubscribe < 50_000


@in_loop
async def test_a_destroyed_session_refuses_its_document() -> None:
    """To those who come and those who waited; its callbacks have ended."""
    session = make_session(slider())
    document = session.document
    ran: list[int] = []
    document.add_next_tick_callback(lambda: ran.append(1))
    released = asyncio.Event()
    busy = holding(session, released)
    await asyncio.sleep(0)
    waiting = asyncio.create_task(session.locked(lambda: ran.append(2)))
    await asyncio.sleep(0)
    session.destroy()
    assert session.destroyed
    released.set()
    await busy
    with pytest.raises(SessionGone):
        await waiting
    with pytest.raises(SessionGone):
        await session.locked(lambda: ran.append(3))
    await asyncio.sleep(0)
    assert ran == []


@in_loop
async def test_what_an_app_still_wants_of_a_destroyed_session_is_not_done() -> None:
    """A background task that outlives its session gets None, as in Bokeh, and no error."""
    session = make_session(slider())
    ran: list[int] = []

    def run(number: int) -> int:
        ran.append(number)
        return number

    released = asyncio.Event()
    busy = holding(session, released)
    await asyncio.sleep(0)
    waiting = asyncio.create_task(session.with_document_locked(run, 1))
    await asyncio.sleep(0)
    session.destroy()
    released.set()
    await busy
    assert await waiting is None
    assert await session.with_document_locked(run, 2) is None
    assert ran == []


@in_loop
async def test_a_destroyed_session_hears_of_no_changes() -> None:
    """Its last hooks may change the document without its lock."""
    moved = slider()
    session = make_session(moved)
    session.destroy()
    moved.value = 5
    assert moved.value == 5


@in_loop
async def test_a_callback_under_way_at_the_end_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    """The session is gone when its turn comes, which is no fault."""
    session = make_session(slider())
    caplog.set_level(logging.INFO)
    released, started = asyncio.Event(), asyncio.Event()

    async def busy() -> None:
        started.set()
        await released.wait()

    task = asyncio.create_task(session.with_document_locked(busy))
    await eventually(started)
    session.document.add_next_tick_callback(lambda: None)
    for _ in range(3):
        await asyncio.sleep(0)
    session.destroy()
    released.set()
    await task
    for _ in range(3):
        await asyncio.sleep(0)
    assert caplog.records == []


@in_loop
async def test_a_session_makes_tokens_for_its_pages() -> None:
    """Each time a fresh one."""
    session = make_session(slider(), session_id="abc")
    assert session.id == "abc"
    assert session.token == "token of abc"
    assert session.expiry.age >= 0
