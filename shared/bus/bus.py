"""What the registry and the relay expect of the bus, so that both can be read without knowing Redis' client."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from aperture.bus.names import Names

__all__ = ["Bus", "BusHealth", "Deliver", "Script"]

Deliver = Callable[[bytes], None]
"""Takes one published payload. Called in the event loop; must not block."""


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script that Redis runs atomically."""

    source: str
    sha: str = field(init=False)

    def __post_init__(self) -> None:
        digest = hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest()
        object.__setattr__(self, "sha", digest)  # the name that Redis gives it


@dataclass(frozen=True, slots=True)
class BusHealth:
    """How the bus is doing.

    Args:
        up: whether commands are taken and every subscription is in place.
        reconnects: connections made after the first of its kind, since the start.
        last_error: why a connection was lost or not made, the last time that happened.
    """

    up: bool
    reconnects: int
    last_error: str | None


class Bus(Protocol):
    """One process's way to Redis. Everything is called in the event loop in which the bus was started.

    Order: commands reach Redis in the order in which their coroutines began to run, over one connection; several are
    under way at once. Messages are delivered over one other connection, so what one bus publishes on several
    channels arrives in that order at a bus that subscribes to them.

    Loss: nothing is queued for later. While Redis cannot be reached, calls raise `BusDown` at once, and what others
    publish is lost. Every resubscription is a possible loss, of which `on_resubscribed` tells. A call that was under
    way when the connection broke raises `BusDown`, too: it may have been carried out.

    Bounds: what is under way is bounded in number and bytes; beyond that, `BusDown`.
    """

    @property
    def names(self) -> Names:
        """The keys and channels of this installation."""

    @property
    def up(self) -> bool:
        """Whether commands are taken and every subscription is in place."""

    @property
    def health(self) -> BusHealth:
        """Figures for metrics."""

    @property
    def commands_sent(self) -> int:
        """Commands asked for by callers since the start, subscriptions among them; the bus's own pings are not."""

    async def start(self, *, wait: bool) -> None:
        """Connect, and stay connected until `close`.

        Args:
            wait: do not insist: return even if the first attempt fails, and keep trying.

        Raises:
            BusUnavailable: the first attempt failed, and `wait` is false. The bus is then closed.
        """

    async def close(self) -> None:
        """Disconnect; nothing is delivered afterwards. Idempotent."""

    def watch(self, on_change: Callable[[bool], None]) -> None:
        """Call back whenever `up` has changed, with its value."""

    def on_resubscribed(self, callback: Callable[[], None]) -> None:
        """Call back each time the bus is up with its subscriptions made anew: messages before this may be missing.

        Called after what `watch` has registered.
        """

    async def subscribe(self, channel: str, deliver: Deliver) -> None:
        """Return once Redis has confirmed; every later payload on the channel goes to `deliver`, in order.

        What `deliver` raises is logged, the first time, and dropped.

        Raises:
            BusDown: it is not subscribed.
            ValueError: this process is subscribed to that channel already.
        """

    async def unsubscribe(self, channel: str) -> None:
        """Deliver nothing more from the channel, from this call on. Never raises `BusDown`; idempotent."""

    async def publish(self, channel: str, payload: bytes) -> int:
        """Publish, and return how many buses have received it.

        Raises:
            BusDown: it was not published, or the connection broke meanwhile.
        """

    async def run(self, script: Script, keys: Sequence[str], args: Sequence[bytes | str | int]) -> Any:
        """Run a Lua script; returns its reply, with bytes for strings.

        Raises:
            BusDown: it did not run, or the connection broke meanwhile.
            redis.exceptions.ResponseError: the script failed.
        """

    async def command(self, *args: bytes | str | int) -> Any:
        """Run one command of Redis; returns its reply, with bytes for strings.

        Raises:
            BusDown: it was not carried out, or the connection broke meanwhile.
            redis.exceptions.ResponseError: Redis refused it.
        """
