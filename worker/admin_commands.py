"""What operators want of a worker: an account of itself, and that a session be ended or moved.

It comes from this node's gateway, or from another node's through one of its workers and the bus, on a channel of its
own: what operators do must not stand in line with what viewers do, nor the other way round. Whole session ids never
leave the worker that has them.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from http import HTTPStatus

from aperture.bus.bus import Bus
from aperture.bus.calls import BackgroundTasks, Calls, listen
from aperture.errors import BusDown, CallFailed
from aperture.log import short_id
from aperture.registry.registry import WorkerName
from aperture.wire.accounts import SHOWN_ID_LENGTH, SessionRow, WorkerAccount, WorkerRow
from aperture.wire.envelopes import Account, Command, Envelope, Hostile, Inquire, Outcome
from aperture.wire.node_messages import Order
from aperture.worker.handover import Handover
from aperture.worker.session.session import Session
from aperture.worker.session.store import SessionStore

__all__ = ["Answer", "Operations", "Post"]

log = logging.getLogger(__name__)

ACCOUNT_TIME = 0.8
"""Seconds that workers elsewhere have to answer: less than the second that the gateway waits for all of it."""

COMMAND_TIME = 8.0
"""Seconds that a worker elsewhere has to end or move a session, app code and hooks among it."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of an order: a status of HTTP, and a sentence."""

    status: int
    text: str


class Post:
    """This worker's end of the channels between workers that carry what operators want.

    Args:
        bus: started or not; may be down at any time.
        me: this worker.
        account: what this worker says of itself, of sessions whose ids begin in a certain way.
        act: ends or moves a session that is here.
    """

    def __init__(
        self,
        bus: Bus,
        me: str,
        account: Callable[[str], WorkerAccount],
        act: Callable[[str, str, str, int], asyncio.Future[Answer]],
    ) -> None:
        self._bus = bus
        self._me = me
        self._account = account
        self._act = act
        self._inquiries = Calls[Account]()
        self._commands = Calls[Answer]()
        self._hostile = Hostile()
        self._tasks = BackgroundTasks("admin command failed")

    def start(self) -> None:
        """Listen, as soon as Redis lets us."""
        self._tasks.start(listen(self._bus, self._bus.names.orders(self._me), self._on_letter))

    def stop(self) -> None:
        """Listen no more."""
        self._tasks.cancel()
        self._inquiries.close()
        self._commands.close()

    async def others(self, prefix: str) -> AsyncIterator[tuple[str, bytes | None]]:
        """The accounts of the workers of other nodes, in parts with the worker's name; None for who does not answer.

        Raises:
            BusDown: nobody can be asked.
        """
        async with asyncio.timeout(ACCOUNT_TIME):
            workers = await self._elsewhere()
        with self._inquiries.open() as replies:
            sent = [self._tell(worker, Inquire(self._me, replies.number, prefix)) for worker in workers]
            await asyncio.gather(*sent)
            missing, deadline = set(workers), asyncio.get_running_loop().time() + ACCOUNT_TIME
            while missing:
                try:
                    async with asyncio.timeout_at(deadline):
                        account = await replies.next()
                except (CallFailed, TimeoutError):
                    break
                if account.worker in missing:
                    yield account.worker, account.part
                    if account.last:
                        missing.discard(account.worker)
            for worker in sorted(missing):
                yield worker, None

    async def command(self, order: Order) -> Answer:
        """Have another worker end or move a session."""
        to = "" if order.to < 0 else str(order.to)

        async def send(call: int) -> int:
            command = Command(self._me, call, order.action, order.prefix, order.app, to)
            return await self._bus.publish(self._bus.names.orders(order.worker), command.pack())

        try:
            return await self._commands.call(send, COMMAND_TIME)
        except CallFailed:
            return Answer(HTTPStatus.GATEWAY_TIMEOUT, "the session's worker does not answer")

    async def living(self) -> list[str]:
        """All workers of the cluster whose lease runs.

        Raises:
            BusDown: nobody knows.
        """
        seconds, _ = await self._bus.command("TIME")
        alive = await self._bus.command("ZRANGEBYSCORE", self._bus.names.workers, int(seconds) * 1000, "+inf")
        return [name.decode("utf-8", "replace") for name in alive]

    async def _elsewhere(self) -> list[str]:
        mine = WorkerName.parse(self._me).node
        return [name for name in await self.living() if _node_of(name) not in (None, mine)]

    def _on_letter(self, payload: bytes) -> None:
        try:
            envelope = Envelope.unpack(payload)
        except ValueError as problem:
            self._hostile.count("orders", problem)
            return
        match envelope:
            case Inquire():
                self._tasks.start(self._give_account(envelope))
            case Command():
                self._tasks.start(self._obey(envelope))
            case Account(call=call):
                self._inquiries.answer(call, envelope)
            case Outcome(call=call, status=status, text=text):
                self._commands.answer(call, Answer(status if 100 <= status < 600 else 502, text[:500]))
            case _:
                self._hostile.count("orders", ValueError(f"a {type(envelope).__name__} does not belong there"))

    async def _give_account(self, inquiry: Inquire) -> None:
        for part, last in self._account(inquiry.prefix).parts():
            await self._tell(inquiry.asker, Account(inquiry.call, self._me, part, last))

    async def _obey(self, command: Command) -> None:
        to = int(command.to) if command.to.isdecimal() else -1
        answer = await self._act(command.action, command.prefix, command.app, to)
        await self._tell(command.asker, Outcome(command.call, answer.status, answer.text))

    async def _tell(self, worker: str, envelope: Envelope) -> None:
        try:
            await self._bus.publish(self._bus.names.orders(worker), envelope.pack())
        except BusDown:
            log.debug("the bus is away; what operators want does not get through")


class Operations:
    """What operators can have of one worker.

    Args:
        store: its sessions.
        handover: ends and moves them.
        figures: sessions, connections, lag of the event loop in seconds, resident bytes.
        node: its node.
        index: its place there.
        workers: how many places its node has.
        move_to: tells the gateway for whom a session is: the place of a worker, or -1 for any but this one.
        bus: the way to other workers, if there are any, and this worker's name there.
    """

    def __init__(
        self,
        store: SessionStore,
        handover: Handover,
        *,
        figures: Callable[[], tuple[int, int, float, int]],
        node: str,
        index: int,
        workers: int,
        move_to: Callable[[str, int], None],
        bus: tuple[Bus, str] | None,
    ) -> None:
        self._store = store
        self._handover = handover
        self._figures = figures
        self._index = index
        self._workers = workers
        self._move_to = move_to
        self._name = f"{node}/{index}/-" if bus is None else bus[1]
        self._post = None if bus is None else Post(*bus, self.account, self._act_soon)

    def start(self) -> None:
        """Listen for orders from elsewhere."""
        if self._post is not None:
            self._post.start()

    def stop(self) -> None:
        """Listen no more."""
        if self._post is not None:
            self._post.stop()

    def account(self, prefix: str) -> WorkerAccount:
        """What this worker says of itself, of sessions those whose id begins like this."""
        row = WorkerRow(self._name, os.getpid(), *self._figures())
        sessions = [
            SessionRow(info.id[:SHOWN_ID_LENGTH], info.app, info.epoch, info.connections, info.edges, info.age_seconds)
            for info in self._store.describe()
            if info.id.startswith(prefix)
        ]
        return WorkerAccount(row, sessions)

    async def others(self, prefix: str) -> AsyncIterator[tuple[str, bytes | None]]:
        """See `Post.others`; nobody, where there is no bus."""
        if self._post is not None:
            async for told in self._post.others(prefix):
                yield told

    async def order(self, order: Order) -> tuple[int, str]:
        """Do what an operator wants, here or through another worker."""
        if not order.worker:
            answer = await self.act(order.action, order.prefix, order.app, order.to)
        elif self._post is None:
            answer = Answer(HTTPStatus.NOT_FOUND, "there is no such worker")
        else:
            answer = await self._post.command(order)
        return answer.status, answer.text

    async def act(self, action: str, prefix: str, app: str, to: int) -> Answer:
        """End or move one session that is here. Never raises."""
        found = [session for session in self._store if session.id.startswith(prefix) and session.app == app]
        if len(found) != 1:
            status = HTTPStatus.CONFLICT if found else HTTPStatus.NOT_FOUND
            return Answer(status, f"{len(found)} sessions begin like this" if found else "the session is gone")
        try:
            if action == "end":
                return await self._end(found[0])
            if action == "move":
                return await self._move(found[0], to)
        except BusDown:
            return Answer(HTTPStatus.SERVICE_UNAVAILABLE, "Redis is away; the session stays where it is")
        except Exception:
            log.exception("an operator's order for session %s has failed", short_id(found[0].id))
            return Answer(HTTPStatus.INTERNAL_SERVER_ERROR, "it has failed; the log of the worker tells why")
        return Answer(HTTPStatus.BAD_REQUEST, "neither end nor move")

    async def _end(self, session: Session) -> Answer:
        log.info("session %s of %s is ended by an operator", short_id(session.id), session.app)
        await self._handover.end(session)
        return Answer(HTTPStatus.OK, "the session has ended")

    async def _move(self, session: Session, to: int) -> Answer:
        problem = await self._why_not_move(to)
        if problem is not None:
            return Answer(HTTPStatus.CONFLICT, problem)
        if not await self._handover.move(session, lambda: self._move_to(session.id, to)):
            return Answer(HTTPStatus.CONFLICT, "the session cannot be written down now; it stays where it is")
        log.info("session %s of %s is moved by an operator", short_id(session.id), session.app)
        where = "another worker" if to < 0 else f"worker {to}"
        return Answer(HTTPStatus.OK, f"the session goes on in {where} as soon as a viewer comes back")

    async def _why_not_move(self, to: int) -> str | None:
        if not self._handover.keeps:
            return "without --durability nothing of a session outlives its worker: moving it would lose its state"
        if to >= self._workers:
            return f"there is no worker {to} in that node, which has {self._workers}"
        if to == self._index:
            return f"the session is in worker {to} already"
        if self._workers == 1 and (self._post is None or len(await self._post.living()) < 2):
            return "there is no other worker"
        return None

    def _act_soon(self, action: str, prefix: str, app: str, to: int) -> asyncio.Future[Answer]:
        return asyncio.ensure_future(self.act(action, prefix, app, to))


def _node_of(name: str) -> str | None:
    """The node in a worker's name; None if that is no name: anybody can write to Redis."""
    try:
        return WorkerName.parse(name).node
    except ValueError:
        return None
