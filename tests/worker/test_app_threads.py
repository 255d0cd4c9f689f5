"""`aperture.worker.app_threads`: app code in threads, and how its session and its viewers fare with it."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import threading
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, nullcontext
from functools import partial, wraps
from typing import Any

import pytest
from bokeh.document import without_document_lock
from bokeh.events import ButtonClick
from bokeh.io import curdoc
from bokeh.models.widgets import Button, Div, Slider
from support.patience import run, seconds
from support.peers import Peer, in_loop, make_session
from tornado import gen
from tornado.ioloop import IOLoop

from aperture.app_state import session_state
from aperture.document import current, ids
from aperture.errors import AppQuit, SessionGone, WouldDeadlock
from aperture.log_scope import SESSION
from aperture.metrics import ThreadTally
from aperture.worker.app_threads import AppThreads, stays_on_loop


@pytest.fixture(autouse=True)
def installed() -> None:
    current.install()
    ids.install()


@asynccontextmanager
async def app_threads(count: int = 2) -> AsyncIterator[AppThreads]:
    threads = AppThreads(count, ThreadTally())
    try:
        yield threads
    finally:
        threads.close()


class Gate:
    """Where app code waits in its thread until the test lets it go on."""

    def __init__(self) -> None:
        self._arrived = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._open = threading.Event()

    def wait(self) -> None:
        """In the app's code."""
        self._loop.call_soon_threadsafe(self._arrived.set)
        assert self._open.wait(seconds(20))

    async def reached(self) -> None:
        async with asyncio.timeout(seconds(20)):
            await self._arrived.wait()

    def open(self) -> None:
        self._open.set()


def begun(work: Awaitable[Any] | None) -> asyncio.Task[Any]:
    """The task of a message that a thread acts on."""
    assert work is not None
    return asyncio.ensure_future(work)


def changed(model: Slider, value: int) -> dict[str, Any]:
    return {"kind": "ModelChanged", "model": {"id": model.id}, "attr": "value", "new": value}


@in_loop
async def test_a_message_is_one_stay_in_one_thread() -> None:
    """Applied, called back and encoded there; what it sees there is what it sees on the loop."""
    async with app_threads() as threads:
        moved, said = Slider(start=0, end=9, value=1), Div()
        session = make_session(moved, said, code=threads)
        seen: list[Any] = []

        def note(attr: str, old: object, new: object) -> None:
            scope = SESSION.get()
            seen.append((threading.current_thread(), curdoc(), scope and scope.session_id))
            said.text = str(new)
            session_state()["last"] = new
            session.document.add_root(Div(text="more"))

        moved.on_change("value", note)
        moved.on_change("value", lambda attr, old, new: note(attr, old, new))
        peer, other = Peer.pulled(session), Peer.pulled(session)
        await begun(peer.send_events(changed(moved, 5)))
        (first, document, named), second = seen[0], seen[1]
        assert first is not threading.current_thread()
        assert (document, named) == (session.document, "session")
        assert second == (first, document, named)
        assert peer.read() == ["PATCH-DOC", "OK"]
        assert other.read() == ["PATCH-DOC"]
        assert other.is_equal()
        assert session.document.roots[-1].id.startswith(session.held.ids.next().partition("-")[0])
        assert session_state(session.document)["last"] == 5


@in_loop
async def test_others_are_served_while_one_waits() -> None:
    """Another session's message is acted on, and the first one's own next message waits for its turn."""
    async with app_threads() as threads:
        gate, slow, quick = Gate(), Slider(start=0, end=9, value=1), Slider(start=0, end=9, value=1)
        held = make_session(slow, session_id="held", code=threads)
        free = make_session(quick, session_id="free", code=threads)
        slow.on_change("value", lambda attr, old, new: gate.wait() if new == 2 else None)
        peer, mate, other = Peer.pulled(held), Peer.pulled(held), Peer.pulled(free)
        first = begun(peer.send_events(changed(slow, 2)))
        await gate.reached()
        second = begun(mate.send_events(changed(slow, 3)))
        await begun(other.send_events(changed(quick, 7)))
        assert other.read() == ["OK"]
        assert held.stays.busy
        assert not free.stays.busy
        assert peer.read() == mate.read() == []
        gate.open()
        await first
        await second
        assert slow.value == 3
        assert peer.read() == ["OK", "PATCH-DOC"]
        assert mate.read() == ["PATCH-DOC", "OK"]


@in_loop
async def test_a_pull_is_answered_between_two_stays() -> None:
    """It waits for its own session's callback, as it does on the loop."""
    async with app_threads() as threads:
        gate, slow = Gate(), Slider(start=0, end=9, value=1)
        session = make_session(slow, code=threads)
        slow.on_change("value", lambda attr, old, new: gate.wait())
        peer, late = Peer.pulled(session), Peer(session)
        change = begun(peer.send_events(changed(slow, 2)))
        await gate.reached()
        pull = begun(late.pull())
        gate.open()
        await change
        await pull
        late.read()
        assert late.find(slow).value == 2


@in_loop
async def test_all_threads_may_be_taken() -> None:
    """Who comes then waits for one, in the order of coming, and the time is counted."""
    async with app_threads(1) as threads:
        gate, order = Gate(), list[int]()
        sessions = [make_session(session_id=f"s{number}", code=threads) for number in range(3)]

        def note(number: int) -> None:
            if number == 0:
                gate.wait()
            order.append(number)

        calls = [
            asyncio.ensure_future(session.with_document_locked(note, number)) for number, session in enumerate(sessions)
        ]
        await gate.reached()
        assert len(threads.stays) == 1
        gate.open()
        await asyncio.gather(*calls)
        assert order == [0, 1, 2]


@in_loop
async def test_sessions_are_made_one_at_a_time_and_beside_callbacks() -> None:
    """Bokeh's code runner changes the whole process; threads that wait keep no visitor out."""
    async with app_threads(1) as threads:
        gate = Gate()
        callback = threads.start(gate.wait)
        await gate.reached()
        names: list[tuple[str, int]] = []
        inside = 0

        def make() -> None:
            nonlocal inside
            inside += 1
            names.append((threading.current_thread().name, inside))
            inside -= 1

        await asyncio.gather(*(threads.make(make) for _ in range(5)))
        assert names == [("session making 0", 1)] * 5
        gate.open()
        await callback


@in_loop
async def test_async_functions_stay_on_the_loop() -> None:
    """With what wraps them: partials, Bokeh's wrappers, objects that are called, and Tornado's coroutines."""
    main = threading.current_thread()
    async with app_threads() as threads:
        session = make_session(code=threads)
        seen: list[threading.Thread] = []

        async def note() -> None:
            await asyncio.sleep(0)
            seen.append(threading.current_thread())

        await session.with_document_locked(note)
        done = asyncio.Event()

        async def note_and_end() -> None:
            await note()
            done.set()

        document: Any = session.document  # Bokeh takes coroutine functions, its types do not
        document.add_next_tick_callback(note_and_end)
        async with asyncio.timeout(seconds(10)):
            await done.wait()
        # What is not known beforehand begins in a thread, and is awaited here.
        await session.with_document_locked(lambda: note())
        assert seen == [main] * 3


def test_what_stays_on_the_loop() -> None:
    """Known from the function, without calling it."""

    async def coroutine() -> None: ...

    @gen.coroutine
    def generator() -> Any:
        yield

    @wraps(coroutine)
    def wrapped() -> Any:
        return coroutine()

    class Called:
        async def __call__(self) -> None: ...

        async def method(self) -> None: ...

    for func in (coroutine, generator, wrapped, partial(coroutine), partial(wrapped), Called(), Called().method):
        assert stays_on_loop(func), func
    for plain in (lambda: coroutine(), print, partial(print, 1), Gate.open, Called):
        assert not stays_on_loop(plain), plain


@in_loop
async def test_a_failing_callback_is_the_senders_error() -> None:
    """What it had changed before goes out; the session goes on."""
    async with app_threads() as threads:
        button, said = Button(), Div()

        def fail(event: object) -> None:
            said.text = "so far"
            raise ZeroDivisionError("no good")

        button.on_event(ButtonClick, fail)
        session = make_session(button, said, code=threads)
        peer = Peer.pulled(session)
        await begun(peer.send_event(ButtonClick(model=button)))
        assert peer.read() == ["PATCH-DOC", "ERROR"]
        assert peer.is_equal()
        await session.with_document_locked(lambda: setattr(said, "text", "on"))
        assert peer.read() == ["PATCH-DOC"]


@pytest.mark.parametrize(
    "quitting", [SystemExit, KeyboardInterrupt, GeneratorExit, asyncio.CancelledError, StopIteration]
)
@in_loop
async def test_code_that_ends_everything_ends_itself(quitting: type[BaseException]) -> None:
    """What it raises would end the event loop, or the task that waits for the thread: it is an error like others."""
    async with app_threads() as threads:
        moved = Slider(start=0, end=9, value=1)
        session = make_session(moved, code=threads)

        def leave() -> None:
            raise quitting

        moved.on_change("value", lambda attr, old, new: leave() if new == 5 else None)
        peer = Peer.pulled(session)
        # One that is raised past the handling of messages closes the connection; any other is answered.
        with pytest.raises(AppQuit) if quitting is KeyboardInterrupt else nullcontext():
            await begun(peer.send_events(changed(moved, 5)))
            assert peer.read() == ["ERROR"]
        with pytest.raises(AppQuit, match=quitting.__name__):
            await session.with_document_locked(leave)
        await begun(peer.send_events(changed(moved, 6)))
        assert peer.read()[-1] == "OK"


@in_loop
async def test_a_thread_has_the_loop_whatever_was_done_to_it_before() -> None:
    """`asyncio.run` in a callback leaves its thread without one: the next callback would get a loop that never runs."""
    async with app_threads(1) as threads:
        loop, done = IOLoop.current(), asyncio.Event()

        async def nothing() -> None: ...

        await threads.start(lambda: asyncio.run(nothing()))
        await threads.start(lambda: asyncio.set_event_loop(None))
        assert await threads.start(IOLoop.current) is loop
        await threads.start(lambda: IOLoop.current().add_callback(done.set))
        async with asyncio.timeout(seconds(10)):
            await done.wait()


@in_loop
async def test_timers_from_threads() -> None:
    """A callback may add and remove callbacks, and reach the worker's loop as Tornado's current one."""
    async with app_threads() as threads:
        session = make_session(code=threads)
        ran: list[str] = []
        done = asyncio.Event()
        loop = IOLoop.current()

        def last() -> None:
            ran.append("next tick")
            assert IOLoop.current() is loop
            IOLoop.current().add_callback(done.set)

        def first() -> None:
            never = session.document.add_periodic_callback(lambda: ran.append("never"), 100_000)
            session.document.remove_periodic_callback(never)
            session.document.add_next_tick_callback(last)
            ran.append("first")

        session.document.add_timeout_callback(first, 1)
        async with asyncio.timeout(seconds(10)):
            await done.wait()
        assert ran == ["first", "next tick"]


@in_loop
async def test_callbacks_without_the_lock_run_beside_a_hold() -> None:
    """Two of one session at a time: one that has asked not to have the lock waits for none."""
    async with app_threads() as threads:
        gate, session = Gate(), make_session(code=threads)
        ran = asyncio.Event()
        loop = asyncio.get_running_loop()

        @without_document_lock
        def unlocked() -> None:
            loop.call_soon_threadsafe(ran.set)

        held = asyncio.ensure_future(session.with_document_locked(gate.wait))
        await gate.reached()
        session.document.add_next_tick_callback(unlocked)
        async with asyncio.timeout(seconds(10)):
            await ran.wait()
        gate.open()
        await held


@in_loop
async def test_who_is_cancelled_does_not_end_the_hold() -> None:
    """The thread still changes the document: the lock is passed on, and its changes go out, when it is done."""
    async with app_threads() as threads:
        gate, moved = Gate(), Slider(start=0, end=9, value=1)
        session = make_session(moved, code=threads)
        peer = Peer.pulled(session)

        def change() -> None:
            gate.wait()
            moved.value = 5

        call = asyncio.ensure_future(session.with_document_locked(change))
        await gate.reached()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        after = asyncio.ensure_future(session.with_document_locked(lambda: moved.value))
        assert session.held.lock.held
        assert session.stays.busy
        gate.open()
        assert await after == 5
        assert peer.read() == ["PATCH-DOC"]


@in_loop
async def test_a_session_that_is_discarded_meanwhile() -> None:
    """Its thread ends in peace, sends nothing, and those that wait for the document get the error."""
    async with app_threads() as threads:
        gate, moved = Gate(), Slider(start=0, end=9, value=1)
        session = make_session(moved, code=threads)
        peer = Peer.pulled(session)

        def change() -> None:
            gate.wait()
            moved.value = 5

        first = asyncio.ensure_future(session.locked(change, app_code=True))
        await gate.reached()
        second = asyncio.ensure_future(session.locked(lambda: None, app_code=True))
        session.destroy()
        gate.open()
        await first
        with pytest.raises(SessionGone):
            await second
        await session.stays.ended()
        assert not session.stays.busy
        assert peer.read() == []


@in_loop
async def test_who_waits_for_itself_is_refused() -> None:
    """On the loop and in a thread that blocks; the hold goes on and ends."""
    async with app_threads() as threads:
        session = make_session(code=threads)

        async def again() -> None:
            await session.with_document_locked(lambda: None)

        with pytest.raises(WouldDeadlock, match="add_next_tick_callback"):
            await session.with_document_locked(again)
        loop = asyncio.get_running_loop()

        def result(work: concurrent.futures.Future[None]) -> None:
            work.result(seconds(20))

        def wait(work: concurrent.futures.Future[None]) -> None:
            done, _ = concurrent.futures.wait([work], seconds(20))
            done.pop().result()

        def complete(work: concurrent.futures.Future[None]) -> None:
            next(concurrent.futures.as_completed([work], seconds(20))).result()

        def block(until: Callable[[concurrent.futures.Future[None]], None]) -> None:
            until(asyncio.run_coroutine_threadsafe(again(), loop))

        for until in (result, wait, complete):
            with pytest.raises(WouldDeadlock):
                await session.with_document_locked(block, until)
        assert not session.held.lock.held


@pytest.mark.parametrize("blocking", [False, True])
def test_two_who_wait_for_each_other(blocking: bool) -> None:
    """One of them is refused, and the other one gets what it waits for."""

    async def scene() -> None:
        async with app_threads() as threads:
            one, other = (make_session(session_id=name, code=threads) for name in ("one", "other"))
            arrived = threading.Barrier(2)
            both = asyncio.Barrier(2)
            loop = asyncio.get_running_loop()

            def block(there: Any) -> None:
                arrived.wait(seconds(20))
                asyncio.run_coroutine_threadsafe(there.with_document_locked(lambda: None), loop).result(seconds(20))

            async def wait(there: Any) -> None:
                await both.wait()
                await there.with_document_locked(lambda: None)

            outcomes = await asyncio.gather(
                one.with_document_locked(block if blocking else wait, other),
                other.with_document_locked(block if blocking else wait, one),
                return_exceptions=True,
            )
            refused = [outcome for outcome in outcomes if isinstance(outcome, WouldDeadlock)]
            assert len(refused) == 1
            assert None in outcomes
            assert not one.held.lock.held
            assert not other.held.lock.held

    run(scene())


@in_loop
async def test_what_is_left_to_the_loop_may_wait_for_its_own_session() -> None:
    """No thread blocks for it: it has its turn when the callback that has left it there is done."""
    async with app_threads(1) as threads:
        session, other = make_session(code=threads), make_session(session_id="other", code=threads)
        gate, done, ran = Gate(), asyncio.Event(), list[str]()
        held = asyncio.ensure_future(other.with_document_locked(gate.wait))
        await gate.reached()

        def note(name: str) -> None:
            ran.append(name)
            if len(ran) == 2:
                IOLoop.current().add_callback(done.set)

        def leave() -> None:
            IOLoop.current().add_callback(session.with_document_locked, note, "own")
            IOLoop.current().add_callback(other.with_document_locked, note, "other")

        left = asyncio.ensure_future(session.with_document_locked(leave))
        gate.open()
        await asyncio.gather(held, left)
        async with asyncio.timeout(seconds(10)):
            await done.wait()
        assert sorted(ran) == ["other", "own"]


@in_loop
async def test_a_thread_may_wait_for_what_needs_a_thread() -> None:
    """Also where it has the last one: what it waits for gets one of its own."""
    async with app_threads(1) as threads:
        session, other = make_session(code=threads), make_session(session_id="other", code=threads)
        loop = asyncio.get_running_loop()

        def ask() -> str:
            wanted = other.with_document_locked(lambda: "answer")
            return asyncio.run_coroutine_threadsafe(wanted, loop).result(seconds(20)) or "none"

        assert await session.with_document_locked(ask) == "answer"


@in_loop
async def test_a_stay_that_is_over_keeps_nothing() -> None:
    """Neither the thread nor the context that it ran in: a session that ends is freed at once."""

    class Held:
        def act(self) -> None:
            """What a stay refers to."""

    async with app_threads(1) as threads:
        gc.disable()
        try:
            held = Held()
            gone = weakref.ref(held)
            work = threads.start(held.act)
            del held
            await work
            await threads.start(int)  # the thread lets go of a stay when it takes the next one
            assert gone() is None
        finally:
            gc.enable()
