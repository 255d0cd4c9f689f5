"""One look for all dashboards of a worker, and none without a dashboard."""

from __future__ import annotations

import asyncio

from support.patience import run, seconds

from aperture.metrics import Reading, families
from aperture.wire.node_figures import NodeFigures, ProcessFigures
from aperture.worker.dashboard.exchange import Heard, NoExchange
from aperture.worker.dashboard.figures import values_of
from aperture.worker.dashboard.reader import FigureReader
from aperture.worker.dashboard.sampler import Sampler


class Read:
    """A reader that counts, and fails when a test says so."""

    def __init__(self, *, failing: bool = False) -> None:
        self.times = 0
        self.failing = failing
        self.happened = asyncio.Event()

    async def read(self) -> NodeFigures:
        self.times += 1
        self.happened.set()
        if self.failing:
            raise OSError("the disk is gone")
        return NodeFigures("here", (ProcessFigures("worker-0", float(self.times), {}),))


class Ask:
    """Another node, and one that does not answer."""

    async def ask(self) -> Heard:
        return Heard((NodeFigures("there", (ProcessFigures("worker-0", 1.0, {}),)),), ("nowhere",))


def test_it_looks_while_somebody_does() -> None:
    """Started by the first, kept by the second, stopped after the last."""

    async def scenario() -> None:
        reader = Read()
        sampler = Sampler("/admin", reader, NoExchange())
        sampler.enter()
        sampler.enter()
        await asyncio.wait_for(reader.happened.wait(), seconds(5))
        sampler.leave()
        assert sampler.running
        sampler.leave()
        assert not sampler.running
        assert reader.times == 1

    run(scenario())


def test_a_look_is_over_all_nodes() -> None:
    """Those that do not answer are shown, too."""

    async def scenario() -> None:
        sampler = Sampler("/admin", Read(), Ask())
        await sampler.look()
        totals = sampler.history.totals
        assert totals is not None
        assert (totals.nodes, totals.silent_nodes, totals.workers) == (3, 1, 2)
        assert sampler.looks == 1

    run(scenario())


def test_a_failure_does_not_end_it() -> None:
    """The next look may work."""

    async def scenario() -> None:
        reader = Read(failing=True)
        sampler = Sampler("/admin", reader, NoExchange())
        sampler.enter()
        await asyncio.wait_for(reader.happened.wait(), seconds(5))
        await asyncio.sleep(0)
        assert sampler.running
        sampler.leave()

    run(scenario())


def test_many_who_ask_cost_one_reading() -> None:
    """Every worker of every other node may ask at the same time."""

    async def scenario() -> None:
        times = 0

        def own() -> list[Reading]:
            nonlocal times
            times += 1
            return [Reading(families.LOOP_LAG, ("0",), 0.5)]

        reader = FigureReader("here", None, own, 0)
        answers = await asyncio.gather(*(reader.read() for _ in range(20)))
        answers.append(await reader.read())
        assert times == 1
        assert all(answer.processes[0].values == values_of(own()) for answer in answers)

    run(scenario())


def test_a_directory_that_is_gone_reads_as_nothing() -> None:
    """The node is ending; that is no reason to fail."""

    async def scenario() -> None:
        assert (await FigureReader("here", "/nowhere/at/all", list, 0).read()).processes == ()

    run(scenario())
