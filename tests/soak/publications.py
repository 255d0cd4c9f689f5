"""Reads along in Redis: no owner may publish, or store, behind the back of one that has followed it.

Edges refuse what comes from an earlier owner, and that owner itself learns soon enough that it is none any more; so
people see nothing of it, or too rarely for a soak. What reaches Redis shows it each time.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import redis.asyncio
from redis.exceptions import RedisError
from soak.history import History
from soak.site import NAMESPACE, Site

from aperture.bus.names import Names
from aperture.wire.envelopes import Envelope, Patches, Stored
from aperture.wire.session_key import session_key_parts

__all__ = ["Publications"]

LOOK = 0.2
"""Seconds between two looks at what is stored."""

AGAIN = 0.2
"""Seconds between two attempts to reach a Redis that is away."""


class Publications:
    """Of all sessions of a site.

    Args:
        site: whose Redis it is.
        history: takes what is wrong.
    """

    def __init__(self, site: Site, history: History) -> None:
        self._socket = str(site.server.socket_path)
        self._history = history
        self._names = Names(NAMESPACE)
        self._prefix = self._names.channel("")
        self._published: dict[str, int] = {}
        """The highest epoch so far, by the session's key."""
        self._stored: dict[str, int] = {}
        self.seen = 0

    async def watch(self) -> None:
        """Until cancelled."""
        while True:
            # A Redis that was killed comes back empty, and owners bring back what they have.
            self._published.clear()
            self._stored.clear()
            with contextlib.suppress(RedisError, OSError):
                await self._read()
            await asyncio.sleep(AGAIN)

    async def _read(self) -> None:
        async with (
            redis.asyncio.Redis(unix_socket_path=self._socket) as client,
            client.pubsub(ignore_subscribe_messages=True) as channels,
        ):
            await channels.psubscribe(f"{self._prefix}*")
            looking = asyncio.ensure_future(self._look(client))
            try:
                async for message in channels.listen():
                    self.hear(message["channel"].decode().removeprefix(self._prefix), message["data"])
                    if looking.done():
                        looking.result()
            finally:
                looking.cancel()
                await asyncio.gather(looking, return_exceptions=True)

    async def _look(self, client: redis.asyncio.Redis[Any]) -> None:
        while True:
            await asyncio.sleep(LOOK)
            sessions = list(self._published)
            async with client.pipeline(transaction=False) as pipeline:
                for session_key in sessions:
                    pipeline.hget(self._names.stored(session_key), "epoch")
                found = await pipeline.execute()
            for session_key, epoch in zip(sessions, found, strict=True):
                if epoch is not None:
                    self._follow(self._stored, session_key, int(epoch), "stores its state")

    def hear(self, session_key: str, payload: bytes) -> None:
        """Take one publication."""
        self.seen += 1
        envelope = Envelope.unpack(payload)
        if isinstance(envelope, Patches | Stored):
            self._follow(self._published, session_key, envelope.epoch, "publishes")

    def _follow(self, known: dict[str, int], session_key: str, epoch: int, what: str) -> None:
        latest = known.get(session_key, 0)
        if epoch < latest:
            session = session_key_parts(session_key)[1]
            self._history.violate("fenced", session, f"the owner at epoch {epoch} {what} after that at {latest}")
        known[session_key] = max(latest, epoch)
