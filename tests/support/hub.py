"""A Redis that exists in one test only, as far as workers ask each other over it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aperture.bus.names import Names
from aperture.errors import BusDown

__all__ = ["Hub"]


class Hub:
    """What Redis does: a set of workers with their leases, channels, and values that are never too old."""

    def __init__(self) -> None:
        self.workers: list[bytes] = []
        self.channels: dict[str, Callable[[bytes], None]] = {}
        self.values: dict[str, bytes] = {}
        self.published: list[tuple[str, bytes]] = []
        self.up = True
        self.names = Names("test")

    async def command(self, *args: Any) -> Any:
        if not self.up:
            raise BusDown("away")
        match args:
            case ("TIME",):
                return (b"100", b"0")
            case ("SET", key, value, *how):
                if "NX" in how and key in self.values:
                    return None
                self.values[key] = value
                return b"OK"
            case ("GET", key):
                return self.values.get(key)
        return self.workers

    async def subscribe(self, channel: str, deliver: Callable[[bytes], None]) -> None:
        if not self.up:
            raise BusDown("away")
        self.channels[channel] = deliver

    async def publish(self, channel: str, payload: bytes) -> int:
        if not self.up:
            raise BusDown("away")
        self.published.append((channel, payload))
        if channel in self.channels:
            self.channels[channel](payload)
        return int(channel in self.channels)
