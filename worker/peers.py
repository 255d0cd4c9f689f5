"""What the framework of an app has to do with the other workers of the cluster, over Redis.

It asks them: a topic, and bytes for an answer. It claims what only one of all is to do, and leaves notes for all.

Panel counts its sessions in each process, and a page that shows all of them must ask all. The server knows the topics
by their names only; what an answer says is the framework's. Questions have a channel of their own, so that they neither
delay viewers' messages nor wait for them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from aperture.bus.bus import Bus
from aperture.bus.calls import BackgroundTasks, Calls, listen
from aperture.errors import BusDown, CallFailed, WireError
from aperture.registry.members import living_workers
from aperture.wire.envelopes import Answer, Envelope, Hostile, Question

__all__ = ["NoPeers", "Peers"]

log = logging.getLogger(__name__)

ANSWER_TIME = 1.0
"""Seconds that the others have to answer: a visitor waits for a page."""

MAX_PEERS = 1000
"""Workers that are asked; as many as calls may be in flight."""


class Peers:
    """Asks the other workers, and answers them.

    Args:
        bus: started or not; may be down at any time.
        me: this worker's name in the cluster.
    """

    def __init__(self, bus: Bus, me: str) -> None:
        self._bus = bus
        self._me = me
        self._topics: dict[str, Callable[[], bytes]] = {}
        self._calls = Calls[bytes]()
        self._hostile = Hostile()
        self._tasks = BackgroundTasks("a question of another worker failed")

    def start(self) -> None:
        """Listen, as soon as Redis is up."""
        self._tasks.start(listen(self._bus, self._bus.names.questions(self._me), self._on_message))

    def stop(self) -> None:
        """Listen no more. Idempotent."""
        self._tasks.cancel()
        self._calls.close()

    def answers(self, topic: str, give: Callable[[], bytes]) -> None:
        """Have questions on this topic answered by what `give` returns, called on the event loop."""
        self._topics[topic] = give

    async def ask(self, topic: str) -> list[bytes]:
        """The answers of all others that gave one. Takes `ANSWER_TIME`, at most twice. Never raises."""
        try:
            async with asyncio.timeout(ANSWER_TIME):
                others = [str(name) for name in await living_workers(self._bus) if str(name) != self._me]
        except (BusDown, TimeoutError):
            return []
        answers = await asyncio.gather(*(self._ask(worker, topic) for worker in others[:MAX_PEERS]))
        return [answer for answer in answers if answer is not None]

    async def claim(self, task: str, seconds: float) -> bool:
        """Whether this worker is the first of all, since so many seconds, to ask for this.

        Raises:
            BusDown: that cannot be found out.
        """
        key = self._bus.names.claim(task)
        return await self._bus.command("SET", key, self._me, "NX", "PX", _milliseconds(seconds)) is not None

    async def leave(self, subject: str, note: bytes, seconds: float) -> None:
        """Leave a note for all workers, for so many seconds.

        Raises:
            BusDown: it may not be there.
        """
        await self._bus.command("SET", self._bus.names.note(subject), note, "PX", _milliseconds(seconds))

    async def find(self, subject: str) -> bytes | None:
        """The note that was left on this, by whichever worker; None if there is none any more.

        Raises:
            BusDown: that cannot be found out.
        """
        note: bytes | None = await self._bus.command("GET", self._bus.names.note(subject))
        return note

    async def _ask(self, worker: str, topic: str) -> bytes | None:
        async def send(call: int) -> int:
            return await self._bus.publish(self._bus.names.questions(worker), Question(self._me, call, topic).pack())

        try:
            return await self._calls.call(send, ANSWER_TIME)
        except CallFailed as problem:
            # It has died a moment ago, serves no such app, or its event loop stands still.
            log.debug("no answer on %s from %s: %s", topic, worker, problem)
            return None

    def _on_message(self, payload: bytes) -> None:
        try:
            envelope = Envelope.unpack(payload)
            match envelope:
                case Question():
                    self._tasks.start(self._answer(envelope))
                case Answer(call=call, body=body):
                    self._calls.answer(call, body)
                case _:
                    raise WireError(f"unexpected message: {type(envelope).__name__}")
        except WireError as problem:
            self._hostile.count("questions", problem)

    async def _answer(self, question: Question) -> None:
        give = self._topics.get(question.topic)
        if give is None:
            return
        await self._bus.publish(self._bus.names.questions(question.asker), Answer(question.call, give()).pack())


def _milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))


class NoPeers:
    """In place of `Peers` where there is no Redis: this worker is the only one."""

    def start(self) -> None:
        """No-op."""

    def stop(self) -> None:
        """No-op."""

    def answers(self, topic: str, give: Callable[[], bytes]) -> None:
        """No-op."""

    async def ask(self, topic: str) -> list[bytes]:
        """No other worker."""
        return []

    async def claim(self, task: str, seconds: float) -> bool:
        """There is no other worker that could have done it."""
        return True

    async def leave(self, subject: str, note: bytes, seconds: float) -> None:
        """No-op: there is no other worker to read it."""

    async def find(self, subject: str) -> bytes | None:
        """Nothing: there is no other worker to leave a note."""
        return None
