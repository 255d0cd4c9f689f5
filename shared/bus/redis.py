"""The one implementation of the bus: two connections to Redis, one for commands and one for what others publish.

Two, because a connection that subscribes can do nothing else; and exactly one of each, because order is promised.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from redis.asyncio.connection import AbstractConnection, Connection, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError

from aperture.bus.bus import BusHealth, Deliver, Script
from aperture.bus.names import Names
from aperture.bus.redis_connection import Argument, Connected, Link, LinkTimes, hang_up
from aperture.bus.redis_options import BusOptions
from aperture.errors import BusDown
from aperture.private_folder import is_private

__all__ = ["RedisBus"]

log = logging.getLogger(__name__)

_BATCH = 5_000
"""Subscriptions under way at once; the link has a bound for what is."""


class RedisBus:
    """A `Bus` over redis-py's asyncio connections. Made in the event loop that it runs in, after any fork.

    Args:
        options: where Redis is, and how to be let in.
    """

    def __init__(self, options: BusOptions) -> None:
        self._options = options
        self._place = options.place
        times = LinkTimes(options.connect_timeout, options.command_timeout, options.ping_interval)
        self._commands = Link(
            "commands",
            self._place.text,
            self._connect,
            times,
            prepare=self._greet,
            on_push=lambda reply: False,
            on_change=lambda up: self._changed(),
        )
        self._messages = Link(
            "messages",
            self._place.text,
            self._connect,
            times,
            prepare=self._resubscribe,
            on_push=self._take_message,
            on_change=self._messages_changed,
        )
        self._delivers: dict[bytes, Deliver] = {}
        self._complained = False
        self._loaded: set[str] = set()
        self._watchers: list[Callable[[bool], None]] = []
        self._on_resubscribed: list[Callable[[], None]] = []
        self._was_up = False
        self._may_have_missed = False
        self.names = Names(options.namespace)
        self.commands_sent = 0

    @property
    def up(self) -> bool:
        return self._commands.up and self._messages.up

    @property
    def health(self) -> BusHealth:
        links = (self._commands, self._messages)
        errors = [link.last_error for link in links if link.last_error is not None]
        return BusHealth(self.up, sum(max(0, link.connects - 1) for link in links), errors[-1] if errors else None)

    async def start(self, *, wait: bool) -> None:
        try:
            await self._commands.start(wait=wait)
            await self._messages.start(wait=wait)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        self._delivers.clear()
        await self._messages.close()
        await self._commands.close()

    def watch(self, on_change: Callable[[bool], None]) -> None:
        self._watchers.append(on_change)

    def on_resubscribed(self, callback: Callable[[], None]) -> None:
        self._on_resubscribed.append(callback)

    # Subscribing

    async def subscribe(self, channel: str, deliver: Deliver) -> None:
        key = channel.encode()
        if key in self._delivers:
            raise ValueError(f"the channel {channel[:40]!r} has a subscriber already")
        confirmed = self._messages.request("SUBSCRIBE", key)
        self.commands_sent += 1
        self._delivers[key] = deliver
        try:
            await confirmed
        except BaseException:
            if self._delivers.get(key) is deliver:
                del self._delivers[key]
                with suppress(BusDown):  # then it is not subscribed
                    self._messages.send("UNSUBSCRIBE", key)
            raise

    async def unsubscribe(self, channel: str) -> None:
        key = channel.encode()
        if self._delivers.pop(key, None) is None or not self._messages.up:
            return
        self.commands_sent += 1
        try:
            await self._messages.request("UNSUBSCRIBE", key)
        except BusDown:
            return  # the next connection does not subscribe to it

    async def _resubscribe(self) -> None:
        # With no channels it is the answer to this that shows that the connection works.
        await self._messages.request_early("PING")
        channels = list(self._delivers)
        for start in range(0, len(channels), _BATCH):
            batch = channels[start : start + _BATCH]
            await asyncio.gather(*(self._messages.request_early("SUBSCRIBE", key) for key in batch))

    def _take_message(self, reply: Any) -> bool:
        if type(reply) is not list or len(reply) != 3 or reply[0] != b"message":
            return False
        deliver = self._delivers.get(reply[1])
        if deliver is not None:
            try:
                deliver(reply[2])
            except Exception:
                self._complain()
        return True

    def _complain(self) -> None:
        if not self._complained:
            self._complained = True
            log.exception("a message from the bus could not be handled; further ones are dropped in silence")

    # Commands

    async def publish(self, channel: str, payload: bytes) -> int:
        return int(await self._request("PUBLISH", channel, payload))

    async def command(self, *args: Argument) -> Any:
        return await self._request(*args)

    async def run(self, script: Script, keys: Sequence[str], args: Sequence[Argument]) -> Any:
        if script.sha not in self._loaded and self._commands.up:
            # Ahead of the call on the same connection: no wait, and nothing that follows can overtake it.
            self._commands.send("SCRIPT", "LOAD", script.source)
            self._loaded.add(script.sha)
        try:
            return await self._request("EVALSHA", script.sha, len(keys), *keys, *args)
        except NoScriptError:
            # Only after SCRIPT FLUSH, by hand: what was asked for meanwhile has gone first.
            return await self._request("EVAL", script.source, len(keys), *keys, *args)

    def _request(self, *args: Argument) -> asyncio.Future[Any]:
        answer = self._commands.request(*args)
        self.commands_sent += 1
        return answer

    async def _greet(self) -> None:
        self._loaded.clear()
        names = self.names
        # A node of a Redis Cluster refuses keys of several slots, which all scripts have. Better now than in a page.
        spread = self._commands.request_early("EVAL", "return 0", 3, names.workers, names.epoch, names.born)
        # Removes no member; but a server that takes no writes now refuses it, as it would not refuse a PING.
        writes = self._commands.request_early("ZREM", names.workers, "")
        await asyncio.gather(spread, writes)

    # Connecting

    async def _connect(self) -> Connected:
        path, held = self._place.path, self._options.held
        if path is None or held is None:
            return await _connected(await self._make_connection(path))
        # First, while it is surely ours: once our folder is gone, another user may make one of its name.
        with suppress(OSError, RedisError):
            return await _connected(await self._make_connection(f"/proc/self/fd/{held}"))
        if not is_private(Path(path).parent):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return await _connected(await self._make_connection(path))  # Redis was started again since this was forked

    async def _make_connection(self, path: str | None) -> AbstractConnection:
        place = self._place
        # The link has deadlines of its own. In RESP2 an answer and a message cannot be mistaken for one another.
        arguments: dict[str, Any] = {
            **self._options.credentials(),
            "protocol": 2,
            "socket_timeout": None,
            "socket_connect_timeout": self._options.connect_timeout,
        }
        if path is not None:
            return UnixDomainSocketConnection(path=path, **arguments)
        host, port = place.addresses[0] if place.service is None else await self._ask_sentinels(place.service)
        kind = SSLConnection if place.tls else Connection
        tls = self._options.tls() if place.tls else {}
        return kind(host=host, port=port, socket_keepalive=True, **tls, **arguments)

    async def _ask_sentinels(self, service: str) -> tuple[str, int]:
        timeout = self._options.connect_timeout
        # One that is down is not asked again: there are others, and the link comes back.
        once = {"socket_timeout": timeout, "socket_connect_timeout": timeout, "retry": Retry(NoBackoff(), 0)}
        sentinel = Sentinel(list(self._place.addresses), sentinel_kwargs=once)  # type: ignore[no-untyped-call]
        try:
            host, port = await sentinel.discover_master(service)
            return (host.decode() if isinstance(host, bytes) else host), int(port)
        finally:
            for client in sentinel.sentinels:
                await client.aclose()

    # Telling

    def _messages_changed(self, up: bool) -> None:
        if not up:
            self._may_have_missed = True
        self._changed()

    def _changed(self) -> None:
        if self.up != self._was_up:
            self._was_up = self.up
            for watcher in self._watchers:
                _tell(partial(watcher, self._was_up))
        if self.up and self._may_have_missed:
            self._may_have_missed = False
            for callback in self._on_resubscribed:
                _tell(callback)


async def _connected(connection: AbstractConnection) -> Connected:
    try:
        await connection.connect()  # type: ignore[no-untyped-call] # redis-py annotates some of its methods
        assert connection._writer is not None
    except BaseException:
        if connection._writer is not None:
            await hang_up(connection, connection._writer.transport)
        raise
    return connection, connection._writer.transport


def _tell(callback: Callable[[], None]) -> None:
    """Call a function whose failure must not end the connection."""
    try:
        callback()
    except Exception:
        log.exception("a watcher of the bus has failed")
