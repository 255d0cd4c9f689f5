"""The doctor's I/O: pages as a browser fetches them, and websockets as it opens them. Everything has a deadline."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
import ssl
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl, urljoin, urlsplit

from tornado.httpclient import HTTPClientError, HTTPRequest
from tornado.httputil import HTTPInputError
from tornado.iostream import StreamClosedError
from tornado.simple_httpclient import HTTPStreamClosedError, HTTPTimeoutError, SimpleAsyncHTTPClient
from tornado.websocket import WebSocketClientConnection, WebSocketError, websocket_connect

from aperture.client.refusals import closed_before_ack, refused, unreachable
from aperture.client.urls import websocket_url_for_server_url
from aperture.errors import CannotConnect, ClientError, NotAServer, ProtocolError, ServerGarbled, ServerSilent
from aperture.protocol import messages
from aperture.protocol.fragments import Assembler
from aperture.protocol.message_type import MessageType
from aperture.protocol.messages import Message
from aperture.protocol.naming import SESSION_ID_ARGUMENT, SUBPROTOCOL
from aperture.protocol.tokens import read_session_id

__all__ = ["Answer", "Unreachable", "Visitor", "Walk", "origin_of"]

MOST_BYTES = 64 * 1024 * 1024
"""The largest page or message that is read; a larger one fails its check."""

_TOKEN = re.compile(r'"token"\s*:\s*"([^"]+)"')
_EARLY = 'id="aperture-document"'
_ROOTS = re.compile(r'"roots"\s*:\s*(\{[^{}]*\})')


class Unreachable(Exception):
    """No answer; `reason` is `name`, `refused`, `network`, `certificate`, `not-tls`, `silent` or `cut`."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to one request."""

    url: str
    status: int
    headers: Mapping[str, str]
    text: str

    @property
    def token(self) -> str | None:
        """The token in a page, which only a page with a session has."""
        found = _TOKEN.search(self.text)
        return None if found is None else found.group(1)

    @property
    def session_id(self) -> str | None:
        """The session that a page shows."""
        return None if self.token is None else read_session_id(self.token)

    @property
    def early(self) -> bool:
        """Whether it is a page that was sent before its session was made (`--early-pages`)."""
        return _EARLY in self.text

    @property
    def location(self) -> str:
        """Where a redirect leads."""
        return urljoin(self.url, self.headers.get("Location", ""))

    @property
    def named_session(self) -> str | None:
        """The session whose URL this redirects to (`--session-urls`)."""
        if self.status != HTTPStatus.SEE_OTHER:
            return None
        return dict(parse_qsl(urlsplit(self.location).query)).get(SESSION_ID_ARGUMENT)

    @property
    def roots(self) -> frozenset[str]:
        """The ids of the models that the page shows."""
        found: set[str] = set()
        for part in _ROOTS.findall(self.text):
            with contextlib.suppress(ValueError):
                found.update(json.loads(part))
        return frozenset(found)


@dataclass(frozen=True, slots=True)
class Visitor:
    """Makes the requests and opens the websockets.

    Args:
        headers: sent with every request: cookies of a login, for example.
        timeout: seconds for any one answer.
        verify: whether certificates are checked.
    """

    headers: Mapping[str, str] = field(default_factory=dict)
    timeout: float = 10.0
    verify: bool = True

    async def get(self, url: str, more: Mapping[str, str] | None = None) -> Answer:
        """Fetch a page. Redirects are answers like others.

        Raises:
            Unreachable: there was no answer.
        """
        return await self._ask(self._request(url, headers={**self.headers, **(more or {})}))

    async def head(self, url: str, more: Mapping[str, str]) -> Answer:
        """Ask for the head of an answer.

        Raises:
            Unreachable: there was no answer.
        """
        return await self._ask(self._request(url, method="HEAD", headers={**self.headers, **more}))

    async def post(self, url: str, size: int) -> Answer:
        """Send a body of so many bytes, if the other side wants it: who refuses it says so before it is sent.

        Raises:
            Unreachable: there was no answer.
        """
        return await self._ask(
            self._request(url, method="POST", headers=self.headers, body=bytes(size), expect_100_continue=True)
        )

    def _request(self, url: str, **more: Any) -> HTTPRequest:
        return HTTPRequest(
            url,
            follow_redirects=False,
            connect_timeout=self.timeout,
            request_timeout=self.timeout,
            validate_cert=self.verify,
            **more,
        )

    async def _ask(self, request: HTTPRequest) -> Answer:
        client = SimpleAsyncHTTPClient(force_instance=True, max_body_size=MOST_BYTES)
        try:
            response = await client.fetch(request, raise_error=False)
        except Exception as failure:
            raise _unreachable(failure) from failure
        finally:
            client.close()
        if isinstance(response.error, HTTPClientError) and response.code == HTTP_NONE:
            raise _unreachable(response.error)
        if response.error is not None and not isinstance(response.error, HTTPClientError):
            raise _unreachable(response.error)
        text = (response.body or b"").decode("utf-8", "replace")
        return Answer(request.url, response.code, dict(response.headers.items()), text)

    async def page(self, url: str, more: Mapping[str, str] | None = None) -> Answer:
        """Fetch the page of an app; where each is redirected to the URL of a session (`--session-urls`), the one there.

        Raises:
            Unreachable: there was no answer.
        """
        answer = await self.get(url, more)
        if answer.named_session is None or origin_of(answer.location) != origin_of(url):
            return answer
        return await self.get(answer.location, more)

    @contextlib.asynccontextmanager
    async def walk(self, url: str, token: str, origin: str) -> AsyncIterator[Walk]:
        """Open an app's websocket as a page of this origin does, and wait for the server's first message.

        Raises:
            ClientError: the session cannot be opened; the class and the text say why.
        """
        connection = await self._handshake(url, token, origin)
        walk = Walk(connection, self.timeout)
        try:
            first = await walk.receive(before_ack=True)
            if first.msgtype != MessageType.ACK:
                raise ServerGarbled(f"the server's first message is {first.msgtype[:40]} and not ACK")
            yield walk
        finally:
            connection.close()
            with contextlib.suppress(Exception):
                connection.protocol._abort()  # type: ignore[union-attr]

    async def _handshake(self, url: str, token: str, origin: str) -> WebSocketClientConnection:
        websocket_url = websocket_url_for_server_url(url)
        request = HTTPRequest(
            websocket_url,
            headers={**self.headers, "Origin": origin},
            connect_timeout=self.timeout,
            request_timeout=self.timeout,
            validate_cert=self.verify,
        )
        try:
            return await websocket_connect(
                request, subprotocols=[SUBPROTOCOL, token], max_message_size=MOST_BYTES, ping_interval=0
            )
        except HTTPTimeoutError:
            raise ServerSilent(f"no answer to the handshake within {self.timeout:g} s") from None
        except HTTPStreamClosedError as failure:
            raise NotAServer(f"the connection was closed during the handshake ({failure})") from None
        except HTTPClientError as failure:
            location = failure.response.headers.get("Location") if failure.response is not None else None
            raise refused(failure.code, failure.message or "", location, websocket_url) from None
        except (OSError, StreamClosedError, WebSocketError, HTTPInputError, ValueError) as failure:
            raise unreachable(failure, websocket_url) from failure


HTTP_NONE = 599
"""Tornado's number for "there was no answer"."""


class Walk:
    """An open websocket."""

    def __init__(self, connection: WebSocketClientConnection, timeout: float) -> None:
        self._connection = connection
        self._timeout = timeout
        self._assembler = Assembler(MOST_BYTES)

    async def receive(self, *, before_ack: bool = False) -> Message:
        """The next message.

        Raises:
            ServerSilent: none came in time.
            ClientError: the connection ended, or the server broke the protocol.
        """
        try:
            async with asyncio.timeout(self._timeout):
                return await self._receive(before_ack)
        except TimeoutError:
            raise ServerSilent(f"the websocket is open, and the server sent nothing for {self._timeout:g} s") from None

    async def _receive(self, before_ack: bool) -> Message:
        while True:
            fragment = await self._connection.read_message()
            if fragment is None:
                code, reason = self._connection.close_code, self._connection.close_reason
                if before_ack:
                    raise closed_before_ack(code, reason)
                raise CannotConnect(f"the websocket was closed (code {code}, {reason or 'no reason'})")
            try:
                message = self._assembler.feed(fragment)
            except ProtocolError as failure:
                raise ServerGarbled(f"the server broke the protocol: {failure}") from None
            if message is not None:
                return message

    async def pull(self) -> frozenset[str]:
        """Pull the document. Returns the ids of its roots."""
        request = messages.pull_request()
        for fragment in request.fragments:
            binary = not isinstance(fragment, str)
            with contextlib.suppress(WebSocketError):
                await self._connection.write_message(bytes(fragment) if binary else fragment, binary=binary)  # type: ignore[arg-type]
        while True:
            message = await self.receive()
            if message.reqid == request.msgid:
                break
        if message.msgtype != MessageType.PULL_DOC_REPLY:
            raise ServerGarbled(f"asked for the document, the server sent {message.msgtype[:40]}")
        try:
            return frozenset(root["id"] for root in message.content["doc"]["roots"])
        except (KeyError, TypeError) as failure:
            raise ServerGarbled("the server's answer to a pull is not a document") from failure

    async def cut_within(self, seconds: float) -> float | None:
        """Send nothing for so many seconds. Returns after how many the connection was cut, or None if it was not."""
        loop = asyncio.get_running_loop()
        begun = loop.time()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while await self._connection.read_message() is not None:
                    pass
                return loop.time() - begun
        return None


def _unreachable(failure: BaseException) -> Unreachable:
    detail = str(failure) or type(failure).__name__
    if isinstance(failure, HTTPTimeoutError | TimeoutError):
        return Unreachable("silent", detail)
    if isinstance(failure, socket.gaierror):
        return Unreachable("name", detail)
    if isinstance(failure, ssl.SSLCertVerificationError):
        return Unreachable("certificate", failure.verify_message)
    if isinstance(failure, ssl.SSLError):
        return Unreachable("not-tls", detail)
    if isinstance(failure, ConnectionRefusedError):
        return Unreachable("refused", detail)
    if isinstance(failure, StreamClosedError | HTTPStreamClosedError | ConnectionError | ClientError):
        return Unreachable("cut", detail)
    if isinstance(failure, OSError):
        return Unreachable("network", detail)
    return Unreachable("cut", f"what answers does not speak HTTP ({detail})")


def origin_of(url: str) -> str:
    """The origin that a browser names in the requests of a page at this address."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
