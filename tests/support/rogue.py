"""Servers that a client should not trust: they accept and do one wrong thing."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

__all__ = [
    "ACK",
    "GOODBYE",
    "Conversation",
    "answer",
    "document_of",
    "requests",
    "rogue_server",
    "text_frame",
    "websocket",
]

Conversation = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

_TEXT, _CLOSE = 1, 8
"""Kinds of frames (RFC 6455, section 5.2)."""

GOODBYE = b"\x88\x02\x03\xe8"
"""A whole close frame, with the code 1000."""

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


@asynccontextmanager
async def rogue_server(converse: Conversation) -> AsyncIterator[str]:
    """Serve every connection so; yields an app's URL. The connection stays open until the client closes it."""

    serving: set[asyncio.Task[None] | None] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.add(asyncio.current_task())
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            await converse(reader, writer)
            await writer.drain()
            while await reader.read(65536):
                pass
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/app"
    finally:
        server.close()
        await asyncio.gather(*(task for task in serving if task is not None))
        await asyncio.gather(*(task for task in serving if task is not None))


async def websocket(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer the handshake as a server of Bokeh's would (RFC 6455, section 4.2.2)."""
    head = await reader.readuntil(b"\r\n\r\n")
    (key,) = [
        line.split(b":")[1].strip() for line in head.split(b"\r\n") if line.lower().startswith(b"sec-websocket-key")
    ]
    accepted = base64.b64encode(hashlib.sha1(key + _GUID).digest())
    writer.write(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + accepted + b"\r\nSec-WebSocket-Protocol: bokeh\r\n\r\n"
    )


def text_frame(text: str) -> bytes:
    """A whole unmasked text frame."""
    payload = text.encode()
    size = len(payload)
    head = bytes([0x81, size]) if size < 126 else bytes([0x81, 126]) + size.to_bytes(2, "big")
    return head + payload


ACK = text_frame('{"msgid":"1","msgtype":"ACK"}') + text_frame("{}") * 2


async def requests(reader: asyncio.StreamReader) -> AsyncIterator[tuple[str, str]]:
    """The type and the id of each request of a client, as it comes, until the client says goodbye."""
    while True:
        head = await reader.readexactly(2)
        size = head[1] & 0x7F
        if size > 125:
            size = int.from_bytes(await reader.readexactly(2 if size == 126 else 8), "big")
        mask = await reader.readexactly(4)
        payload = bytes(octet ^ mask[place % 4] for place, octet in enumerate(await reader.readexactly(size)))
        if head[0] & 0x0F == _CLOSE:
            return
        if head[0] & 0x0F == _TEXT and payload.startswith(b'{"msgid"'):
            header = json.loads(payload)
            yield header["msgtype"], header["msgid"]


def answer(msgtype: str, request: str, content: str = "{}") -> bytes:
    """The frames of an answer."""
    header = f'{{"msgid":"2","msgtype":"{msgtype}","reqid":"{request}"}}'
    return text_frame(header) + text_frame("{}") + text_frame(content)


def document_of(*roots: str) -> str:
    """The content of the answer to a pull: these roots, as JSON."""
    config = '{"type":"object","name":"DocumentConfig","id":"c"}'
    return f'{{"doc":{{"title":"t","config":{config},"roots":[{",".join(roots)}]}}}}'
