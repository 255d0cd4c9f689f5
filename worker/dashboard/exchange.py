"""Figures between nodes, over Redis: one worker of each other node answers for its whole node.

Figures have a channel of their own, so that they neither delay viewers' messages nor wait for them. Every worker
answers, with `--admin` or without. No request is sent while no dashboard is open.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from dataclasses import dataclass
from enum import Enum
from itertools import count
from typing import Any, Protocol

from aperture.bus.bus import Bus
from aperture.errors import BusDown
from aperture.registry.registry import WorkerName
from aperture.wire.envelopes import Account, Envelope, Hostile, Inquire
from aperture.worker.dashboard.figures import NodeFigures, pack, unpack

__all__ = ["FigureExchange", "Heard"]

log = logging.getLogger(__name__)

ANSWER_TIME = 1.0
"""Seconds that a node has to answer: half of the sampler's interval."""

LISTEN_PAUSE = 0.5
"""Seconds between two attempts to subscribe while Redis is down."""

MAX_NODES = 200
"""Nodes that are asked; further ones are not shown."""


class _Silence(Enum):
    """Why there are no figures of a node."""

    NO_ANSWER = "it is stuck, or shutting down"
    NOT_SUBSCRIBED = "it runs with --disable-metrics, or has just died, which its earlier figures show"


class Reads(Protocol):
    """An `aperture.worker.dashboard.reader.FigureReader`."""

    async def read(self) -> NodeFigures: ...


@dataclass(frozen=True, slots=True)
class Heard:
    """The answers of the other nodes.

    Args:
        nodes: the figures of those that answered.
        missing: the names of those that did not.
        bus_up: whether Redis could be reached.
    """

    nodes: tuple[NodeFigures, ...] = ()
    missing: tuple[str, ...] = ()
    bus_up: bool = True


class FigureExchange:
    """Asks other nodes for their figures, and answers for this one.

    Args:
        bus: started or not; may be down at any time.
        me: this worker's name in the cluster.
        reader: of this node's figures.
    """

    def __init__(self, bus: Bus, me: str, reader: Reads) -> None:
        self._bus = bus
        self._me = me
        self._reader = reader
        self._calls = count(1)
        self._answers: dict[int, asyncio.Future[NodeFigures]] = {}
        self._unanswered: set[str] = set()
        """Workers that did not answer the last time: the next request goes to another worker of their node."""
        self._hostile = Hostile()
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Subscribe, as soon as Redis is up."""
        self._track(self._listen())

    def stop(self) -> None:
        """Stop answering. Idempotent."""
        for task in tuple(self._tasks):
            task.cancel()

    async def ask(self) -> Heard:
        """Fetch the figures of all other nodes. Takes `ANSWER_TIME`, at most twice if Redis is slow. Never raises."""
        try:
            async with asyncio.timeout(ANSWER_TIME):
                asked = self._choose(await self._living())
        except (BusDown, TimeoutError):
            return Heard(bus_up=False)
        answers = await asyncio.gather(*(self._ask(worker) for worker in asked.values()))
        heard = {node: answer for node, answer in zip(asked, answers, strict=True) if isinstance(answer, NodeFigures)}
        silent = {node for node, answer in zip(asked, answers, strict=True) if answer is _Silence.NO_ANSWER}
        self._unanswered = {worker for node, worker in asked.items() if node not in heard}
        return Heard(tuple(heard.values()), tuple(sorted(silent)))

    async def _living(self) -> list[WorkerName]:
        seconds, _ = await self._bus.command("TIME")
        names = await self._bus.command("ZRANGEBYSCORE", self._bus.names.workers, int(seconds) * 1000, "+inf")
        return sorted(filter(None, map(_parsed, names)), key=str)

    def _choose(self, living: list[WorkerName]) -> dict[str, str]:
        """Choose one worker of each node but ours."""
        mine = WorkerName.parse(self._me).node
        chosen: dict[str, str] = {}
        for name in living:
            if name.node == mine or (name.node not in chosen and len(chosen) >= MAX_NODES):
                continue
            if name.node not in chosen or chosen[name.node] in self._unanswered:
                chosen[name.node] = str(name)
        return chosen

    async def _ask(self, worker: str) -> NodeFigures | _Silence:
        call = next(self._calls)
        answer = self._answers[call] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(ANSWER_TIME):
                inquiry = Inquire(self._me, call, "").pack()
                if not await self._bus.publish(self._bus.names.figures(worker), inquiry):
                    return _Silence.NOT_SUBSCRIBED
                figures = await answer
            # Redis is not trusted: an answer may name another node and would overwrite that one's figures.
            return figures if figures.node == WorkerName.parse(worker).node else _Silence.NO_ANSWER
        except (BusDown, TimeoutError):
            return _Silence.NO_ANSWER
        finally:
            del self._answers[call]

    async def _listen(self) -> None:
        while True:
            try:
                await self._bus.subscribe(self._bus.names.figures(self._me), self._on_message)
                return
            except BusDown:
                await asyncio.sleep(LISTEN_PAUSE)

    def _on_message(self, payload: bytes) -> None:
        try:
            envelope = Envelope.unpack(payload)
            match envelope:
                case Inquire(asker=asker, call=call):
                    self._track(self._answer(asker, call))
                case Account(call=call, part=part):
                    waiting = self._answers.get(call)
                    if waiting is not None and not waiting.done():
                        waiting.set_result(unpack(part))
                case _:
                    raise ValueError(f"unexpected message: {type(envelope).__name__}")
        except ValueError as problem:
            self._hostile.count("figures", problem)

    async def _answer(self, asker: str, call: int) -> None:
        account = Account(call, self._me, pack(await self._reader.read()), True)
        try:
            await self._bus.publish(self._bus.names.figures(asker), account.pack())
        except BusDown:
            log.debug("dashboard figures not sent: %s, Redis is down", asker)

    def _track(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._on_done)

    def _on_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (problem := task.exception()) is not None:
            log.error("dashboard exchange failed: the other nodes show this one as silent", exc_info=problem)


def _parsed(name: bytes) -> WorkerName | None:
    try:
        return WorkerName.parse(name.decode())
    except ValueError:  # not an entry of ours: other programs can write to this Redis
        return None
