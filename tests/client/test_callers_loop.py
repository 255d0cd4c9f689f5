"""The loop that a program gives to a blocking session: when it is run, and what ends that."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future

import pytest
from support.patience import seconds
from tornado.ioloop import IOLoop

from aperture.client.callers_loop import CallersLoop


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """One that rests."""
    made = asyncio.new_event_loop()
    yield made
    made.close()


def soon() -> float:
    """Later than any test takes."""
    return time.monotonic() + seconds(30)


def test_a_loop_rests_until_it_runs_or_another_does(loop: asyncio.AbstractEventLoop) -> None:
    """Python runs one loop in a thread at a time."""
    given, none = CallersLoop(loop), CallersLoop(None)

    async def seen() -> tuple[bool, bool]:
        return given.rests, given.runs_here

    assert (given.rests, given.runs_here) == (True, False)
    assert (none.rests, none.runs_here) == (False, False)
    assert loop.run_until_complete(seen()) == (False, True)
    assert asyncio.run(seen()) == (False, False)
    loop.close()
    assert not given.rests


def test_tornados_loop_is_the_one_below_it() -> None:
    """Both names of one loop will do."""
    tornado = IOLoop(make_current=False)
    try:
        assert CallersLoop(tornado).rests
        ran: list[int] = []
        tornado.add_callback(ran.append, 1)
        CallersLoop(tornado).run_until_rung(0)
        assert ran == [1]
    finally:
        tornado.close()


def test_what_is_no_loop_is_refused() -> None:
    """And not found out about in a later call."""
    with pytest.raises(TypeError, match="neither a Tornado IOLoop nor an asyncio event loop"):
        CallersLoop("loop")  # type: ignore[arg-type]


def test_it_runs_until_it_is_rung(loop: asyncio.AbstractEventLoop) -> None:
    """By the thread that runs it before, by one of its own callbacks, and by another thread."""
    given = CallersLoop(loop)
    given.ring()
    given.run_until_rung(soon())
    loop.call_soon(given.ring)
    given.run_until_rung(soon())
    ringing = threading.Thread(target=given.ring)
    loop.call_soon(ringing.start)
    given.run_until_rung(None)
    ringing.join()


def test_each_ring_ends_one_run(loop: asyncio.AbstractEventLoop) -> None:
    """A loop that rests for long gets one callback for all that came meanwhile."""
    given = CallersLoop(loop)
    calls: list[object] = []
    loop.call_soon_threadsafe, real = lambda *args, **_: calls.append(args), loop.call_soon_threadsafe  # type: ignore[method-assign,assignment]
    for _ in range(1000):
        given.ring()
    assert len(calls) == 1
    loop.call_soon_threadsafe = real  # type: ignore[method-assign]
    given._set_bell()
    given.run_until_rung(soon())
    turns: list[int] = []
    loop.call_soon(turns.append, 1)
    given.run_until_rung(time.monotonic())
    assert turns == [1], "one turn of the loop at least"


def test_what_another_thread_brings_forth_is_awaited_on_it(loop: asyncio.AbstractEventLoop) -> None:
    """So the other thread may need what happens on the loop."""
    given = CallersLoop(loop)
    future: Future[str] = Future()
    loop.call_soon(lambda: threading.Thread(target=future.set_result, args=("done",)).start())
    assert given.result(future, seconds(30)) == "done"
    with pytest.raises(TimeoutError):
        given.result(Future(), 0)
    assert CallersLoop(None).result(future, 0) == "done"


def test_a_coroutine_of_a_callback_runs_on_it(loop: asyncio.AbstractEventLoop) -> None:
    """Or on one made for it, where there is none to run."""
    ran_on: list[asyncio.AbstractEventLoop] = []

    async def callback() -> None:
        ran_on.append(asyncio.get_running_loop())

    CallersLoop(loop).run(callback())
    CallersLoop(None).run(callback())
    assert ran_on[0] is loop
    assert ran_on[1] is not loop


def test_a_closed_loop_is_rung_in_vain(loop: asyncio.AbstractEventLoop) -> None:
    """The connection outlives it."""
    given = CallersLoop(loop)
    loop.close()
    given.ring()
    assert not given.rests
