"""The thread that keeps a worker's lease, and what does not end it."""

from __future__ import annotations

import logging
import threading
from typing import Any

import pytest
from redis.exceptions import ResponseError
from support.patience import seconds

from aperture.bus.names import Names
from aperture.errors import BusDown
from aperture.registry.lease import LeaseThread
from aperture.registry.members import WorkerName
from aperture.registry.registry import Registry

ME = WorkerName("node", 0, "life")


class RefusingBus:
    """Answers a heartbeat with each of these in turn, and with the last one from then on."""

    names = Names()
    up = True

    def __init__(self, *outcomes: Exception | bytes) -> None:
        self._outcomes = list(outcomes)
        self.renewed = threading.Semaphore(0)

    async def start(self, *, wait: bool) -> None:
        pass

    async def close(self) -> None:
        pass

    async def run(self, *call: Any) -> bytes:
        outcome = self._outcomes.pop(0) if len(self._outcomes) > 1 else self._outcomes[0]
        self.renewed.release()
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def await_renewals(self, count: int) -> None:
        for _ in range(count):
            assert self.renewed.acquire(timeout=seconds(10)), "the lease is not renewed any more"


def test_no_failure_ends_it(caplog: pytest.LogCaptureFixture) -> None:
    """It goes on until it is stopped, and says once that it fails, until it has not."""
    wrong = ResponseError("WRONGTYPE"), RuntimeError("bug")
    bus: Any = RefusingBus(BusDown("away"), *wrong, b"1", *wrong, b"1")
    recovery = LeaseThread(lambda: bus, Registry(bus, ME), ME, lease=0.03)
    with caplog.at_level(logging.INFO):
        recovery.start()
        bus.await_renewals(12)
        recovery.stop()
    assert [record.getMessage() for record in caplog.records] == ["the lease was not renewed"] * 2
