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
from functools import partial
from http import HTTPStatus
from typing import Protocol

from aperture.bus.bus import Bus
from aperture.bus.calls import BackgroundTasks, Calls, listen
from aperture.errors import BusDown, CallFailed, WireError
from aperture.log import short_id
from aperture.registry.members import WorkerName, living_workers
from aperture.wire.accounts import AccountPart, Command, Load, Outcome, WorkerAccount, WorkerRow
from aperture.wire.envelopes import Account, CommandReply, CommandRequest, Envelope, Hostile, Inquire
from aperture.worker.handover import Handover
from aperture.worker.session.session import Session
from aperture.worker.session.store import SessionStore

__all__ = ["CommandChannel", "NoCommandChannel", "Operations"]

log = logging.getLogger(__name__)

ACCOUNT_TIME = 0.8
"""Seconds that workers elsewhere have to answer: less than the second that the gateway waits for all of it."""

MAX_LETTER = 160 * 1024
"""Bytes of one envelope on this channel: a part of an account, which must fit a datagram to the gateway as well."""

COMMAND_TIME = 8.0
"""Seconds that a worker elsewhere has to end or move a session, app code and hooks among it."""


class Here(Protocol):
    """What other workers may ask of this one; its `Operations`."""

    def account(self, prefix: str) -> WorkerAccount: ...

    async def act(self, command: Command) -> Outcome: ...


class CommandChannel:
    """This worker's end of the channels between workers that carry what operators want.

    Args:
        bus: started or not; may be down at any time.
        me: this worker's name on it.
    """

    def __init__(self, bus: Bus, me: str) -> None:
        self.me = me
        self._bus = bus
        self._inquiries = Calls[Account]()
        self._commands = Calls[Outcome]()
        self._hostile = Hostile()
        self._tasks = BackgroundTasks("admin command failed")

    def start(self, here: Here) -> None:
        """Listen, as soon as Redis lets us, and have others answered by this."""
        self._tasks.start(listen(self._bus, self._bus.names.orders(self.me), partial(self._on_letter, here)))

    def stop(self) -> None:
        """Listen no more."""
        self._tasks.cancel()
        self._inquiries.close()
        self._commands.close()

    async def others(self, prefix: str) -> AsyncIterator[tuple[str, AccountPart | None]]:
        """The accounts of the workers of other nodes, in parts with the worker's name; None for who does not answer.

        Raises:
            BusDown: no other worker can be asked.
        """
        async with asyncio.timeout(ACCOUNT_TIME):
            workers = await self._elsewhere()
        with self._inquiries.open() as replies:
            sent = [self._tell(worker, Inquire(self.me, replies.number, prefix)) for worker in workers]
            await asyncio.gather(*sent)
            missing, deadline = set(workers), asyncio.get_running_loop().time() + ACCOUNT_TIME
            while missing:
                try:
                    async with asyncio.timeout_at(deadline):
                        account = await replies.next()
                except (CallFailed, TimeoutError):
                    break
                if (worker := account.part.worker.name) in missing:
                    yield worker, account.part
                    if account.last:
                        missing.discard(worker)
            for worker in sorted(missing):
                yield worker, None

    async def execute(self, worker: str, command: Command) -> Outcome:
        """Have another worker end or move a session."""

        async def send(call: int) -> int:
            request = CommandRequest(self.me, call, command)
            return await self._bus.publish(self._bus.names.orders(worker), request.pack())

        try:
            return await self._commands.call(send, COMMAND_TIME)
        except CallFailed:
            return Outcome(HTTPStatus.GATEWAY_TIMEOUT, "the session's worker does not answer")

    async def has_others(self) -> bool:
        """Whether another worker of the cluster lives. Raises BusDown."""
        return len(await living_workers(self._bus)) > 1

    async def _elsewhere(self) -> list[str]:
        mine = WorkerName.parse(self.me).node
        return [str(worker) for worker in await living_workers(self._bus) if worker.node != mine]

    def _on_letter(self, here: Here, payload: bytes) -> None:
        try:
            envelope = Envelope.unpack(payload, MAX_LETTER)
        except WireError as problem:
            self._hostile.count("orders", problem)
            return
        match envelope:
            case Inquire():
                self._tasks.start(self._give_account(here, envelope))
            case CommandRequest():
                self._tasks.start(self._obey(here, envelope))
            case Account(call=call):
                self._inquiries.answer(call, envelope)
            case CommandReply(call=call, outcome=outcome):
                status = outcome.status if 100 <= outcome.status < 600 else HTTPStatus.BAD_GATEWAY
                self._commands.answer(call, Outcome(status, outcome.text[:500]))
            case _:
                self._hostile.count("orders", WireError(f"a {type(envelope).__name__} does not belong there"))

    async def _give_account(self, here: Here, inquiry: Inquire) -> None:
        for part, last in here.account(inquiry.prefix).parts():
            await self._tell(inquiry.asker, Account(inquiry.call, part, last))

    async def _obey(self, here: Here, request: CommandRequest) -> None:
        await self._tell(request.asker, CommandReply(request.call, await here.act(request.command)))

    async def _tell(self, worker: str, envelope: Envelope) -> None:
        try:
            await self._bus.publish(self._bus.names.orders(worker), envelope.pack())
        except BusDown:
            log.debug("admin command not sent: the bus is down")


class NoCommandChannel:
    """In place of a `CommandChannel` where there is no Redis: this worker is the only one.

    Args:
        me: this worker's name.
    """

    def __init__(self, me: str) -> None:
        self.me = me

    def start(self, here: Here) -> None:
        """No-op."""

    def stop(self) -> None:
        """No-op."""

    async def others(self, prefix: str) -> AsyncIterator[tuple[str, AccountPart | None]]:
        """No other worker."""
        nothing: tuple[tuple[str, AccountPart | None], ...] = ()
        for account in nothing:
            yield account

    async def execute(self, worker: str, command: Command) -> Outcome:
        """Refuse."""
        return Outcome(HTTPStatus.NOT_FOUND, "there is no such worker")

    async def has_others(self) -> bool:
        """No."""
        return False


class Operations:
    """What operators can have of one worker.

    Args:
        store: its sessions.
        handover: ends and moves them.
        load: how busy this worker is.
        index: its place there.
        workers: how many places its node has.
        move_to: tells the gateway for whom a session is: the index of a worker, or None for any but this one.
        channel: the way to other workers.
    """

    def __init__(
        self,
        store: SessionStore,
        handover: Handover,
        *,
        load: Callable[[], Load],
        index: int,
        workers: int,
        move_to: Callable[[str, int | None], None],
        channel: CommandChannel | NoCommandChannel,
    ) -> None:
        self._store = store
        self._handover = handover
        self._load = load
        self._index = index
        self._workers = workers
        self._move_to = move_to
        self._channel = channel

    def start(self) -> None:
        """Listen for orders from elsewhere."""
        self._channel.start(self)

    def stop(self) -> None:
        """Listen no more."""
        self._channel.stop()

    def account(self, prefix: str) -> WorkerAccount:
        """What this worker says of itself, of sessions those whose id begins like this."""
        row = WorkerRow(self._channel.me, os.getpid(), self._load())
        sessions = [session.shown for session in self._store.describe() if session.id.startswith(prefix)]
        return WorkerAccount(row, sessions)

    def others(self, prefix: str) -> AsyncIterator[tuple[str, AccountPart | None]]:
        """See `CommandChannel.others`."""
        return self._channel.others(prefix)

    async def execute(self, worker: str, command: Command) -> Outcome:
        """Do what an operator wants, here or through another worker."""
        if not worker:
            return await self.act(command)
        return await self._channel.execute(worker, command)

    async def act(self, command: Command) -> Outcome:
        """End or move one session that is here. Never raises."""
        found = [
            session for session in self._store if session.id.startswith(command.prefix) and session.app == command.app
        ]
        if len(found) != 1:
            status = HTTPStatus.CONFLICT if found else HTTPStatus.NOT_FOUND
            return Outcome(status, f"{len(found)} sessions begin like this" if found else "the session is gone")
        try:
            if command.action == "end":
                return await self._end(found[0])
            return await self._move(found[0], command.to)
        except BusDown:
            return Outcome(HTTPStatus.SERVICE_UNAVAILABLE, "Redis is down; the session stays where it is")
        except Exception:
            log.exception("an operator's order for session %s has failed", short_id(found[0].id))
            return Outcome(HTTPStatus.INTERNAL_SERVER_ERROR, "it has failed; the log of the worker tells why")

    async def _end(self, session: Session) -> Outcome:
        log.info("session %s of %s is ended by an operator", short_id(session.id), session.app)
        await self._handover.end(session)
        return Outcome(HTTPStatus.OK, "the session has ended")

    async def _move(self, session: Session, to: int | None) -> Outcome:
        problem = await self._why_not_move(to)
        if problem is not None:
            return Outcome(HTTPStatus.CONFLICT, problem)
        if not await self._handover.move(session, lambda: self._move_to(session.id, to)):
            return Outcome(HTTPStatus.CONFLICT, "the session cannot be written down now; it stays where it is")
        log.info("session %s of %s is moved by an operator", short_id(session.id), session.app)
        where = "another worker" if to is None else f"worker {to}"
        return Outcome(HTTPStatus.OK, f"the session goes on in {where} as soon as a viewer comes back")

    async def _why_not_move(self, to: int | None) -> str | None:
        if not self._handover.enabled:
            return "without --durability nothing of a session outlives its worker: moving it would lose its state"
        if to is not None and to >= self._workers:
            return f"there is no worker {to} in that node, which has {self._workers}"
        if to == self._index:
            return f"the session is in worker {to} already"
        if self._workers == 1 and not await self._channel.has_others():
            return "there is no other worker"
        return None
