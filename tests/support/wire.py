"""A small websocket client that speaks Bokeh's messages and keeps every frame, for tests that look at the wire.

It is written from the protocol, not from either implementation: what a server sends must be a header, a metadata and a
content frame in this order, then a header and a binary frame for each buffer. A viewer that has pulled keeps a real
Bokeh `Document` and applies each patch to it, so that a patch that cannot be applied fails the test.
"""

from __future__ import annotations

import asyncio
import json
import re
import ssl
import uuid
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Self

from bokeh.core.serialization import Buffer, Serialized
from bokeh.core.types import ID
from bokeh.document import Document
from support.fetch import fetch
from support.patience import seconds
from tornado.httpclient import HTTPRequest
from tornado.websocket import WebSocketClientConnection, websocket_connect

__all__ = ["ConnectionEnded", "Viewer", "WireMessage", "objects_named", "page_token", "token_of"]


MAX_FRAME = 1024 * 1024 * 1024
"""Bytes; Tornado's own bound is smaller than documents may be, and a browser has none."""


class ConnectionEnded(Exception):
    """The server closed the connection while a message was awaited; `code` is its close code, if it gave one."""

    def __init__(self, code: int | None, reason: str | None) -> None:
        super().__init__(f"closed with {code}: {reason}")
        self.code = code
        self.reason = reason


@dataclass(frozen=True, slots=True)
class WireMessage:
    """One protocol message as it arrived, decoded and raw."""

    header: dict[str, Any]
    metadata: dict[str, Any]
    content: dict[str, Any]
    buffers: tuple[tuple[str, bytes], ...]
    frames: tuple[str | bytes, ...]

    @property
    def msgtype(self) -> str:
        kind: str = self.header["msgtype"]
        return kind

    @property
    def events(self) -> list[dict[str, Any]]:
        events: list[dict[str, Any]] = self.content["events"]
        return events

    def serialized(self, content: Any) -> Serialized[Any]:
        """Part of the content, with the buffers that it refers to."""
        return Serialized(content=content, buffers=[Buffer(ID(name), octets) for name, octets in self.buffers])


def token_of(page: str) -> str:
    """The token in a page, or in what `autoload.js` answers."""
    found = re.search(r'"token"\s*:\s*"([^"]+)"', page)
    assert found, f"no token in this page:\n{page[:2000]}"
    return found.group(1)


def page_token(url: str, headers: Mapping[str, str] | None = None, trust: ssl.SSLContext | None = None) -> str:
    """Load an app's page as a browser does, and return the token in it."""
    answer = fetch(url, headers=headers, trust=trust)
    assert answer.status == 200, f"{url} answered {answer.status}: {answer.text[:500]}"
    return token_of(answer.text)


def objects_named(found: Any, name: str) -> list[dict[str, Any]]:
    """Every model of a type in a document as JSON."""
    if isinstance(found, list):
        return [one for part in found for one in objects_named(part, name)]
    if not isinstance(found, dict):
        return []
    mine = [found] if found.get("type") == "object" and found.get("name", "").endswith(name) else []
    return mine + objects_named(list(found.values()), name)


class Viewer:
    """One websocket of one session. Open it with `Viewer.open(...)`; not safe for two tasks at once."""

    def __init__(self, connection: WebSocketClientConnection) -> None:
        self._connection = connection
        self._ended = False
        self.received: list[WireMessage] = []
        """Every message so far, oldest first."""
        self.document: Document | None = None
        """A copy of the session's document, from the first pull on."""

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        url: str,
        token: str | None,
        headers: Mapping[str, str] | None = None,
        *,
        ack: bool = True,
        subprotocols: Iterable[str] | None = None,
        trust: ssl.SSLContext | None = None,
    ) -> AsyncIterator[Self]:
        """Connect, and wait for the server's ACK unless asked not to.

        Raises:
            tornado.httpclient.HTTPClientError: the server refused the handshake.
            ConnectionEnded: the server accepted the handshake and then closed.
        """
        offered = list(subprotocols) if subprotocols is not None else ["bokeh", *([token] if token else [])]
        request = HTTPRequest(url, headers=dict(headers or {}), connect_timeout=seconds(20), ssl_options=trust)
        connection = await websocket_connect(request, subprotocols=offered or None, max_message_size=MAX_FRAME)
        viewer = cls(connection)
        try:
            if ack:
                message = await viewer.next_message()
                assert message.msgtype == "ACK", message
                connection.protocol.set_nodelay(True)  # type: ignore[union-attr]
            yield viewer
        finally:
            await viewer.close()

    async def close(self) -> None:
        """Close the socket, and wait until the server has closed too."""
        self._connection.close()
        while not self._ended:
            self._ended = await self._connection.read_message() is None

    @property
    def close_code(self) -> int | None:
        return self._connection.close_code

    async def wait_closed(self) -> int | None:
        """Read until the server closes, and return its close code."""
        try:
            while True:
                await self.next_message()
        except ConnectionEnded as ended:
            return ended.code

    async def wait_for_pings(self, count: int) -> None:
        """Wait until the server has sent so many pings, and nothing else.

        Raises:
            ConnectionEnded: it was closed before.
        """
        arrived = asyncio.Semaphore(0)
        self._connection.on_ping = lambda data: arrived.release()  # type: ignore[method-assign]
        reading = asyncio.ensure_future(self._frame())
        for _ in range(count):
            ping = asyncio.ensure_future(arrived.acquire())
            await asyncio.wait([ping, reading], return_when=asyncio.FIRST_COMPLETED)
            if reading.done():
                ping.cancel()
                raise AssertionError(f"the server sent {reading.result()!r}")
        reading.cancel()

    # -- receiving

    async def next_message(self) -> WireMessage:
        """The next message; a patch is applied to the document, if there is one.

        Raises:
            ConnectionEnded: there is none any more.
        """
        header = await self._text()
        fields = json.loads(header)
        frames: list[str | bytes] = [header, await self._text(), await self._text()]
        buffers = []
        for _ in range(fields.get("num_buffers", 0)):
            frames += [await self._text(), await self._binary()]
            buffers.append((json.loads(frames[-2])["id"], bytes(frames[-1])))  # type: ignore[arg-type]
        message = WireMessage(fields, json.loads(frames[1]), json.loads(frames[2]), tuple(buffers), tuple(frames))
        self.received.append(message)
        if message.msgtype == "PATCH-DOC" and self.document is not None:
            self.document.apply_json_patch(message.serialized(message.content))
        return message

    async def wait_for(self, msgtype: str, reqid: str | None = None) -> WireMessage:
        """Read on until a message of this type, and to this request if one is given."""
        while True:
            message = await self.next_message()
            if message.msgtype == msgtype and (reqid is None or message.header.get("reqid") == reqid):
                return message

    async def wait_for_value(self, name: str, attr: str, value: object) -> None:
        """Read on until a model of the document has this value."""
        while self.value(name, attr) != value:
            await self.next_message()

    async def _text(self) -> str:
        frame = await self._frame()
        assert isinstance(frame, str), f"a binary frame where a text frame belongs: {frame[:50]!r}"
        return frame

    async def _binary(self) -> bytes:
        frame = await self._frame()
        assert isinstance(frame, bytes), f"a text frame where a buffer belongs: {frame[:50]!r}"
        return frame

    async def _frame(self) -> str | bytes:
        frame = await self._connection.read_message()
        if frame is None:
            self._ended = True
            raise ConnectionEnded(self._connection.close_code, self._connection.close_reason)
        return frame

    # -- sending

    async def send(self, msgtype: str, content: Any, buffers: Iterable[tuple[str, bytes]] = ()) -> str:
        """Send one message and return its msgid."""
        msgid = uuid.uuid4().hex.upper()
        buffers = list(buffers)
        header: dict[str, Any] = {"msgid": msgid, "msgtype": msgtype}
        if buffers:
            header["num_buffers"] = len(buffers)
        for part in (header, {}, content):
            await self.send_frame(json.dumps(part))
        for name, octets in buffers:
            await self.send_frame(json.dumps({"id": name}))
            await self.send_frame(octets)
        return msgid

    async def send_frame(self, frame: str | bytes) -> None:
        """Send one raw frame: text for a str, binary for bytes."""
        await self._connection.write_message(frame, binary=isinstance(frame, bytes))

    async def send_patch(self, events: list[dict[str, Any]], buffers: Iterable[tuple[str, bytes]] = ()) -> str:
        """Send a PATCH-DOC without waiting for its answer, and return its msgid."""
        return await self.send("PATCH-DOC", {"events": events}, buffers)

    async def request(self, msgtype: str, content: Any) -> WireMessage:
        """Send one message and return the answer to it, be it OK, ERROR or a reply."""
        msgid = await self.send(msgtype, content)
        while True:
            message = await self.next_message()
            if message.header.get("reqid") == msgid:
                return message

    async def patch(self, events: list[dict[str, Any]]) -> WireMessage:
        """Send a PATCH-DOC and return the answer to it, OK or ERROR."""
        return await self.request("PATCH-DOC", {"events": events})

    async def pull(self) -> Document:
        """Pull the document; from now on patches are applied to it."""
        reply = await self.request("PULL-DOC-REQ", {})
        assert reply.msgtype == "PULL-DOC-REPLY", reply.content
        self.document = Document.from_json(reply.serialized(reply.content["doc"]))
        return self.document

    async def set(self, name: str, attr: str, value: object) -> WireMessage:
        """Change one attribute of a named model as a browser would, and return the answer to it."""
        model = self.model(name)
        return await self.patch([{"kind": "ModelChanged", "model": {"id": model.id}, "attr": attr, "new": value}])

    # -- the document

    def model(self, name: str) -> Any:
        """The model of that name in this viewer's document."""
        assert self.document is not None, "pull first"
        model = self.document.get_model_by_name(name)
        assert model is not None, f"no model is named {name!r}"
        return model

    def value(self, name: str, attr: str) -> Any:
        """An attribute of a named model in this viewer's document."""
        return getattr(self.model(name), attr)
