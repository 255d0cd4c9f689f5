"""What is too large for one publication: offered by the worker that has it, and fetched in chunks by the one it is for.

Everything that is published to a worker comes over one subscription, and Redis cuts off a subscriber that is 32 MB
behind: its neighbours would lose what was on its way to them. So the sender of a document, of a viewer's large message
or of a large page keeps it, and says under which name; the receiver asks for a few chunks at a time, over all that it
fetches. What is offered takes the sender's memory and none of Redis', where nothing is left of a worker that dies, and
which may be full.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass

from aperture.errors import BusDown, TransferFailed
from aperture.wire.envelopes import Chunk, ChunkRequest, Envelope

__all__ = ["CHUNK_BYTES", "MAX_TRANSFER", "Transfers"]

CHUNK_BYTES = 256 * 1024
"""Of one publication: a millisecond or so at each end. What is larger than that is fetched in chunks."""

MAX_TRANSFER = 256 * 1024 * 1024
"""Bytes of a document or a page: such of 200 MB with what surrounds them. A worker holds it whole at either end."""

CHUNKS_UNDER_WAY = 16
"""To one worker at a time, over all that it fetches: 4 MB, where Redis cuts off at 8 MB for a minute, or at 32."""

CHUNKS_AT_ONCE = 4
"""Of one transfer: enough that the way there and back costs no time, and room for others beside it."""

CHUNK_TIME = 3.0
"""Seconds after which a chunk is asked for again. It may be lost, or its sender may be busy with app code."""

STALLED_TIME = 30.0
"""Seconds without a chunk after which a transfer is given up."""

OFFER_TIME = 60.0
"""Seconds for which an offer stands without a request: the worker that it is for is dead or has no use for it."""

RETRY = 0.1
"""Seconds between two looks whether the bus is back."""


@dataclass(slots=True)
class _Offer:
    content: bytes
    ended: Callable[[], None] | None
    expiry: asyncio.TimerHandle | None = None


class Transfers:
    """One worker's offers, and what it fetches of others'. All calls come from its event loop.

    Args:
        me: this worker's name.
        send: sends to one worker, and may raise `BusDown`.
    """

    def __init__(self, me: str, send: Callable[[str, Envelope], Awaitable[object]]) -> None:
        self._me = me
        self._send = send
        self._offers: dict[str, _Offer] = {}
        self._awaited: dict[tuple[str, int], asyncio.Future[bytes]] = {}
        self._window = asyncio.Semaphore(CHUNKS_UNDER_WAY)

    @property
    def idle(self) -> bool:
        """Whether nothing is offered and nothing is being fetched."""
        return not self._offers and not self._awaited

    # The sender's side

    def offer(self, content: bytes, ended: Callable[[], None] | None = None) -> str:
        """Keep this for another worker; returns the name to fetch it by.

        Args:
            content: more than nothing.
            ended: called when all of it was fetched, or when no request came for so long that none will; the offer
                has ended by then. Without it the offer stands until `withdraw`.
        """
        # Not guessable: it is all that anyone needs to fetch a document.
        name = uuid.uuid4().hex
        self._offers[name] = offer = _Offer(content, ended)
        self._expire_later(name, offer)
        return name

    def withdraw(self, name: str) -> None:
        """End an offer without calling its `ended`. Idempotent."""
        offer = self._offers.pop(name, None)
        if offer is not None and offer.expiry is not None:
            offer.expiry.cancel()

    async def answer(self, request: ChunkRequest) -> None:
        """Send the chunk that another worker asks for; an empty one says that there is nothing of that name."""
        offer = self._offers.get(request.transfer)
        # Answered, and not ignored: the receiver would ask again for `STALLED_TIME`.
        if offer is None:
            data = b""
        # How the receiver says that it has everything; a request for a chunk never starts there.
        elif request.start >= len(offer.content):
            self._end(request.transfer)
            return
        else:
            data = offer.content[request.start : request.start + CHUNK_BYTES]
            # A slow receiver is not a dead one: each request is a sign of life.
            self._expire_later(request.transfer, offer)
        await self._send(request.asker, Chunk(request.transfer, request.start, data))

    def _expire_later(self, name: str, offer: _Offer) -> None:
        if offer.ended is None:
            return
        if offer.expiry is not None:
            offer.expiry.cancel()
        offer.expiry = asyncio.get_running_loop().call_later(OFFER_TIME, self._end, name)

    def _end(self, name: str) -> None:
        offer = self._offers.get(name)
        if offer is not None and offer.ended is not None:
            # In this order: it has ended by then, as `offer` says.
            self.withdraw(name)
            offer.ended()

    # The receiver's side

    async def fetch(self, sender: str, name: str, size: int) -> bytes:
        """All of what another worker offers.

        Args:
            sender: that worker.
            name: of its offer.
            size: in bytes, of which the caller has seen that it is not too much.

        Raises:
            TransferFailed: it was withdrawn, or that worker does not answer.
        """
        # Rounded up: the last one may be shorter.
        chunks = [b""] * -(-size // CHUNK_BYTES)
        # One iterator for all tasks: each takes the next chunk that no other has, so a slow one holds up its own alone.
        indices = iter(range(len(chunks)))
        try:
            # One that fails cancels the others: without one chunk the rest is worth nothing.
            async with asyncio.TaskGroup() as group:
                for _ in range(CHUNKS_AT_ONCE):
                    group.create_task(self._fetch_some(sender, name, size, chunks, indices))
        except* TransferFailed as problems:
            raise TransferFailed(str(problems.exceptions[0])) from None
        await self._request(sender, name, size)  # says that it has come; the offer would expire without it, too
        return b"".join(chunks)

    def take(self, chunk: Chunk) -> None:
        """A chunk has come."""
        awaited = self._awaited.get((chunk.transfer, chunk.start))
        # A chunk that was asked for twice comes twice.
        if awaited is not None and not awaited.done():
            awaited.set_result(chunk.data)

    async def _fetch_some(self, sender: str, name: str, size: int, chunks: list[bytes], indices: Iterator[int]) -> None:
        """Fetch those chunks that no other task of this transfer has taken from the iterator."""
        for index in indices:
            start = index * CHUNK_BYTES
            chunks[index] = await self._fetch_chunk(sender, name, start)
            # Each by itself: an empty one says that the offer has ended, and the rest need not be fetched.
            if len(chunks[index]) != min(CHUNK_BYTES, size - start):
                raise TransferFailed("it is not there any more" if not chunks[index] else "it is of another size")

    async def _fetch_chunk(self, sender: str, name: str, start: int) -> bytes:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + STALLED_TIME
        while True:
            try:
                async with self._window:  # given back before another try: those that stall must not hold up the rest
                    return await self._ask(sender, name, start)
            except TimeoutError:
                if loop.time() > deadline:
                    raise TransferFailed("the other worker does not answer") from None
            except BusDown:
                if loop.time() > deadline:
                    raise TransferFailed("the bus is down") from None
                await asyncio.sleep(RETRY)

    async def _ask(self, sender: str, name: str, start: int) -> bytes:
        # Before it is sent: the answer may be delivered in the turn of the loop in which `send` returns.
        awaited = self._awaited[name, start] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(CHUNK_TIME):
                await self._send(sender, ChunkRequest(self._me, name, start))
                chunk: bytes = await awaited
                return chunk
        finally:
            del self._awaited[name, start]

    async def _request(self, sender: str, name: str, start: int) -> None:
        try:
            await self._send(sender, ChunkRequest(self._me, name, start))
        except BusDown:
            return  # the offer expires by itself
