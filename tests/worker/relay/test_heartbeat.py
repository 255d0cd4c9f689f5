"""The heartbeat, when a beat fails."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest
from support.patience import run

from aperture.worker.relay.heartbeat import Heartbeat


class _Nothing:
    """All that a beat asks, with nothing to do for it."""

    frozen = full = False
    interval = 0.0

    def __init__(self, renew: Callable[[], Awaitable[None]]) -> None:
        self.renew = renew

    async def look_for_room(self) -> None:
        pass

    async def living(self, workers: object) -> set[str]:
        return set()

    async def look_after(self, *args: object, **kwargs: object) -> None:
        pass

    look_after_audiences = look_after_edges = look_after

    def owners(self) -> set[str]:
        return set()

    def audiences(self) -> list[Any]:
        return []


def test_of_a_row_of_failures_the_first_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """A beat comes every two seconds, and what Redis refuses may stay so for days."""
    outcomes = iter([False, False, False, True, False, False])
    ended = asyncio.Event()

    async def renew() -> None:
        succeeds = next(outcomes, None)
        if succeeds is None:
            ended.set()
        elif not succeeds:
            raise ValueError("refused")

    async def scenario() -> None:
        nothing = cast("Any", _Nothing(renew))
        heartbeat = Heartbeat(nothing, nothing, nothing, nothing)
        heartbeat.start()
        await ended.wait()
        heartbeat.stop()

    with caplog.at_level(logging.INFO, "aperture.worker.relay.heartbeat"):
        run(scenario())
    said = [record.getMessage() for record in caplog.records]
    assert said == ["the heartbeat failed", "the heartbeat goes on"] * 2
