"""One person with a page open: a raw websocket by BokehJS's rules, which comes back to any node when it is cut off."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from random import Random
from typing import Any

from soak.census import Census
from soak.ledger import Ledger
from soak.replica import Replica
from soak.wire import ENDINGS, Message, Wire
from support.plain_models import models_in, plain
from support.wire import ConnectionEnded

__all__ = ["Away", "Person"]

DELAYS = (0, 2, 4, 8, 16)
"""Seconds before each attempt of BokehJS to reconnect; after the last it asks its user, who says yes."""


@dataclass(frozen=True, slots=True)
class Away:
    """Why somebody leaves, and for how long."""

    seconds: float


@dataclass(slots=True)
class _Sent:
    """What waits for its answer."""

    at: float
    cells: range = range(0)
    """The values that the cell was given."""
    note: int | None = None
    """The number of the note, if one was written."""
    floor: list[int] | None = None
    """What was acknowledged when a document was asked for."""


class Person:
    """One of a session.

    Args:
        urls: websockets of the session's app, on each node.
        token: of the page.
        who: the seat, and the number of the cell that is this one's to change.
        ledger: of the session.
        census: of the run.
        chance: decides where to connect.
        act: one operation after another; returns why it leaves.
        clock: seconds of the run.
        weak: whether a node may have an owner that Redis has already given another: what it shows is of the past,
            and what it acknowledges is only as good as `ack` makes it.
    """

    def __init__(
        self,
        urls: list[str],
        token: str,
        who: int,
        ledger: Ledger,
        census: Census,
        chance: Random,
        act: Callable[[Person], Awaitable[Away]],
        clock: Callable[[], float],
        weak: Callable[[int], bool],
    ) -> None:
        self.who = who
        self.chance = chance
        self.ledger = ledger
        self.census = census
        self.replica: Replica | None = None
        """What this one sees, while connected."""
        self.wire: Wire | None = None
        self.gate = asyncio.Event()
        """Closed while nobody shall change anything."""
        self.gate.set()
        self.reading = asyncio.Event()
        """Closed while this one reads nothing."""
        self.reading.set()
        self.answered = asyncio.Event()
        """Open while nothing waits for an answer."""
        self.worked = 0.0
        """When the last change that was acknowledged had been sent, in seconds of the run."""
        self.worked_at = 0.0
        """When that was acknowledged."""
        self.away = False
        """Whether it is not there by its own wish."""
        self.steady = False
        """Whether it shall stay, and read."""
        self._urls = urls
        self._token = token
        self._act = act
        self._clock = clock
        self._weak = weak
        self._node = 0
        self._waiting: dict[str, _Sent] = {}
        self._stopped = False
        self._place = (0, 0)
        self._epoch = 0
        """Of this connection, once a patch has told it."""
        self._row = 0
        self._requests = 0

    @property
    def idle(self) -> bool:
        """Whether it has the document, and waits for nothing."""
        return self.replica is not None and not self._waiting

    def stop(self) -> None:
        """Go for good."""
        self._stopped = True
        self.gate.set()
        self.reading.set()

    async def live(self) -> None:
        """Come, change things, and come back, until stopped."""
        attempt = 0
        while not self._stopped:
            if attempt == len(DELAYS):
                self.census.asked += 1
                attempt = 0
            await asyncio.sleep(DELAYS[attempt])
            attempt += 1
            away = await self._visit()
            if away is not None:
                attempt = 0
                self.away = True
                await asyncio.sleep(away.seconds)
            elif self.replica is not None:
                attempt = 0  # it was there, and has been cut off
            self.replica, self.wire = None, None
            self.reading.set()  # it may have been cut off while it read nothing
            self.away = False

    async def _visit(self) -> Away | None:
        """One connection, from the handshake to its end; why it was left, if it was."""
        self._node = self.chance.randrange(len(self._urls))
        url = self._urls[self._node]
        self._epoch = self._row = 0
        acting: asyncio.Task[Away] | None = None
        try:
            wire = await Wire.connect(url, self._token)
        except ENDINGS as problem:
            self.census.refused += 1
            self.ledger.note(self.who, "refused", url, repr(problem)[:120])
            return None
        self.census.connections += 1
        self.wire = wire
        self.ledger.note(self.who, "connected", url)
        try:
            self.pull()
            while self.replica is None:
                self.take(await wire.next_message())
            acting = asyncio.ensure_future(self._act(self))
            reading = asyncio.ensure_future(self._read(wire))
            try:
                await asyncio.wait([acting, reading], return_when=asyncio.FIRST_COMPLETED)
            finally:
                reading.cancel()
                await asyncio.gather(reading, return_exceptions=True)
            if acting.done() and acting.exception() is None:
                return acting.result()
            ended = (acting if acting.done() else reading).exception()
            if ended is not None and not isinstance(ended, ENDINGS):
                raise ended
        except ENDINGS as problem:
            ended = problem
        finally:
            if acting is not None:
                acting.cancel()
                await asyncio.gather(acting, return_exceptions=True)
            self._lose_sight()
            await wire.close()
        self.ledger.note(self.who, "cut off", repr(ended)[:120])
        return None

    def _lose_sight(self) -> None:
        """What was not answered may still arrive: it may be in a process that stands still."""
        for sent in self._waiting.values():
            self.ledger.leave_open(self.who, sent.cells, sent.note)
        self._waiting.clear()

    # What it does

    def pull(self) -> None:
        """Ask for the document.

        Raises:
            ENDINGS: there is no connection any more; so do all of these.
        """
        self._request("PULL-DOC-REQ", {}, _Sent(self._clock(), floor=list(self.ledger.floor)))

    def change(self, times: int = 1) -> None:
        """Move the own cell on, in one message."""
        first = self.ledger.sent[self.who] + 1
        cells = range(first, first + times)
        self.ledger.sent[self.who] = cells[-1]
        model = self._model(f"cell-{self.who}")
        events = [{"kind": "ModelChanged", "model": model, "attr": "value", "new": n} for n in cells]
        self._patch(events, _Sent(self._clock(), cells))

    def write_note(self) -> None:
        """Stream a row, as an app's custom JavaScript may."""
        n = self.ledger.noted[self.who] = self.ledger.noted[self.who] + 1
        data = {"who": [self.who], "n": [n]}
        event = {"kind": "ColumnsStreamed", "model": self._model("notes"), "attr": "data", "data": data, "rollover": 40}
        self._patch([event], _Sent(self._clock(), note=n))

    def _model(self, name: str) -> dict[str, str]:
        if self.replica is None:
            raise ConnectionEnded(None, "it was cut off just now")
        return {"id": self.replica.id(name)}

    def _patch(self, events: list[dict[str, Any]], sent: _Sent) -> None:
        self.census.sent += 1
        if self.replica is not None:
            for event in events:
                self.replica.apply(event)
        self._request("PATCH-DOC", {"events": events}, sent)

    def _request(self, kind: str, content: Any, sent: _Sent) -> None:
        if self.wire is None:
            raise ConnectionEnded(None, "it was cut off just now")
        self.answered.clear()
        self._requests += 1
        msgid = f"{self.who}-{self._requests}"
        self._waiting[msgid] = sent
        self.wire.send(msgid, kind, content)

    # What it sees

    async def _read(self, wire: Wire) -> None:
        while True:
            message = await wire.next_message()
            self.take(message)
            if not self.reading.is_set():
                wire.pause()
                await self.reading.wait()
                wire.resume()

    def take(self, message: Message) -> None:
        """Act on a message."""
        if message.msgtype == "PATCH-DOC":
            self.census.seen += 1
            if self.replica is not None:
                self._see(message, self.replica)
            return
        sent = self._waiting.pop(message.header.get("reqid", ""), None)
        if sent is None:
            self.ledger.violate("answers", f"{self.who} gets {message.msgtype} to nothing that it sent")
        elif message.msgtype == "PULL-DOC-REPLY" and sent.floor is not None:
            self._pulled(Replica(message.content["doc"]), sent.floor)
        elif message.msgtype == "OK":
            self._acknowledged(sent)
        else:
            self.ledger.violate("answers", f"{self.who} gets {message.msgtype}: {str(message.content)[:200]}")
        if not self._waiting:
            self.answered.set()

    def _acknowledged(self, sent: _Sent) -> None:
        self.census.answered += 1
        self.worked, self.worked_at = max(self.worked, sent.at), self._clock()
        if sent.cells:
            self.ledger.acknowledge(self.who, sent.cells, weak=self._weak(self._node))

    def _pulled(self, replica: Replica, floor: list[int]) -> None:
        self.ledger.pulled(self.who, replica, floor, weak=self._weak(self._node))
        self._row = replica.columns("log")["at"][-1]
        self.replica = replica
        self.ledger.note(self.who, "pulled", self._row)

    def _see(self, message: Message, replica: Replica) -> None:
        place = message.metadata["epoch"], message.metadata["seq"]
        if self._epoch and place[0] != self._epoch:
            self.ledger.violate("epoch", f"{self.who} hears of epoch {place[0]} over a connection of {self._epoch}")
        elif place <= self._place and not self._weak(self._node):
            self.ledger.violate("epoch", f"{self.who} sees {place} after {self._place}")
        self._place, self._epoch = max(place, self._place), place[0]
        for event in message.content["events"]:
            try:
                self._look(event, replica, place[0])
                replica.apply(event)
            except (KeyError, ValueError) as problem:
                self.ledger.violate("order", f"{self.who} cannot apply {str(event)[:200]}: {problem!r}")

    def _look(self, event: dict[str, Any], replica: Replica, epoch: int) -> None:
        name = replica.name(event["model"]["id"])
        if event["kind"] == "ModelChanged":
            for model in models_in(event["new"]):
                self.ledger.named(self.who, epoch, model["id"], model["attributes"]["name"])
            if name.startswith("cell-"):
                self.ledger.moved(self.who, int(name[5:]), replica.cell(int(name[5:])), event["new"])
            elif name == "log":
                self._catch_up(plain(event["new"]), epoch)
        elif name == "log":
            self._follow(plain(event["data"]), epoch)

    def _catch_up(self, log: dict[str, list[int]], epoch: int) -> None:
        """Whoever could not follow gets the log as it is: its first row may be later than the next."""
        known = sum(at <= self._row for at in log["at"])
        if not known:
            self._row = log["at"][0] - 1
        elif log["at"][known - 1] != self._row:
            self.ledger.violate("order", f"{self.who} had row {self._row}, and is given a log of before that")
        self._follow({name: column[known:] for name, column in log.items()}, epoch)

    def _follow(self, added: dict[str, list[int]], epoch: int) -> None:
        """Rows come one by one."""
        for at, author, n in zip(added["at"], added["who"], added["n"], strict=True):
            if at != self._row + 1:
                self.ledger.violate("order", f"{self.who} sees row {at} after row {self._row}")
            self._row = at
            self.ledger.row(self.who, epoch, at, author, n)
