"""Reads along in Redis: no owner may publish, or store, behind the back of one that has followed it.

Edges refuse what comes from an earlier owner, and that owner itself learns soon enough that it is none any more; so
people see nothing of it, or too rarely for a soak. What reaches Redis shows it each time.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable, Iterable

import redis.asyncio
from redis.exceptions import RedisError
from soak.history import History
from soak.site import APP, NAMESPACE

from aperture.bus.names import Names
from aperture.wire.envelopes import Envelope, Patches, Stored
from aperture.wire.session_key import session_key_of, session_key_parts

__all__ = ["Publications"]

LOOK = 0.1
"""Seconds between two looks at claims, and at what is stored."""

AGAIN = 0.2
"""Seconds between two attempts to reach a Redis that is away."""

CLAIMS = "soak:claims"
"""Where the looks are published: among what owners publish, so that it is certain which came first."""

_LOOK = """
local found = {}
for i = 2, #KEYS, 2 do
    found[i / 2] = {KEYS[i], redis.call('HGET', KEYS[i], 'epoch'), redis.call('HGET', KEYS[i + 1], 'epoch')}
end
if #found > 0 then redis.call('PUBLISH', KEYS[1], cjson.encode(found)) end
"""


class Publications:
    """Of all sessions in one Redis.

    Args:
        socket: the path of Redis's.
        sessions: the ids of those that there are.
        history: takes what is wrong.
    """

    def __init__(self, socket: str, sessions: Callable[[], Iterable[str]], history: History) -> None:
        self._socket = socket
        self._sessions = sessions
        self._history = history
        self._names = Names(NAMESPACE)
        self._prefix = self._names.channel("")
        self._claimed: dict[str, int] = {}
        """The highest epoch so far that the session was claimed at, or anything was published, by its key."""
        self._stored: dict[str, int] = {}
        self.seen = 0

    async def watch(self) -> None:
        """Until cancelled."""
        while True:
            # A Redis that was killed comes back empty, and owners bring back what they have.
            self._claimed.clear()
            self._stored.clear()
            with contextlib.suppress(RedisError, OSError):
                await self._read()
            await asyncio.sleep(AGAIN)

    async def _read(self) -> None:
        async with (
            redis.asyncio.Redis(unix_socket_path=self._socket) as client,
            client.pubsub(ignore_subscribe_messages=True) as channels,
        ):
            await channels.psubscribe(f"{self._prefix}*", CLAIMS)
            looking = asyncio.ensure_future(self._look(client))
            try:
                async for message in channels.listen():
                    channel = message["channel"].decode()
                    if channel == CLAIMS:
                        self.see(json.loads(message["data"]))
                    else:
                        self.hear(channel.removeprefix(self._prefix), message["data"])
            finally:
                looking.cancel()
                await asyncio.gather(looking, return_exceptions=True)

    async def _look(self, client: redis.asyncio.Redis) -> None:
        while True:
            await asyncio.sleep(LOOK)
            keys = [session_key_of(APP, session) for session in self._sessions()]
            pairs = [name for key in keys for name in (self._names.session(key), self._names.stored(key))]
            with contextlib.suppress(RedisError, OSError):  # the reader finds out what it means
                await client.eval(_LOOK, 1 + len(pairs), CLAIMS, *pairs)

    def see(self, found: list[tuple[str, str | bool, str | bool]]) -> None:
        """Take what a look has found: of each session the key of its claim, and the epochs of that and of its state."""
        for name, claimed, stored in found:
            session_key = name.removeprefix(self._names.session(""))
            if claimed:
                self._claimed[session_key] = max(self._claimed.get(session_key, 0), int(claimed))
            if stored:
                self._follow(self._stored, session_key, int(stored), "stores its state")

    def hear(self, session_key: str, payload: bytes) -> None:
        """Take one publication."""
        self.seen += 1
        envelope = Envelope.unpack(payload)
        if isinstance(envelope, Patches | Stored):
            self._follow(self._claimed, session_key, envelope.epoch, "publishes")

    def _follow(self, known: dict[str, int], session_key: str, epoch: int, what: str) -> None:
        latest = known.get(session_key, 0)
        if epoch < latest:
            session = session_key_parts(session_key)[1]
            self._history.violate("fenced", session, f"the owner at epoch {epoch} {what} after that at {latest}")
        known[session_key] = max(latest, epoch)
