"""The workers of the cluster: their names, and whose lease runs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from aperture.bus.bus import Bus

__all__ = ["WorkerName", "living_workers"]


@dataclass(frozen=True, slots=True)
class WorkerName:
    """One life of one worker; it is never used again.

    Args:
        node: of the worker, unique among the nodes.
        index: of the worker in its node.
        nonce: different each time the worker is started.
    """

    node: str
    index: int
    nonce: str

    def __str__(self) -> str:
        return f"{self.node}/{self.index}/{self.nonce}"

    @classmethod
    def parse(cls, text: str) -> WorkerName:
        """The name that has this text.

        Raises:
            ValueError: none has.
        """
        node, index, nonce = text.rsplit("/", 2)
        return cls(node, int(index), nonce)


async def living_workers(bus: Bus) -> list[WorkerName]:
    """All workers whose lease runs, by Redis' clock, in the order of their names.

    Raises:
        BusDown: Redis cannot be asked.
    """
    seconds, _ = await bus.command("TIME")
    entries = await bus.command("ZRANGEBYSCORE", bus.names.workers, int(seconds) * 1000, "+inf")
    return sorted(_parsed(entries), key=str)


def _parsed(entries: list[bytes]) -> Iterator[WorkerName]:
    for entry in entries:
        try:
            yield WorkerName.parse(entry.decode())
        except ValueError:
            continue  # other programs can write to this Redis
