"""One websocket to a server: the client's only I/O. Fragments in and messages out, requests in and fragments out."""

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
"""Between two pings, and until one must be answered: a server whose machine is gone says nothing at all."""

CLOSE_SECONDS = 2.0
"""For the server's half of the closing handshake; after it nobody waits any more."""

FRAMES_PER_MESSAGE = 16
"""How many times `max_message_size` a message may have over all its frames. As with Bokeh's client the option bounds
each frame, which holds the text or one array; what a server can make this side hold must end somewhere all the same."""


_REASON_LIMIT = 120
"""Bytes; a control frame holds 125, two of which are the code (RFC 6455, section 5.5)."""


class Link:
    """One connection, open and acknowledged. Belongs to the loop it was opened on."""

    def __init__(self, connection: WebSocketClientConnection, max_message_size: int) -> None:
        self._connection = connection
        self._max_message_size = max_message_size
        self._assembler = Assembler(max_message_size * FRAMES_PER_MESSAGE)
        self._ours: tuple[int | None, str | None] | None = None
        """What this side said as it closed."""
        self.ended = False
        self.size = 0
        """Of the last message, in bytes or characters."""
        self._reading = False
        self._finished = asyncio.Event()
        self._protocol: Any = connection.protocol
        self._watch(self._protocol)
        withhold(self)

    @classmethod
    async def open(cls, options: ClientOptions) -> Link:
        """Connect, and wait for the server's first message.

        Raises:
            CannotConnect: there is no session to be had there; the class and the text say why.
            ServerSilent: no answer in time.
            ServerGone: the server closed before its first message.
            ServerGarbled: its first message is not what a server says first.
        """
        link = await _connect(options)
        try:
            async with asyncio.timeout(options.timeout):
                first = await link.receive(before_ack=True)
            if first.msgtype != MessageType.ACK:
                raise ServerGarbled(f"the server's first message is {first.msgtype[:40]} and not ACK")
        except TimeoutError:
            link.abort("no ACK")
            text = f"{options.websocket_url} accepted the connection and said nothing for {options.timeout:g} s"
            raise ServerSilent(text) from None
        except BaseException:
            link.abort("no session")
            raise
        return link

    async def receive(self, *, before_ack: bool = False) -> Message:
        """The next message.

        Raises:
            ServerGone: the connection has ended.
            MessageTooLarge: of this side's limit, or the server's.
            ServerGarbled: what came is no message. The connection is closed.
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
        """Put a request on the wire. One that cannot be sent any more is forgotten: the end is told by `receive`."""
        if self.ended:
            return
        for fragment in request.fragments:
            binary = not isinstance(fragment, str)
            with suppress(WebSocketError):
                writing = self._connection.write_message(bytes(fragment) if binary else fragment, binary=binary)  # type: ignore[arg-type]
                writing.add_done_callback(_forget_failure)

    async def close(self, why: str = "closed") -> None:
        """Say goodbye, and wait a moment until the server has, too. Harmless twice."""
        if self.ended:
            self.abort(why)
            return
        self.ended = True
        self._connection.close(NORMAL_CLOSURE, why.encode("utf-8", "replace")[:_REASON_LIMIT].decode("utf-8", "ignore"))
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                if self._reading:
                    await self._finished.wait()  # whoever reads is told
                while not self._finished.is_set() and await self._connection.read_message() is not None:
                    pass
        self._finished.set()
        self._protocol._abort()

    def abort(self, why: str, code: int = NORMAL_CLOSURE) -> None:
        """Say goodbye and wait for nothing: the other side does not keep to the rules. Harmless twice."""
        self.ended = True
        self._finished.set()
        self._connection.close(code, why.encode("utf-8", "replace")[:_REASON_LIMIT].decode("utf-8", "ignore"))
        self._protocol._abort()

    def descriptors(self) -> Iterable[int]:
        """The connection's, which no forked child shares."""
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
        """Note what Tornado closes the connection for; it keeps that to itself."""
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

    # At once: what came with the handshake is read before whoever awaits it goes on.
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
    """Tornado went on connecting, though nobody waits for it any more."""
    for link in links:
        link.abort("too late")


def _forget_failure(writing: Any) -> None:
    """A write that failed says nothing that the end of the connection does not."""
    if not writing.cancelled():
        writing.exception()
