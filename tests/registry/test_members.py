"""The names of workers, and who of them lives."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from aperture.bus.bus import Bus
from aperture.bus.names import Names
from aperture.registry.members import WorkerName, living_workers


def test_a_name_survives_as_text() -> None:
    """It is the owner id in Redis and the name of the inbox; a node may be called anything."""
    for node in ("web-1", "10.0.0.1:5006", "a/b"):
        name = WorkerName(node, 3, "5f2a")
        assert WorkerName.parse(str(name)) == name


@pytest.mark.parametrize("text", ["", "a", "a/1", "a/b/c"])
def test_other_text_is_no_name(text: str) -> None:
    """What another version, or another program, has written."""
    with pytest.raises(ValueError):
        WorkerName.parse(text)


class Redis:
    """A bus that answers with these members."""

    names = Names("test")

    def __init__(self, *members: bytes) -> None:
        self.members = list(members)
        self.asked: list[Any] = []

    async def command(self, *args: Any) -> Any:
        self.asked.append(args)
        return (b"100", b"5") if args == ("TIME",) else self.members


def test_who_lives_is_asked_by_the_clock_of_redis() -> None:
    """Leases that ended before its now are not asked for; what others have written is no worker."""
    redis = Redis(b"b/0/x", b"no name", b"a/b/c", b"\xff/1/x", b"a/1/x")
    living = asyncio.run(living_workers(cast("Bus", redis)))
    assert living == [WorkerName("a", 1, "x"), WorkerName("b", 0, "x")]
    assert redis.asked[1:] == [("ZRANGEBYSCORE", Names("test").workers, 100_000, "+inf")]
