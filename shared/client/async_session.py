"""The client for code with an event loop: plain asyncio, uvloop, Tornado's, a notebook's.

Everything runs on that loop: patches are applied between two of the program's steps, changes that the program makes
in one step are sent together at its end, and the document's timed callbacks run in between. The document belongs to the
loop's thread; from another one, use `add_next_tick_callback`.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any

from bokeh.document import Document

from aperture.client.connect_options import (
    CONNECT_TIMEOUT,
    MAX_MESSAGE_SIZE,
    TIMEOUT,
    ClientOptions,
    delays_of,
    key_bytes,
    session_id_or_new,
)
from aperture.client.loop_timers import LoopTimers
from aperture.client.mirror import Change, Mirror
from aperture.client.refusals import given_up
from aperture.client.sync_protocol import Answer, Exchange, Phase
from aperture.client.urls import app_url, websocket_url_for_server_url
from aperture.client.waits import Waits
from aperture.client.websocket import Link
from aperture.document import current, ids
from aperture.errors import ClientError, NotLocked, ServerGone, SessionClosed
from aperture.protocol.messages import Request

__all__ = ["AsyncSession", "connect"]

log = logging.getLogger(__name__)

STEADY_SECONDS = 10.0
"""After so long with equal documents a connection counts as good, and the attempts to reconnect start over."""


class AsyncSession:
    """A session on a running event loop. Made by `connect`.

    Args:
        options: the server, the session and the limits.
        document: to be pushed; without one the server's is pulled.
    """

    def __init__(self, options: ClientOptions, document: Document | None = None) -> None:
        ids.install()
        current.install()
        self._options = options
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._timers = LoopTimers(options.session_id[:8])
        self._waits = Waits(options.timeout)
        self._mirror = Mirror(Document() if document is None else document, self._changed, self._timers.agenda)
        self._exchange = Exchange(self._mirror, self._send, self._wake, options.max_message_size)
        self._pushes = document is not None
        self._link: Link | None = None
        self._running: asyncio.Task[None] | None = None
        self._flush_due = False
        self._closing = False
        self._failure: ClientError | None = None
        self._reported = False

    # What it is

    @property
    def document(self) -> Document:
        """The copy of the session's document; the same object for as long as the session lasts."""
        return self._mirror.document

    @property
    def id(self) -> str:
        return self._options.session_id

    @property
    def token(self) -> str:
        """A fresh token that a page can open the session with."""
        return self._options.token()

    @property
    def url(self) -> str:
        """Of the websocket."""
        return self._options.websocket_url

    @property
    def connected(self) -> bool:
        """Whether there is a connection now, and the document equals the server's but for changes in flight."""
        return self._link is not None and not self._link.ended and self._exchange.phase is Phase.SHARED

    # What it does

    async def pull(self) -> None:
        """Replace the content of the document by the server's. Models that are in both stay the same objects.

        Raises:
            ClientError: the server did not send it.
        """
        await self._request(self._exchange.pull)

    async def push(self) -> None:
        """Replace the content of the server's document by this one's.

        Raises:
            ClientError: the server did not accept it.
        """
        await self._request(self._exchange.push)

    async def request_server_info(self) -> dict[str, Any]:
        """The versions of the server and of its Bokeh."""
        answer = await self._request(self._exchange.ask_server_info)
        content: dict[str, Any] = answer.result().content
        return content

    async def force_roundtrip(self) -> None:
        """Wait until the server has answered every local change.

        Raises:
            RequestFailed: it answered one of the changes with an error.
            MessageTooLarge: one of the changes is larger than its limit.
            ClientError: it did not answer.
        """
        await self._settle()
        await self._request(self._exchange.ask_server_info)
        self._raise_change_failure()

    @contextmanager
    def batch(self) -> Iterator[None]:
        """Send the changes of this block as one patch, also over its awaits."""
        with self._exchange.batch():
            yield

    async def wait_closed(self) -> None:
        """Wait until the session is over.

        Raises:
            ClientError: why, unless `close` was called.
        """
        while not self._closing and self._failure is None:
            await self._waits.next_event()
        self._raise_failure()

    async def close(self, why: str = "closed") -> None:
        """Leave the session; the document stays as it is. Idempotent.

        Waiting changes are sent first, if there is a connection, within `timeout`. Unsent ones are logged.
        """
        if self._closing:
            return
        self._closing = True
        try:
            await self._send_the_rest()
            if self._link is not None:
                await self._link.close(why)
        finally:
            await self._leave()

    async def _send_the_rest(self) -> None:
        self._exchange.last_call()
        with suppress(TimeoutError):
            async with asyncio.timeout(self._options.timeout):
                while self._exchange.unsent and self._link is not None and not self._link.ended:
                    await self._waits.next_event()
        if self._exchange.unsent:
            log.warning("the last %d changes of session %s... were not sent", self._exchange.unsent, self.id[:8])

    async def _leave(self) -> None:
        if self._link is not None:
            self._link.abort("closed")
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
        self._exchange.cut_off(SessionClosed("the session has been closed"))
        self._end()

    # The connection

    async def open(self) -> None:
        """Connect, and pull or push the document. `connect` calls it.

        Raises:
            ClientError: the session cannot be opened; the class says why.
        """
        self._link = await Link.open(self._options)
        self._running = self._loop.create_task(self._run(self._link))
        self._running.add_done_callback(self._ran)
        try:
            await (self.push() if self._pushes else self.pull())
        except BaseException:
            if self._link is not None:
                self._link.abort("no document")
            await self.close("no document")
            raise

    async def _run(self, link: Link) -> None:
        """Read one connection after the other, until no attempt to reconnect succeeds."""
        delays = iter(self._options.delays)
        while True:
            problem, was_steady = await self._read(link)
            if was_steady:
                delays = iter(self._options.delays)
            self._link = None
            self._exchange.cut_off(problem)
            self._waits.suspend()
            if self._closing:
                return
            again = await self._reopen(delays, problem)
            if isinstance(again, ClientError):
                self._fail(again)
                return
            self._link = link = again
            self._resume(link)

    async def _read(self, link: Link) -> tuple[ClientError, bool]:
        """Process messages until the connection ends. Returns why it ended, and whether the connection was good."""
        shared_since: float | None = None
        answered = self._exchange.patches_answered
        try:
            while True:
                self._exchange.receive(await link.receive())
                if shared_since is None and self._exchange.phase is Phase.SHARED:
                    shared_since = self._loop.time()
                self._waits.happened()
        except ClientError as problem:
            link.abort(str(problem))
            lasted = 0 if shared_since is None else self._loop.time() - shared_since
            return problem, lasted >= STEADY_SECONDS or self._exchange.patches_answered > answered

    async def _reopen(self, delays: Iterator[float], problem: ClientError) -> Link | ClientError:
        for delay in delays:
            log.info("connection lost: session %s..., %s, next attempt in %g s", self.id[:8], problem, delay)
            await asyncio.sleep(delay)
            try:
                return await Link.open(self._options)
            except ClientError as refusal:
                problem = refusal
        return given_up(problem) if self._options.delays else problem

    def _resume(self, link: Link) -> None:
        overdue = self._loop.call_later(self._options.timeout, link.abort, "no answer")

        def answered() -> None:
            overdue.cancel()
            if not link.ended:
                self._waits.restart()

        try:
            self._exchange.resume().when_done = answered
        except ClientError as problem:
            link.abort(str(problem))

    def _ran(self, running: asyncio.Task[None]) -> None:
        """End the session if the reader has failed: without a reader no request would ever be answered."""
        problem = None if running.cancelled() else running.exception()
        if problem is None:
            return
        log.error("client failed: session %s... ends", self.id[:8], exc_info=problem)
        if self._link is not None:
            self._link.abort("internal error")
            self._link = None
        failure = ClientError(f"the session ended by an error of the client itself: {problem!r}")
        failure.__cause__ = problem
        self._fail(failure)

    def _fail(self, problem: ClientError) -> None:
        self._failure = problem
        self._exchange.cut_off(problem)
        self._end()

    def _end(self) -> None:
        self._exchange.close()
        self._timers.close()
        self._waits.happened()

    # Waiting

    async def _request(self, ask: Callable[[], Answer]) -> Answer:
        """Send a request and wait for its answer; retry it on a new connection, because these are idempotent."""
        while True:
            async with self._waits.bounded("the server did not answer"):
                await self._until(lambda: self._link is not None and self._exchange.phase is not Phase.CUT_OFF)
                answer = ask()
                while not answer.done:
                    await self._waits.next_event()
            try:
                answer.result()
                return answer
            except ServerGone:
                if self._closing or not self._options.delays:
                    self._raise_failure()
                    raise

    async def _settle(self) -> None:
        async with self._waits.bounded("the server did not answer all changes"):
            await self._until(lambda: self._exchange.settled)

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._raise_failure()
            if self._closing:
                raise SessionClosed("the session has been closed")
            await self._waits.next_event()

    def _raise_change_failure(self) -> None:
        failure = self._exchange.take_failure()
        if failure is not None:
            raise failure

    def _raise_failure(self) -> None:
        if self._failure is not None:
            self._reported = True
            raise self._failure

    # What the document does

    def _changed(self, change: Change) -> None:
        if threading.get_ident() != self._thread:
            with suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._exchange.diverged)
            raise NotLocked("the document changed on another thread than its loop's; use add_next_tick_callback")
        self._exchange.changed(change)

    def _wake(self) -> None:
        if not self._flush_due:
            self._flush_due = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_due = False
        self._exchange.flush()

    def _send(self, request: Request) -> None:
        if self._link is not None:
            self._link.send(request)

    # The block

    async def __aenter__(self) -> AsyncSession:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None and not self._closing and not self._reported:
                await self._settle()
                self._raise_change_failure()
        finally:
            await self.close()


class connect:  # noqa: N801  # used like a function, as in `async with connect(...)`
    """Open a session on the running event loop: `async with connect(url) as session:`, or `await connect(url)`.

    Leaving the block waits until the server has answered all changes, and closes the session. If the session was lost
    meanwhile and no call has raised that, leaving the block does.

    Args:
        url: of the app, or `"default"` for a local server's root.
        session_id: of an existing session, or of one to create; None for a new id.
        arguments: for the app's code, if the session is new.
        headers: to be sent with the handshake.
        cookies: to be sent with the handshake, by name.
        secret_key: signs the token; the default is `BOKEH_SECRET_KEY`, if it is set.
        document: to be pushed; without one the session's is pulled.
        max_message_size: bytes of one message, in either direction.
        connect_timeout: seconds until the websocket is open.
        timeout: seconds for any other answer; the first one waits for the app's code.
        reconnect: whether to reconnect when the connection is lost, or the seconds before each attempt.

    Raises:
        ClientError: the session cannot be opened; the class and the text say why.
    """

    def __init__(
        self,
        url: str = "default",
        *,
        session_id: str | None = None,
        arguments: Mapping[str, str | Iterable[str]] | None = None,
        headers: Mapping[str, str] | None = None,
        cookies: Mapping[str, str] | None = None,
        secret_key: str | bytes | None = None,
        document: Document | None = None,
        max_message_size: int = MAX_MESSAGE_SIZE,
        connect_timeout: float = CONNECT_TIMEOUT,
        timeout: float = TIMEOUT,
        reconnect: bool | Iterable[float] = True,
    ) -> None:
        key = key_bytes(secret_key)
        self._document = document
        self._options = ClientOptions(
            websocket_url=websocket_url_for_server_url(app_url(url)),
            session_id=session_id_or_new(session_id, key),
            arguments=dict(arguments or {}),
            headers=dict(headers or {}),
            cookies=dict(cookies or {}),
            secret_key=key,
            max_message_size=max_message_size,
            connect_timeout=connect_timeout,
            timeout=timeout,
            delays=delays_of(reconnect),
        )
        self._session: AsyncSession | None = None

    async def _open(self) -> AsyncSession:
        session = AsyncSession(self._options, self._document)
        await session.open()
        return session

    def __await__(self) -> Generator[Any, None, AsyncSession]:
        return self._open().__await__()

    async def __aenter__(self) -> AsyncSession:
        self._session = await self._open()
        return self._session

    async def __aexit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is None:
            raise AssertionError("left before it was entered")
        await self._session.__aexit__(kind, problem, trace)
