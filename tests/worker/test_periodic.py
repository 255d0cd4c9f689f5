"""Things done every so often, on a loop whose time jumps."""

from __future__ import annotations

import asyncio

import pytest
from support.clock import in_fake_time, now

from aperture.errors import BusDown
from aperture.worker.periodic import LoopLag, every, resident_bytes


def test_work_is_repeated_after_it_is_done() -> None:
    """Its own time is not counted, so a slow one is not piled up."""

    async def scenario() -> None:
        started: list[float] = []

        async def slow() -> None:
            started.append(round(now(), 3))
            await asyncio.sleep(0.5)

        task = every(1.0, slow)
        await asyncio.sleep(5)
        task.cancel()
        assert started == [1.0, 2.5, 4.0]

    in_fake_time(scenario)()


def test_that_redis_is_gone_is_no_failure(caplog: pytest.LogCaptureFixture) -> None:
    """The bus says so once; what needs it is left out until it is back, without a traceback each time."""

    async def scenario() -> None:
        runs: list[float] = []

        async def fail() -> None:
            runs.append(now())
            raise BusDown("no connection to Redis")

        task = every(1.0, fail)
        await asyncio.sleep(3.5)
        task.cancel()
        assert len(runs) == 3

    in_fake_time(scenario)()
    assert not [record for record in caplog.records if record.levelname not in ("DEBUG", "INFO")]


def test_a_failure_does_not_end_it(caplog: pytest.LogCaptureFixture) -> None:
    """It is logged, and the next time comes."""

    async def scenario() -> None:
        runs: list[float] = []

        async def fail() -> None:
            runs.append(now())
            raise ValueError("no good")

        task = every(1.0, fail)
        await asyncio.sleep(3.5)
        task.cancel()
        assert len(runs) == 3

    in_fake_time(scenario)()
    assert caplog.text.count("ValueError: no good") == 3


def test_a_late_loop_is_noticed() -> None:
    """The longest lag is kept until it is taken."""

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        lag = LoopLag()
        task = lag.start()
        await asyncio.sleep(1.05)
        assert lag.take_longest() == pytest.approx(0, abs=1e-6)
        loop.now += 0.7  # type: ignore[attr-defined]
        await asyncio.sleep(0.01)
        assert lag.seconds == pytest.approx(0.65, abs=0.06)
        await asyncio.sleep(1)
        assert lag.seconds == pytest.approx(0, abs=1e-6)
        assert lag.take_longest() == pytest.approx(0.65, abs=0.06)
        assert lag.take_longest() == pytest.approx(0, abs=1e-6)
        task.cancel()

    in_fake_time(scenario)()


def test_resident_memory_is_a_plausible_number() -> None:
    """An interpreter with Bokeh in it has more than 10 MB and less than a terabyte."""
    assert 10e6 < resident_bytes() < 1e12
