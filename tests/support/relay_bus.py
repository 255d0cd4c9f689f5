"""Redis as the relay sees it, in memory and in the time of the running loop: with delays, losses and outages on demand.

Nothing here decides what is right: a script does what its Lua does, a channel what Redis' channels do. The order that
the real bus promises holds: commands of one bus are carried out in order, and what is published arrives in order.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Any

from aperture.bus.bus import BusHealth, Deliver, Script
from aperture.bus.names import Names
from aperture.errors import BusDown
from aperture.registry import scripts

__all__ = ["FakeBus", "FakeRedis"]

_BIRTH_OF_TIME = 1_700_000_000_000


class FakeRedis:
    """One server.

    Args:
        delay: seconds that the next step of a command or a message takes.
        copies: how many times a message arrives at a bus: 1, unless it is lost or doubled.
    """

    def __init__(
        self,
        delay: Callable[[], float] = lambda: 0.001,
        copies: Callable[[FakeBus, str, bytes], int] = lambda bus, channel, payload: 1,
    ) -> None:
        self.delay = delay
        self.copies = copies
        self.buses: list[FakeBus] = []
        self.commands: Counter[str] = Counter()
        self.channels: dict[str, list[FakeBus]] = {}
        self.workers: dict[str, float] = {}
        self.sessions: dict[str, tuple[str, int]] = {}
        self.streams: dict[str, list[tuple[tuple[int, int], list[bytes]]]] = {}
        self._values: dict[str, int] = {}
        self._scripts: dict[str, Callable[[list[str], list[Any]], Any]] = {
            scripts.CLAIM.sha: self._claim,
            scripts.RELEASE.sha: self._release,
            scripts.RENEW_LEASE.sha: self._renew_lease,
            scripts.RENEW_CLAIMS.sha: self._renew_claims,
            scripts.OWNER.sha: self._owner,
            scripts.LIVING.sha: self._living,
            scripts.APPEND.sha: self._append,
        }

    @property
    def now(self) -> float:
        """Its clock, in milliseconds."""
        return _BIRTH_OF_TIME + asyncio.get_running_loop().time() * 1000

    def empty(self) -> None:
        """As after a restart without persistence: everything is gone, subscriptions with it."""
        for state in (self.channels, self.workers, self.sessions, self.streams, self._values):
            state.clear()

    def forget_streams(self) -> None:
        """As if they had been trimmed."""
        self.streams.clear()

    # Channels

    def publish(self, channel: str, payload: bytes) -> int:
        receivers = list(self.channels.get(channel, ()))
        for bus in receivers:
            for _ in range(self.copies(bus, channel, payload)):
                bus.arrive(channel, payload)
        return len(receivers)

    def subscribe(self, channel: str, bus: FakeBus) -> None:
        subscribers = self.channels.setdefault(channel, [])
        if bus not in subscribers:
            subscribers.append(bus)

    def unsubscribe(self, channel: str, bus: FakeBus) -> None:
        if bus in self.channels.get(channel, ()):
            self.channels[channel].remove(bus)

    # Commands

    def run(self, script: Script, keys: Sequence[str], args: Sequence[Any]) -> Any:
        self.commands[self._scripts[script.sha].__name__.strip("_")] += 1
        return self._scripts[script.sha](list(keys), list(args))

    def command(self, name: str, *args: Any) -> Any:
        self.commands[name.lower()] += 1
        match name:
            case "TIME":
                return [b"%d" % (self.now // 1000), b"0"]
            case "ZRANGEBYSCORE":
                return [worker.encode() for worker, ends in self.workers.items() if ends >= args[1]]
            case "ZREM":
                return int(self.workers.pop(args[1], None) is not None)
            case "SET":
                return b"OK"
            case "ZRANGE":
                return [worker.encode() for worker in self.workers]
            case "PUBSUB":
                return [args[1].encode(), len(self.channels.get(args[1], ()))]
            case "XRANGE":
                start, count = args[1], args[4]
                entries = self.streams.get(args[0], ())
                after, exclusive = _entry_id(start.removeprefix("(")), start.startswith("(")
                found = [entry for entry in entries if entry[0] > after or (entry[0] == after and not exclusive)]
                return [(b"%d-%d" % number, entry) for number, entry in found[:count]]
            case "XREVRANGE":
                return [(b"%d-%d" % number, entry) for number, entry in self.streams.get(args[0], ())[-1:]]
        raise AssertionError(f"no {name} here")

    # Scripts, as in aperture.registry.scripts

    def _claim(self, keys: list[str], args: list[Any]) -> Any:
        session, stream, _, epoch_key, born_key, seasoned_key = keys
        me, lease_ms, _, fresh, grace_ms, first_born = args
        held = self.sessions.get(session)
        if held and held[0] and (held[0] == me or self._lives(held[0])):
            return [b"owned", held[0].encode(), b"%d" % held[1]]
        born = self._values.setdefault(born_key, int(self.now))
        if first_born not in ("", str(born)):
            self._values[seasoned_key] = born
        left = born + grace_ms - self.now
        unknown = held is None or (held[0] and held[0] not in self.workers)
        if unknown and not fresh and left > 0 and seasoned_key in self._values:
            return [b"wait", left]
        epoch = max(held[1] if held else 0, self._values.get(epoch_key, 0)) + 1
        epoch = self._values[epoch_key] = max(epoch, int(self.now))
        self.sessions[session] = (me, epoch)
        self.streams.pop(stream, None)
        self.workers[me] = self.now + lease_ms
        return [b"owned", me.encode(), b"%d" % epoch]

    def _release(self, keys: list[str], args: list[Any]) -> Any:
        for session, stream, epoch in zip(keys[::2], keys[1::2], args[2:], strict=True):
            if self.sessions.get(session) == (args[0], epoch):
                self.sessions[session] = ("", epoch)
                self.streams.pop(stream, None)
        return 1

    def _renew_lease(self, keys: list[str], args: list[Any]) -> Any:
        me, lease_ms, _, first_born, _ = args
        self.workers[me] = self.now + lease_ms
        born = self._values.setdefault(keys[1], int(self.now))
        if first_born not in ("", str(born)):
            self._values[keys[2]] = born
        return b"%d" % born

    def _renew_claims(self, keys: list[str], args: list[Any]) -> Any:
        lost = []
        for position, (session, epoch) in enumerate(zip(keys[1::2], args[2:], strict=True)):
            claim = (args[0], epoch)
            if self._is_taken(session, claim):
                lost.append(position)
            elif self.sessions.get(session) != claim:
                self._put_back(session, keys[2 + 2 * position], claim)
                self._values[keys[0]] = max(self._values.get(keys[0], 0), epoch)
        return lost

    def _owner(self, keys: list[str], args: list[Any]) -> Any:
        held = self.sessions.get(keys[0])
        if held and (not held[0] or held[0] in self.workers):
            return [held[0].encode(), b"%d" % held[1]] if self._lives(held[0]) else []
        _, _, grace_ms, first_born = args
        return [b"unknown"] if self._returning(keys[2], keys[3], first_born, grace_ms) else []

    def _living(self, keys: list[str], args: list[Any]) -> Any:
        grace_ms, first_born, *asked = args
        unknown = self._returning(keys[1], keys[2], first_born, grace_ms)
        return [worker.encode() for worker in asked if self._lives(worker) or (unknown and worker not in self.workers)]

    def _returning(self, born_key: str, seasoned_key: str, first_born: str, grace_ms: int) -> bool:
        born = self._values.get(born_key)
        emptied = first_born not in ("", str(born)) or seasoned_key in self._values
        return emptied and (self.now if born is None else born) + grace_ms > self.now

    def _append(self, keys: list[str], args: list[Any]) -> Any:
        me, epoch, channel, first, last, part, parts, payload, published, floor, _ = args
        if self._is_taken(keys[0], (me, epoch)):
            return -1
        if self.sessions.get(keys[0]) != (me, epoch):
            self._put_back(keys[0], keys[1], (me, epoch))
        stream = self.streams.setdefault(keys[1], [])
        if not stream or stream[-1][0] < (last, part):
            fields = {b"first": b"%d" % first, b"last": b"%d" % last, b"parts": b"%d" % parts, b"payload": payload}
            stream.append(((last, part), [word for field in fields.items() for word in field]))
            stream[:] = [entry for entry in stream if entry[0] >= (floor, 0)]
        return self.publish(channel, published) if part + 1 == parts else 0

    def _is_taken(self, session: str, claim: tuple[str, int]) -> bool:
        held = self.sessions.get(session)
        return held is not None and held != claim and held[1] >= claim[1]

    def _put_back(self, session: str, stream: str, claim: tuple[str, int]) -> None:
        if session in self.sessions:
            self.streams.pop(stream, None)
        self.sessions[session] = claim

    def _lives(self, worker: str) -> bool:
        return self.workers.get(worker, 0) > self.now


def _entry_id(text: str) -> tuple[int, int]:
    number, _, part = text.partition("-")
    return int(number), int(part)


class _Lane:
    """Things that take a while and keep their order; what is in it is lost when the connection is."""

    def __init__(self, delay: Callable[[], float]) -> None:
        self._delay = delay
        self._queue: deque[Callable[[], None]] = deque()
        self._last = 0.0
        self._life = 0

    def put(self, act: Callable[[], None]) -> None:
        loop = asyncio.get_running_loop()
        self._last = max(self._last, loop.time() + self._delay())
        self._queue.append(act)
        loop.call_at(self._last, self._step, self._life)

    def lose(self) -> None:
        self._life += 1
        self._queue.clear()

    def _step(self, life: int) -> None:
        # Timers for the same moment fire in any order; the queue has the right one.
        if life == self._life:
            self._queue.popleft()()


class FakeBus:
    """An `aperture.bus.bus.Bus` on such a server.

    Args:
        redis: the server.
    """

    def __init__(self, redis: FakeRedis) -> None:
        self.names = Names()
        self.up = False
        self.commands_sent = 0
        self._redis = redis
        self._requests, self._replies = _Lane(self._delay), _Lane(self._delay)
        self._waiting: set[asyncio.Future[Any]] = set()
        self._delivers: dict[str, Deliver] = {}
        self._watchers: list[Callable[[bool], None]] = []
        self._on_resubscribed: list[Callable[[], None]] = []
        redis.buses.append(self)

    # What a test does to it

    def cut(self) -> None:
        """Lose the connection, and what is on its way in either direction."""
        if not self.up:
            return
        self.up = False
        for channel in self._delivers:
            self._redis.unsubscribe(channel, self)
        self._requests.lose()
        self._replies.lose()
        waiting, self._waiting = self._waiting, set()
        for future in waiting:
            if not future.done():
                future.set_exception(BusDown("cut"))
        for watcher in self._watchers:
            watcher(False)

    def mend(self) -> None:
        """Connect again."""
        if self.up:
            return
        self.up = True
        for channel in self._delivers:
            self._redis.subscribe(channel, self)
        for watcher in self._watchers:
            watcher(True)
        for callback in self._on_resubscribed:
            callback()

    @property
    def subscriptions(self) -> list[str]:
        return list(self._delivers)

    # What the server does to it

    def arrive(self, channel: str, payload: bytes) -> None:
        self._replies.put(lambda: self._deliver(channel, payload))

    def _deliver(self, channel: str, payload: bytes) -> None:
        deliver = self._delivers.get(channel)
        if deliver is not None:
            deliver(payload)

    # Bus

    @property
    def health(self) -> BusHealth:
        return BusHealth(self.up, 0, None)

    async def start(self, *, wait: bool) -> None:
        self.up = True

    async def close(self) -> None:
        self.cut()
        self._delivers.clear()

    def watch(self, on_change: Callable[[bool], None]) -> None:
        self._watchers.append(on_change)

    def on_resubscribed(self, callback: Callable[[], None]) -> None:
        self._on_resubscribed.append(callback)

    async def subscribe(self, channel: str, deliver: Deliver) -> None:
        if channel in self._delivers:
            raise ValueError("subscribed already")
        confirmed = self._request(lambda: self._redis.subscribe(channel, self))
        self._delivers[channel] = deliver
        try:
            await confirmed
        except BaseException:
            if self._delivers.get(channel) is deliver:
                await self.unsubscribe(channel)
            raise

    async def unsubscribe(self, channel: str) -> None:
        if self._delivers.pop(channel, None) is not None and self.up:
            self._request(lambda: self._redis.unsubscribe(channel, self)).add_done_callback(lambda f: f.exception())

    async def publish(self, channel: str, payload: bytes) -> int:
        return int(await self._request(lambda: self._counted_publish(channel, payload)))

    def _counted_publish(self, channel: str, payload: bytes) -> int:
        self._redis.commands["publish"] += 1
        return self._redis.publish(channel, payload)

    async def run(self, script: Script, keys: Sequence[str], args: Sequence[bytes | str | int]) -> Any:
        return await self._request(lambda: self._redis.run(script, keys, args))

    async def command(self, *args: bytes | str | int) -> Any:
        return await self._request(lambda: self._redis.command(str(args[0]), *args[1:]))

    def _request(self, act: Callable[[], Any]) -> asyncio.Future[Any]:
        if not self.up:
            raise BusDown("down")
        self.commands_sent += 1
        future = asyncio.get_running_loop().create_future()
        self._waiting.add(future)
        self._requests.put(lambda: self._carry_out(act, future))
        return future

    def _carry_out(self, act: Callable[[], Any], future: asyncio.Future[Any]) -> None:
        outcome = act()
        self._replies.put(lambda: self._answer(future, outcome))

    def _answer(self, future: asyncio.Future[Any], outcome: Any) -> None:
        self._waiting.discard(future)
        if not future.done():
            future.set_result(outcome)

    def _delay(self) -> float:
        return self._redis.delay()
