"""Requests to other workers: one answer, several, none, and too many."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

import pytest
from support.clock import in_fake_time, now
from support.relay_bus import FakeBus, FakeRedis

from aperture.bus.calls import BackgroundTasks, Calls, listen
from aperture.errors import BusDown, CallFailed


def sends(calls: Calls[str], *answers: str, listeners: int = 1) -> Callable[[int], Awaitable[int]]:
    """Sends to a worker that answers at once, each answer in a turn of the loop."""

    async def send(number: int) -> int:
        for answer in answers:
            asyncio.get_running_loop().call_soon(calls.answer, number, answer)
        return listeners

    return send


@in_fake_time
async def test_a_call_has_the_answer_to_its_own_number() -> None:
    """Whatever the order in which answers come; a second one, and one without a call, is dropped."""
    calls = Calls[str]()
    numbers: list[int] = []

    async def send(number: int) -> int:
        numbers.append(number)
        if len(numbers) == 2:
            for asked in reversed(numbers):
                calls.answer(asked, f"to {asked}")
                calls.answer(asked, "again")
            calls.answer(99, "to no call")
        return 1

    answers = await asyncio.gather(calls.call(send, 1), calls.call(send, 1))
    assert list(answers) == [f"to {number}" for number in numbers]
    assert not calls.in_flight


@in_fake_time
async def test_a_call_without_an_answer_fails_after_its_time() -> None:
    """Sending counts as well, and nothing of the call is left."""
    calls = Calls[str]()

    async def slow(number: int) -> int:
        await asyncio.sleep(3)
        return 1

    started = now()
    with pytest.raises(CallFailed, match="answer") as failed:
        await calls.call(slow, 5)
    assert now() - started == 5
    assert failed.value.listens
    assert not calls.in_flight


@in_fake_time
async def test_a_worker_that_does_not_listen_is_not_waited_for() -> None:
    """It is dead, though its lease may run."""
    calls = Calls[str]()
    started = now()
    with pytest.raises(CallFailed) as failed:
        await calls.call(sends(calls, listeners=0), 5)
    assert now() == started
    assert not failed.value.listens


@in_fake_time
async def test_a_bus_that_is_down_fails_a_call_at_once() -> None:
    """The worker that was to be asked may live."""
    calls = Calls[str]()

    async def down(number: int) -> int:
        raise BusDown("down")

    with pytest.raises(CallFailed) as failed:
        await calls.call(down, 5)
    assert failed.value.listens


@in_fake_time
async def test_calls_in_flight_are_bounded() -> None:
    """The one too many fails at once; there is room again when one has ended."""
    calls = Calls[str](most=2)
    waiting = [asyncio.ensure_future(calls.call(sends(calls), 5)) for _ in range(2)]
    await asyncio.sleep(0)
    started = now()
    with pytest.raises(CallFailed, match="in flight"):
        await calls.call(sends(calls, "yes"), 5)
    assert now() == started
    waiting[0].cancel()
    await asyncio.wait(waiting[:1])
    assert await calls.call(sends(calls, "yes"), 5) == "yes"
    waiting[1].cancel()


@in_fake_time
async def test_a_worker_that_ends_fails_its_calls() -> None:
    """Those that wait and those that come; twice changes nothing."""
    calls = Calls[str]()
    waiting = asyncio.ensure_future(calls.call(sends(calls), 5))
    await asyncio.sleep(0)
    started = now()
    calls.close()
    calls.close()
    with pytest.raises(CallFailed, match="ends"):
        await waiting
    with pytest.raises(CallFailed, match="ends"):
        await calls.call(sends(calls, "yes"), 5)
    assert now() == started


@in_fake_time
async def test_one_request_may_have_several_answers() -> None:
    """Collected from before it is sent until the block ends."""
    calls = Calls[str]()
    with calls.open() as replies:
        await sends(calls, "one", "two")(replies.number)
        assert [await replies.next(), await replies.next()] == ["one", "two"]
        number = replies.number
    calls.answer(number, "late")
    assert not calls.in_flight


@in_fake_time
async def test_background_tasks_are_logged_when_they_fail(caplog: pytest.LogCaptureFixture) -> None:
    """But not for a bus that is down, nor when they are cancelled."""
    tasks = BackgroundTasks("something failed")

    async def fail(problem: Exception) -> None:
        raise problem

    async def wait() -> None:
        await asyncio.Event().wait()

    with caplog.at_level(logging.ERROR):
        tasks.start(fail(ValueError("a fault")))
        tasks.start(fail(BusDown("down")))
        tasks.start(wait())
        await asyncio.sleep(0.1)
        assert len(tasks) == 1
        tasks.cancel()
        await asyncio.sleep(0.1)
    assert len(tasks) == 0
    assert [record.message for record in caplog.records] == ["something failed"]


@in_fake_time
async def test_listening_begins_when_redis_is_there() -> None:
    """A worker may start before it."""
    bus = FakeBus(FakeRedis())
    listening = asyncio.ensure_future(listen(bus, "channel", lambda payload: None))
    await asyncio.sleep(1)
    assert not listening.done()
    await bus.start(wait=False)
    await listening
    assert bus.subscriptions == ["channel"]
