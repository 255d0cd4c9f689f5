"""`/metrics` in the gateway: workers that cannot speak for themselves, and a disk that takes nothing."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from aperture.gateway.admin.scrape import GatewayMeasures, WithStuckWorkers
from aperture.metrics import ProcessFiles, Reading, SourceCollector, families


def test_a_stuck_worker_lags_for_as_long_as_it_owes_its_report() -> None:
    """No less than it has said itself; and of a worker that is dead nothing is said."""
    said = SourceCollector(lambda: [Reading(families.LOOP_LAG, (str(place),), 0.25) for place in (0, 1)])
    (lag,) = WithStuckWorkers(said, {0: 7.0, 1: 0.0, 2: 3.0}).collect()
    assert {sample.labels["worker"]: sample.value for sample in lag.samples} == {"0": 7.0, "1": 0.25}


class _Reception(list[Any]):
    refused = 0


def test_a_full_disk_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Each time that it begins, and not each second."""
    room = True

    def write(self: ProcessFiles, readings: object) -> None:
        if not room:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(ProcessFiles, "write", write)
    node_workers = SimpleNamespace(table=SimpleNamespace(up=()), workers=range(2), overdue=dict)
    dispatcher: Any = SimpleNamespace(node_workers=node_workers, handed_over=0, refused=0, parked=0)
    reception: Any = _Reception()
    caplog.set_level(logging.WARNING)

    async def scenario() -> None:
        nonlocal room
        measures = GatewayMeasures(str(tmp_path), dispatcher, reception, 1)
        measures.start()
        for there_is in (True, False, False, True, False):
            room = there_is
            await measures.answer("")
        measures.stop()

    asyncio.run(scenario())
    assert [record.getMessage() for record in caplog.records] == [
        "the gateway's metrics cannot be written: [Errno 28] No space left on device"
    ] * 2
