"""The document's lock: who gets it, in which order, and who gives it back."""

from __future__ import annotations

import asyncio

import pytest
from support.peers import in_loop

from aperture.worker.patch.lock import DocumentLock


async def turns(count: int = 5) -> None:
    """Let everything that is ready run."""
    for _ in range(count):
        await asyncio.sleep(0)


def test_a_free_lock_is_taken_without_awaiting() -> None:
    """No event loop is needed while it is free."""
    lock = DocumentLock()
    assert lock.try_acquire()
    assert lock.held
    assert not lock.try_acquire()
    lock.release()
    assert not lock.held


@in_loop
async def test_waiters_are_served_in_the_order_in_which_they_asked() -> None:
    """No caller overtakes, whether or not the lock is passed on while others ask."""
    lock = DocumentLock()
    order: list[int] = []

    async def hold(number: int) -> None:
        await lock.acquire()
        order.append(number)
        await asyncio.sleep(0)
        lock.release()

    lock.try_acquire()
    tasks = [asyncio.create_task(hold(number)) for number in range(5)]
    await turns()
    assert order == []
    lock.release()
    tasks.append(asyncio.create_task(hold(5)))
    await asyncio.gather(*tasks)
    assert order == [0, 1, 2, 3, 4, 5]
    assert not lock.held


@in_loop
async def test_nobody_slips_in_while_the_lock_is_passed_on() -> None:
    """Between the release and the waiter's next step the lock counts as held."""
    lock = DocumentLock()
    lock.try_acquire()
    waiter = asyncio.create_task(lock.acquire())
    await turns()
    lock.release()
    assert lock.held
    assert not lock.try_acquire()
    await waiter


@in_loop
async def test_a_waiter_that_gives_up_is_passed_over() -> None:
    """The lock goes to the next one, and is free when all have left."""
    lock = DocumentLock()
    lock.try_acquire()
    leaver, stayer = asyncio.create_task(lock.acquire()), asyncio.create_task(lock.acquire())
    await turns()
    leaver.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaver
    lock.release()
    await stayer
    leaver = asyncio.create_task(lock.acquire())
    await turns()
    leaver.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaver
    lock.release()
    assert not lock.held


@in_loop
async def test_a_waiter_cancelled_with_the_lock_already_in_hand_passes_it_on() -> None:
    """Cancellation between being served and noticing it loses no lock."""
    lock = DocumentLock()
    lock.try_acquire()
    leaver, stayer = asyncio.create_task(lock.acquire()), asyncio.create_task(lock.acquire())
    await turns()
    lock.release()
    leaver.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaver
    await stayer
    lock.release()
    assert not lock.held


def test_releasing_what_nobody_holds_is_a_mistake() -> None:
    """It says so instead of letting two in later."""
    with pytest.raises(AssertionError):
        DocumentLock().release()
