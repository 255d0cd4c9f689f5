"""One websocket to a server, the client's only I/O: turns fragments into messages, and requests into fragments."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from typing import Any

from tornado.httpclient import HTTPClientError, HTTPRequest
from tornado.httputil import HTTPInputError
from tornado.iostream import StreamClosedError
from tornado.simple_httpclient import HTTPStreamClosedError, HTTPTimeoutError
from tornado.websocket import WebSocketClientConnection, WebSocketError, websocket_connect

from aperture.client.connect_options import ClientOptions
from aperture.client.refusals import closed, closed_before_ack, closed_by_us, hung_up, refused, unreachable
from aperture.errors import ClientError, MessageTooLarge, ProtocolError, ServerGarbled, ServerSilent
from aperture.inheritance import withhold
from aperture.protocol.closing import MESSAGE_TOO_BIG, NORMAL_CLOSURE
from aperture.protocol.fragments import Assembler
from aperture.protocol.message_type import MessageType
from aperture.protocol.messages import Message, Request
from aperture.protocol.naming import SUBPROTOCOL

__all__ = ["Link"]

log = logging.getLogger(__name__)

PING_SECONDS = 30.0
"""Seconds between two pings, and for the answer to one: only a missing pong shows that the server's machine is gone."""

CLOSE_SECONDS = 2.0
"""Seconds for the server's half of the closing handshake; then the connection is dropped."""

FRAMES_PER_MESSAGE = 16
"""A message may have this many times `max_message_size` over all its frames. As with Bokeh's client the option bounds
each frame, which holds the text or one array; this bounds the memory that a server can make the client use."""


_REASON_LIMIT = 120
"""Bytes; a control frame holds 125, two of which are the code (RFC 6455, section 5.5)."""


class Link:
    """One connection, open and acknowledged. Belongs to the loop on which it was opened."""

    def __init__(self, connection: WebSocketClientConnection, max_message_size: int) -> None:
        self._connection = connection
        self._max_message_size = max_message_size
        self._assembler = Assembler(max_message_size * FRAMES_PER_MESSAGE)
        self._ours: tuple[int | None, str | None] | None = None
        """The close code and reason of this side, if it closed first."""
        self.ended = False
        self.size = 0
        """The size of the last message, in bytes or characters."""
        self._reading = False
        self._finished = asyncio.Event()
        self._protocol: Any = connection.protocol
        self._watch(self._protocol)
        withhold(self)

    @classmethod
    async def open(cls, options: ClientOptions) -> Link:
        """Connect, and wait for the server's first message.

        Raises:
            CannotConnect: the session cannot be opened; the class and the text say why.
            ServerSilent: no answer in time.
            ServerGone: the server closed before its first message.
            ServerGarbled: its first message is not ACK.
        """
        link = await _connect(options)
        try:
            async with asyncio.timeout(options.timeout):
                first = await link.receive(before_ack=True)
            if first.msgtype != MessageType.ACK:
                raise ServerGarbled(f"the server's first message is {first.msgtype[:40]} and not ACK")
        except TimeoutError:
            link.abort("no ACK")
            text = f"{options.websocket_url} accepted the connection and sent nothing for {options.timeout:g} s"
            raise ServerSilent(text) from None
        except BaseException:
            link.abort("no session")
            raise
        return link

    async def receive(self, *, before_ack: bool = False) -> Message:
        """The next message.

        Raises:
            ServerGone: the connection has ended.
            MessageTooLarge: a message exceeds this side's limit, or the server's.
            ServerGarbled: the server broke the protocol. The connection is closed.
        """
        self.size = 0
        while True:
            fragment = await self._read()
            if fragment is None:
                raise self._ending(before_ack)
            self.size += len(fragment)
            try:
                message = self._assembler.feed(fragment)
            except ProtocolError as problem:
                self.abort(str(problem), problem.close_code)
                if problem.close_code == MESSAGE_TOO_BIG:
                    raise MessageTooLarge(f"the server sent too much: {problem} (max_message_size)") from None
                raise ServerGarbled(f"the server broke the protocol: {problem}", problem.close_code) from None
            if message is not None:
                return message

    async def _read(self) -> str | bytes | None:
        self._reading = True
        try:
            return await self._connection.read_message()
        finally:
            self._reading = False

    def send(self, request: Request) -> None:
        """Send a request. One that cannot be sent is dropped, because `receive` raises the end of the connection."""
        if self.ended:
            return
        for fragment in request.fragments:
            binary = not isinstance(fragment, str)
            with suppress(WebSocketError):
                writing = self._connection.write_message(bytes(fragment) if binary else fragment, binary=binary)  # type: ignore[arg-type]
                writing.add_done_callback(_forget_failure)

    async def close(self, why: str = "closed") -> None:
        """Send a close frame, and wait `CLOSE_SECONDS` at most for the server's. Idempotent."""
        if self.ended:
            self.abort(why)
            return
        self.ended = True
        self._connection.close(NORMAL_CLOSURE, why.encode("utf-8", "replace")[:_REASON_LIMIT].decode("utf-8", "ignore"))
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                if self._reading:
                    await self._finished.wait()  # `receive` reads; Tornado allows one reader only
                while not self._finished.is_set() and await self._connection.read_message() is not None:
                    pass
        self._finished.set()
        self._protocol._abort()

    def abort(self, why: str, code: int = NORMAL_CLOSURE) -> None:
        """Send a close frame and drop the connection at once, because the other side broke the protocol. Idempotent."""
        self.ended = True
        self._finished.set()
        self._connection.close(code, why.encode("utf-8", "replace")[:_REASON_LIMIT].decode("utf-8", "ignore"))
        self._protocol._abort()

    def descriptors(self) -> Iterable[int]:
        """The connection's descriptor, which is closed in forked children."""
        stream = self._protocol.stream
        if not stream.closed():
            yield stream.socket.fileno()

    def _ending(self, before_ack: bool) -> ClientError:
        self.ended = True
        self._finished.set()
        code, reason = self._connection.close_code, self._connection.close_reason
        self._connection.close()
        if self._ours is not None and code is None:
            return closed_by_us(*self._ours, self._max_message_size)
        return closed_before_ack(code, reason) if before_ack else closed(code, reason)

    def _watch(self, protocol: Any) -> None:
        """Record the code with which Tornado closes the connection, which it exposes nowhere."""
        protocol.set_nodelay(True)
        close, abort = protocol.close, protocol._abort

        def noted(code: int | None = None, reason: str | None = None) -> None:
            if self._ours is None and not protocol.client_terminated and not self.ended:
                self._ours = (code, reason)
            close(code, reason)

        def noted_abort() -> None:
            if self._ours is None and not protocol.stream.closed() and not self.ended:
                self._ours = (None, "a frame that is none")
            abort()

        protocol.close, protocol._abort = noted, noted_abort


async def _connect(options: ClientOptions) -> Link:
    url = options.websocket_url
    request = HTTPRequest(
        options.request_url,
        headers=options.request_headers(),
        connect_timeout=options.connect_timeout,
        request_timeout=options.connect_timeout,
    )
    connecting: Any = websocket_connect(
        request,
        subprotocols=[SUBPROTOCOL, options.token()],
        max_message_size=options.max_message_size,
        ping_interval=PING_SECONDS,
        ping_timeout=PING_SECONDS,
    )
    links: list[Link] = []

    def connected(connecting: Any) -> None:
        if not connecting.cancelled() and connecting.exception() is None:
            links.append(Link(connecting.result(), options.max_message_size))

    # In a callback of the future, not after `await`: frames that came with the handshake are read before a waiting
    # coroutine resumes, and the link must watch the protocol by then.
    connecting.add_done_callback(connected)
    try:
        await asyncio.shield(connecting)
        return links[0]
    except asyncio.CancelledError:
        connecting.add_done_callback(partial(_close_late, links))
        raise
    except HTTPTimeoutError:
        text = f"no answer from {url} within {options.connect_timeout:g} s (connect_timeout)"
        raise ServerSilent(text) from None
    except HTTPStreamClosedError as problem:
        raise hung_up(str(problem), url) from None
    except HTTPClientError as problem:
        location = problem.response.headers.get("Location") if problem.response is not None else None
        raise refused(problem.code, problem.message or "", location, url) from None
    except (OSError, StreamClosedError, WebSocketError, HTTPInputError, ValueError) as problem:
        raise unreachable(problem, url) from problem


def _close_late(links: list[Link], _: Any) -> None:
    """Drop a connection that Tornado has opened after its caller was cancelled."""
    for link in links:
        link.abort("too late")


def _forget_failure(writing: Any) -> None:
    """Fetch the error of a failed write, so that it is not logged: the end of the connection reports it."""
    if not writing.cancelled():
        writing.exception()
