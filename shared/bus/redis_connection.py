"""One connection to Redis that heals itself: requests go out in order, several at a time, and answers come back.

redis-py's connection does the connecting, the login, TLS and the parsing; what its clients lack is here. They make one
call wait for the other, or give each a connection of its own, which loses the order; and they reconnect in silence.

A request is handed to a writer task, so that a caller may be cancelled without breaking the connection for all
others, and everything asked for in one turn of the event loop leaves in one write. Time is counted in ticks of a timer
of this process instead of by the clock: a process that was stopped for a minute has not waited for a minute.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import random
import re
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import (
    AskError,
    ClusterCrossSlotError,
    ClusterDownError,
    MasterDownError,
    MovedError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)

from aperture.errors import BusDown, BusFull, BusUnavailable
from aperture.inheritance import withhold

__all__ = ["Argument", "Connected", "Link", "LinkTimes", "hang_up"]

log = logging.getLogger(__name__)

Argument = bytes | str | int

Connected = tuple[AbstractConnection, asyncio.WriteTransport]

TICK = 0.25
"""Seconds between two looks at whether the connection still lives."""

FIRST_DELAY = 0.1
LONGEST_DELAY = 5.0
"""Seconds between two attempts to connect; the workers of a cluster come back spread over as many."""

GOODBYE = 1.0
"""Seconds for what is written to be taken when a connection that is up is closed."""

MAX_WAITING_BYTES = 64 * 1024 * 1024
"""Requests not yet taken by the kernel, because Redis reads slowly: three of the largest websocket messages."""

MAX_UNANSWERED = 20_000
"""Requests without an answer: seconds of a busy worker's work."""

_REFUSALS: dict[type[Exception], str] = {
    OutOfMemoryError: "OOM",
    ReadOnlyError: "READONLY",
    MasterDownError: "MASTERDOWN",
    ClusterDownError: "CLUSTERDOWN",
    TryAgainError: "TRYAGAIN",
    NoPermissionError: "NOPERM",
    MovedError: "MOVED",
    AskError: "ASK",
    ClusterCrossSlotError: "CROSSSLOT",
}
"""The codes that the client library has cut off and made a class of."""

_REFUSAL = re.compile(
    r"(?:^|: -)(OOM|READONLY|NOREPLICAS|MISCONF|MASTERDOWN|CLUSTERDOWN|TRYAGAIN|NOPERM|BUSY|MOVED|ASK|CROSSSLOT)\b"
)
"""In the text of all others: at its start, or, of a script in Redis 6, behind where in the script it happened."""

_OF_CLUSTER = frozenset({"CLUSTERDOWN", "TRYAGAIN", "MOVED", "ASK", "CROSSSLOT"})
"""What only a node of a Redis Cluster says: our scripts have keys of several slots, so it can never serve us."""

_UNFIT = frozenset({"READONLY", "NOREPLICAS", "MISCONF", "MASTERDOWN", "BUSY", *_OF_CLUSTER})
"""A server that refuses every write counts as down. Connecting anew, with growing pauses, finds out when that is over,
and which server is the primary by then. A server answers BUSY to everything while a script of another program runs.
LOADING and NOAUTH are not here: the client library makes connection errors of them, with the same effect."""

_PLAIN = (ConnectionRefusedError, FileNotFoundError, PermissionError)


@dataclass(frozen=True, slots=True)
class LinkTimes:
    """In seconds, as in `BusOptions`."""

    connect: float
    answer: float
    ping: float

    @property
    def answer_ticks(self) -> int:
        return math.ceil(self.answer / TICK)

    @property
    def ping_ticks(self) -> int:
        return math.ceil(self.ping / TICK)


@dataclass(slots=True)
class _Request:
    future: asyncio.Future[Any] | None
    tick: int


class Link:
    """One connection. Everything runs in the event loop that is current in `start`.

    Args:
        name: for the log.
        where: for the log and for errors; holds no password.
        connect: makes a connection that is logged in, and gives its transport too; or raises.
        times: deadlines.
        prepare: called on a new connection before the link is up, and may make requests.
        on_push: takes what Redis sends without being asked, and returns whether that is what it was.
        on_change: called with True when the link is up, and with False when it is not any more.
    """

    def __init__(
        self,
        name: str,
        where: str,
        connect: Callable[[], Awaitable[Connected]],
        times: LinkTimes,
        *,
        prepare: Callable[[], Awaitable[None]],
        on_push: Callable[[Any], bool],
        on_change: Callable[[bool], None],
    ) -> None:
        self._name = name
        self._where = where
        self._connect = connect
        self._times = times
        self._prepare = prepare
        self._on_push = on_push
        self._on_change = on_change
        self._connection: AbstractConnection | None = None
        self._transport: asyncio.WriteTransport | None = None
        self._tasks: tuple[asyncio.Task[None], ...] = ()
        self._upkeep: asyncio.Task[None] | None = None
        self._lost = asyncio.Event()
        self._unanswered: deque[_Request] = deque()
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        self._wake = asyncio.Event()
        self._tick = 0
        self._heard_at = 0
        self.up = False
        self.connects = 0
        self.last_error: str | None = None
        withhold(self)

    def descriptors(self) -> Iterable[int]:
        """The connection's: Redis goes on sending to a subscriber whose worker is dead while a child has it."""
        if self._transport is not None and not self._transport.is_closing():
            yield self._transport.get_extra_info("socket").fileno()

    # Life

    async def start(self, *, wait: bool) -> None:
        """Connect, and keep connected until `close`.

        Raises:
            BusUnavailable: the first attempt failed, and `wait` is false.
        """
        assert self._upkeep is None, "a link is started once"
        try:
            await self._establish()
        except BusUnavailable as problem:
            if not wait:
                raise
            log.warning("%s; trying again", problem)
        self._upkeep = asyncio.create_task(self._maintain())

    async def close(self) -> None:
        """Disconnect; what is unanswered fails with `BusDown`. Idempotent."""
        upkeep, self._upkeep = self._upkeep, None
        if upkeep is not None:
            upkeep.cancel()
            await asyncio.wait([upkeep])
        patience = GOODBYE if self.up else 0.0
        self._fail("closed")
        await self._tear_down(patience)

    def request(self, *args: Argument) -> asyncio.Future[Any]:
        """Send a command and return its future answer; it is on its way, in order, when this returns.

        Raises:
            BusDown: the link is not up, or too much is under way.
        """
        if not self.up:
            raise BusDown(f"no connection to Redis at {self._where}")
        return self.request_early(*args)

    def request_early(self, *args: Argument) -> asyncio.Future[Any]:
        """As `request`, but also while `prepare` is running."""
        future = asyncio.get_running_loop().create_future()
        self._send(args, future)
        return future

    def send(self, *args: Argument) -> None:
        """Send a command without waiting for its answer.

        Raises:
            BusDown: too much is under way, or the connection has just been lost.
        """
        self._send(args, None)

    def _send(self, args: tuple[Argument, ...], future: asyncio.Future[Any] | None) -> None:
        if self._connection is None or self._transport is None or self._lost.is_set():
            raise BusDown(f"no connection to Redis at {self._where}")
        # With what the kernel has not taken. `drain` should wait while there is much of it: in Python 3.12.0 to 3.12.8
        # and 3.13.0 to 3.13.1 asyncio's own transport does not have it wait after `writelines` (CVE-2024-12254), which
        # redis-py calls; uvloop's does.
        waiting = self._waiting_bytes + self._transport.get_write_buffer_size()
        if waiting > MAX_WAITING_BYTES or len(self._unanswered) >= MAX_UNANSWERED:
            raise BusDown(f"Redis at {self._where} does not keep up")
        packed = self._connection.pack_command(*args)
        self._waiting.extend(packed)
        self._waiting_bytes += sum(map(len, packed))
        self._unanswered.append(_Request(future, self._tick))
        self._wake.set()

    # Connecting

    async def _establish(self) -> None:
        try:
            async with asyncio.timeout(self._times.connect):
                self._connection, self._transport = await self._connect()
                self._begin(self._connection)
                await self._prepare()
        except BaseException as problem:
            self._fail(_reason(problem))
            await self._tear_down()
            if not isinstance(problem, Exception):
                raise
            if not isinstance(problem, OSError | RedisError | BusDown | EOFError):
                log.exception("connecting to Redis at %s has failed in an unexpected way", self._where)
            raise BusUnavailable(f"cannot connect to Redis at {self._where}: {_reason(problem)}") from None
        if self._lost.is_set():
            await self._tear_down()
            raise BusUnavailable(f"cannot connect to Redis at {self._where}: {self.last_error}")
        self.connects += 1
        self.up = True
        self._on_change(True)

    def _begin(self, connection: AbstractConnection) -> None:
        self._lost.clear()
        self._heard_at = self._tick
        self._tasks = (asyncio.create_task(self._read(connection)), asyncio.create_task(self._write(connection)))

    async def _maintain(self) -> None:
        failures = 0
        while True:
            if self.up:
                failures = 0
                await self._watch()
            await self._tear_down()
            # Not security: jitter, so that not all workers reconnect at once.
            longest = min(LONGEST_DELAY, FIRST_DELAY * 2.0 ** min(failures, 16))
            await asyncio.sleep(longest * random.uniform(0.5, 1.0))  # noqa: S311
            failures += 1
            try:
                await self._establish()
            except BusUnavailable as problem:
                log.log(logging.WARNING if failures == 1 else logging.DEBUG, "%s; trying again", problem)
                continue
            log.info("connected to Redis at %s again (%s)", self._where, self._name)

    async def _watch(self) -> None:
        """Return when the connection is lost."""
        while not self._lost.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(TICK):
                    await self._lost.wait()
            self._tick += 1
            if self._is_dead():
                self._fail(f"no answer for {self._times.answer:g} s")
            elif self._tick % self._times.ping_ticks == 0:
                with suppress(BusDown):
                    self.send("PING")

    def _is_dead(self) -> bool:
        if not self._unanswered:
            return False
        # A subscriber's answer may be behind megabytes of messages: as long as those come in, it lives.
        since = max(self._heard_at, self._unanswered[0].tick)
        return self._tick - since > self._times.answer_ticks

    # Reading and writing

    async def _read(self, connection: AbstractConnection) -> None:
        try:
            while True:
                try:
                    reply = await connection.read_response(disable_decoding=True)
                except ResponseError as problem:
                    reply = problem
                self._heard_at = self._tick
                if not self._on_push(reply):
                    self._answer(reply)
        except asyncio.CancelledError:
            raise
        except (OSError, RedisError, EOFError) as problem:
            self._fail(_reason(problem))
        except Exception as problem:
            log.exception("the connection to Redis at %s has failed", self._where)
            self._fail(_reason(problem))

    def _answer(self, reply: Any) -> None:
        if not self._unanswered:
            raise RedisError("Redis sent an answer without a request")
        future = self._unanswered.popleft().future
        code = _refusal_code(reply)
        if future is not None and not future.done():  # its caller may have been cancelled
            if code is not None:
                # For this caller as if unreachable; commands that Redis does not refuse go on.
                future.set_exception((BusFull if code == "OOM" else BusDown)(_refused(code)))
            elif isinstance(reply, Exception):
                future.set_exception(reply)
            else:
                future.set_result(reply)
        if code in _UNFIT:
            raise RedisError(_refused(code))

    async def _write(self, connection: AbstractConnection) -> None:
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                if not connection.is_connected:  # or it would connect by itself, without subscriptions
                    return self._fail("closed by Redis")
                batch, self._waiting, self._waiting_bytes = self._waiting, [], 0
                await connection.send_packed_command(batch, check_health=False)
        except (OSError, RedisError) as problem:
            self._fail(_reason(problem))

    # Losing

    def _fail(self, reason: str) -> None:
        """The connection has failed: fail all waiting calls now; the reconnecting task does the rest."""
        self._lost.set()
        self.last_error = reason
        was_up, self.up = self.up, False
        unanswered, self._unanswered = self._unanswered, deque()
        self._waiting, self._waiting_bytes = [], 0
        for request in unanswered:
            if request.future is not None and not request.future.done():
                request.future.set_exception(BusDown(f"the connection to Redis at {self._where} was lost: {reason}"))
        if was_up:
            if reason != "closed":
                log.warning("the connection to Redis at %s is lost (%s): %s", self._where, self._name, reason)
            self._on_change(False)

    async def _tear_down(self, patience: float = 0.0) -> None:
        tasks, self._tasks = self._tasks, ()
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        connection, self._connection = self._connection, None
        transport, self._transport = self._transport, None
        if connection is not None and transport is not None:
            await hang_up(connection, transport, patience)


async def hang_up(connection: AbstractConnection, transport: asyncio.WriteTransport, patience: float = 0.0) -> None:
    """Close a connection, whatever its peer does.

    By itself asyncio keeps one open until the peer has taken what was written and, with TLS, has said goodbye: a paused
    Redis would hold a descriptor and megabytes of each connection that was given up.

    Args:
        transport: the connection's; it forgets it when it closes by itself, as it does when a write is cancelled.
        patience: seconds in which the peer may still take what was written; the rest is lost.
    """
    with suppress(OSError, RedisError):  # a TimeoutError is an OSError
        async with asyncio.timeout(patience or None):
            await connection.disconnect(nowait=not patience)
    transport.abort()


def _refusal_code(reply: Any) -> str | None:
    """Why Redis carries out nothing of the kind now, whatever it was; None where it has answered or found a mistake."""
    if not isinstance(reply, ResponseError):
        return None
    known = _REFUSALS.get(type(reply))
    found = _REFUSAL.search(str(reply)) if known is None else None
    return known if found is None else found[1]


def _refused(code: str) -> str:
    if code in _OF_CLUSTER:
        return f"a node of a Redis Cluster ({code}), which is not supported; use one Redis, or Sentinel"
    return "Redis is full (OOM, maxmemory)" if code == "OOM" else f"Redis refuses ({code})"


def _reason(problem: BaseException) -> str:
    if isinstance(problem, TimeoutError):
        return "no answer in time"
    cause = problem.__context__
    if isinstance(cause, _PLAIN) and cause.errno is not None:
        return os.strerror(cause.errno)  # the client library and asyncio have wrapped it in words of their own
    return str(problem) or type(problem).__name__
