"""Chunks: all of what is offered arrives, whatever is lost; a few at a time; and nothing is kept for ever."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import pytest
from support.clock import in_fake_time

from aperture.errors import BusDown, TransferFailed
from aperture.wire.envelopes import Chunk, ChunkRequest, Envelope
from aperture.worker.relay import transfers as module
from aperture.worker.relay.transfers import CHUNK_BYTES, CHUNKS_UNDER_WAY, Transfers

SENDER, RECEIVER = "node/0/sender", "node/1/receiver"


class Wire:
    """Two workers, and what is on its way between them."""

    def __init__(self, lose: Callable[[], bool] = lambda: False) -> None:
        self.sender = Transfers(SENDER, self._send)
        self.receiver = Transfers(RECEIVER, self._send)
        self.down = False
        self.deaf = False
        """Whether the sender takes nothing, as while app code keeps it."""
        self.most = 0
        self._lose = lose

    async def _send(self, worker: str, envelope: Envelope) -> None:
        if self.down:
            raise BusDown("down")
        self.most = max(self.most, len(self.receiver._awaited))
        if self._lose():
            return
        await asyncio.sleep(0.01)
        if isinstance(envelope, ChunkRequest) and not self.deaf:
            assert worker == SENDER
            await self.sender.answer(envelope)
        elif isinstance(envelope, Chunk):
            assert worker == RECEIVER
            assert len(envelope.data) <= CHUNK_BYTES
            self.receiver.take(envelope)


@in_fake_time
@pytest.mark.parametrize("size", [1, CHUNK_BYTES, CHUNK_BYTES + 1, 10 * CHUNK_BYTES + 7])
async def test_all_of_it_arrives_and_nothing_is_left(size: int) -> None:
    """Whole chunks and a rest; then the sender learns of it, and keeps it no longer."""
    wire = Wire()
    content = random.Random(1).randbytes(size)
    ended: list[bool] = []
    name = wire.sender.offer(content, lambda: ended.append(True))
    assert await wire.receiver.fetch(SENDER, name, size) == content
    assert ended == [True]
    assert wire.sender.idle
    assert wire.receiver.idle


@in_fake_time
async def test_what_is_lost_is_asked_for_again() -> None:
    """A third of all that is said, either way."""
    chance = random.Random(2)
    wire = Wire(lose=lambda: chance.random() < 1 / 3)
    content = chance.randbytes(30 * CHUNK_BYTES)
    name = wire.sender.offer(content, lambda: None)
    assert await wire.receiver.fetch(SENDER, name, len(content)) == content
    await asyncio.sleep(module.OFFER_TIME)
    assert wire.sender.idle


@in_fake_time
async def test_many_transfers_share_one_window() -> None:
    """Redis cuts off a worker that is behind by what is under way to it, however many documents that are."""
    wire = Wire()
    content = b"x" * 8 * CHUNK_BYTES
    names = [wire.sender.offer(content, lambda: None) for _ in range(20)]
    fetched = await asyncio.gather(*(wire.receiver.fetch(SENDER, name, len(content)) for name in names))
    assert fetched == [content] * 20
    assert wire.most == CHUNKS_UNDER_WAY


@in_fake_time
async def test_a_transfer_that_stalls_does_not_hold_up_the_others() -> None:
    """A busy sender's are given up in half a minute; those of others go on meanwhile."""
    wire = Wire()
    wire.deaf = True
    stalled = [asyncio.ensure_future(wire.receiver.fetch(SENDER, f"stalled {n}", 8 * CHUNK_BYTES)) for n in range(8)]
    await asyncio.sleep(1)
    wire.deaf = False
    name = wire.sender.offer(b"x" * 40 * CHUNK_BYTES, lambda: None)
    started = asyncio.get_running_loop().time()
    wire.deaf = False
    assert len(await wire.receiver.fetch(SENDER, name, 40 * CHUNK_BYTES)) == 40 * CHUNK_BYTES
    assert asyncio.get_running_loop().time() - started < module.STALLED_TIME
    outcomes = await asyncio.gather(*stalled, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {TransferFailed}
    assert wire.receiver.idle


@in_fake_time
@pytest.mark.parametrize("trouble", ["deaf", "down"])
async def test_a_sender_that_does_not_answer_is_given_up(trouble: str) -> None:
    """And one that is only away for a moment is not."""
    wire = Wire()
    name = wire.sender.offer(b"x" * 100, lambda: None)
    setattr(wire, trouble, True)
    fetching = asyncio.ensure_future(wire.receiver.fetch(SENDER, name, 100))
    await asyncio.sleep(module.STALLED_TIME / 2)
    setattr(wire, trouble, False)
    assert await fetching == b"x" * 100
    name = wire.sender.offer(b"x" * 100, lambda: None)
    setattr(wire, trouble, True)
    with pytest.raises(TransferFailed, match="does not answer" if trouble == "deaf" else "the bus is down"):
        await wire.receiver.fetch(SENDER, name, 100)


@in_fake_time
async def test_what_is_gone_or_of_another_size_fails_at_once() -> None:
    """Nothing is put together from what does not belong together."""
    wire = Wire()
    name = wire.sender.offer(b"x" * 100)
    with pytest.raises(TransferFailed, match="another size"):
        await wire.receiver.fetch(SENDER, name, 200)
    wire.sender.withdraw(name)
    wire.sender.withdraw(name)
    with pytest.raises(TransferFailed, match="not there any more"):
        await wire.receiver.fetch(SENDER, name, 100)
    assert wire.sender.idle


@in_fake_time
async def test_an_offer_that_nobody_fetches_ends() -> None:
    """Unless it stands until it is withdrawn."""
    wire = Wire()
    ended: list[bool] = []
    name = wire.sender.offer(b"x" * 2 * CHUNK_BYTES, lambda: ended.append(True))
    kept = wire.sender.offer(b"y")
    await asyncio.sleep(module.OFFER_TIME - 1)
    await wire.sender.answer(ChunkRequest(RECEIVER, name, 0))
    await asyncio.sleep(module.OFFER_TIME - 1)
    assert ended == []
    await asyncio.sleep(2)
    assert ended == [True]
    assert not wire.sender.idle
    wire.sender.withdraw(kept)
    assert wire.sender.idle
