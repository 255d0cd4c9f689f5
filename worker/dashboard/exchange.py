"""Figures between nodes, over Redis: one worker of each other node answers for its whole node.

Figures have a channel of their own, so that they neither delay viewers' messages nor wait for them. Every worker
answers, with `--admin` or without. No request is sent while no dashboard is open.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from aperture.bus.bus import Bus
from aperture.bus.calls import BackgroundTasks, Calls, listen
from aperture.errors import BusDown, CallFailed, WireError
from aperture.registry.members import WorkerName, living_workers
from aperture.wire.envelopes import Envelope, Figures, Hostile, Inquire
from aperture.wire.node_figures import NodeFigures

__all__ = ["FigureExchange", "Heard", "NoExchange", "Reads"]

log = logging.getLogger(__name__)

ANSWER_TIME = 1.0
"""Seconds that a node has to answer: half of the sampler's interval."""

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
        self._calls = Calls[NodeFigures]()
        self._unanswered: set[str] = set()
        """Workers that did not answer the last time: the next request goes to another worker of their node."""
        self._hostile = Hostile()
        self._tasks = BackgroundTasks("dashboard exchange failed: the other nodes show this one as silent")

    def start(self) -> None:
        """Subscribe, as soon as Redis is up."""
        self._tasks.start(listen(self._bus, self._bus.names.figures(self._me), self._on_message))

    def stop(self) -> None:
        """Stop answering. Idempotent."""
        self._tasks.cancel()
        self._calls.close()

    async def ask(self) -> Heard:
        """Fetch the figures of all other nodes. Takes `ANSWER_TIME`, at most twice if Redis is slow. Never raises."""
        try:
            async with asyncio.timeout(ANSWER_TIME):
                asked = self._choose(await living_workers(self._bus))
        except (BusDown, TimeoutError):
            return Heard(bus_up=False)
        answers = await asyncio.gather(*(self._ask(worker) for worker in asked.values()))
        heard = {node: answer for node, answer in zip(asked, answers, strict=True) if isinstance(answer, NodeFigures)}
        silent = {node for node, answer in zip(asked, answers, strict=True) if answer is _Silence.NO_ANSWER}
        self._unanswered = {worker for node, worker in asked.items() if node not in heard}
        return Heard(tuple(heard.values()), tuple(sorted(silent)))

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
        async def inquire(call: int) -> int:
            return await self._bus.publish(self._bus.names.figures(worker), Inquire(self._me, call, "").pack())

        try:
            figures = await self._calls.call(inquire, ANSWER_TIME)
        except CallFailed as problem:
            return _Silence.NO_ANSWER if problem.listens else _Silence.NOT_SUBSCRIBED
        # Redis is not trusted: an answer may name another node and would overwrite that one's figures.
        return figures if figures.node == WorkerName.parse(worker).node else _Silence.NO_ANSWER

    def _on_message(self, payload: bytes) -> None:
        try:
            envelope = Envelope.unpack(payload)
            match envelope:
                case Inquire(asker=asker, call=call):
                    self._tasks.start(self._answer(asker, call))
                case Figures(call=call, node=figures):
                    self._calls.answer(call, figures)
                case _:
                    raise WireError(f"unexpected message: {type(envelope).__name__}")
        except WireError as problem:
            self._hostile.count("figures", problem)

    async def _answer(self, asker: str, call: int) -> None:
        answer = Figures(call, (await self._reader.read()).abridged())
        try:
            await self._bus.publish(self._bus.names.figures(asker), answer.pack())
        except BusDown:
            log.debug("dashboard figures not sent: %s, Redis is down", asker)


class NoExchange:
    """In place of a `FigureExchange` where there is no Redis: this node is the only one."""

    def start(self) -> None:
        """No-op."""

    def stop(self) -> None:
        """No-op."""

    async def ask(self) -> Heard:
        """No other node."""
        return Heard()
