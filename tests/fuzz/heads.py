"""Heads of requests: the gateway reads them for routing, and a worker's Tornado reads the same bytes again.

Where both accept and read differently, a request could be routed as one thing and answered as another. h11 stands for
the proxies in front: what it takes for something else than we do would be smuggled through them.
"""

from __future__ import annotations

import re
from typing import Any, cast
from urllib.parse import quote

import h11
from fuzz.target import Target
from tornado.http1connection import HTTP1Connection
from tornado.httputil import HTTPHeaders, HTTPInputError, RequestStartLine, parse_request_start_line

from aperture.gateway.front.head import Head, HeadParser, Rejected
from aperture.protocol.naming import session_named
from aperture.protocol.tokens import Tokens

LIMIT = 2000

TOKEN = Tokens(None, False, 300).issue("aus-dem-token", now=2_000_000_000)

SEEDS = [
    b"GET / HTTP/1.1\r\nHost: h\r\n\r\n",
    b"GET /app?bokeh-session-id=eine&x=1 HTTP/1.1\r\nHost: h:5006\r\nCookie: a=1; b=2\r\nAccept: */*\r\n\r\n",
    b"GET /app/ws HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: bokeh, " + TOKEN.encode() + b"\r\n\r\n",
    b"POST /up HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nbody",
    b"POST /up HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n",
    b"GET /app?bokeh-token=" + quote(TOKEN).encode() + b" HTTP/1.0\r\nBokeh-Session-Id: drei\r\nHost: h\r\n\r\n",
    b"GET http://h:1/c/d?e=f#g HTTP/1.1\nHost: h\n\n",
]

WORDS = [
    b"bokeh-session-id=", b"bokeh-token=", b"&", b"?", b"#", b"%26", b"+", b"Bokeh-Session-Id: x\r\n", b"\r\n\r\n",
    b"Content-Length: 3\r\n", b"Content-Length: +3\r\n", b"Transfer-Encoding: chunked\r\n", b"\r\n fold",
    b" HTTP/1.1", b"Sec-WebSocket-Protocol: bokeh, ", b"HTTP/2.0", b"\x0b", b"\x0c", b"\x85", b"\xa0", b"_",
]  # fmt: skip


_END = re.compile(rb"\r?\n\r?\n")


def check(message: bytes) -> bool:
    """Ours accepts: then Tornado refuses it, or reads the same, and so does h11."""
    try:
        head = HeadParser(LIMIT).feed(message)
    except Rejected:
        return False
    if head is None:
        return False
    tornados = read_by_tornado(message)
    if tornados is not None:
        _compare_with_tornado(head, *tornados)
    _compare_with_h11(head, message)
    return True


def read_by_tornado(message: bytes) -> tuple[RequestStartLine, HTTPHeaders] | None:
    """What the worker's parser makes of the bytes up to the empty line that ours found too."""
    end = _end_for_tornado(message)
    try:
        start_line, headers = HTTP1Connection._parse_headers(cast("Any", None), message[:end])
        return parse_request_start_line(start_line), headers
    except HTTPInputError:
        return None


def _end_for_tornado(message: bytes) -> int:
    """Leading newlines are stripped by the worker before the rest is searched for its end."""
    found = _END.search(message)
    assert found is not None, "ours found an end where there is none"
    return found.end()


def _compare_with_tornado(head: Head, start: RequestStartLine, headers: HTTPHeaders) -> None:
    assert (head.method, head.target, head.version) == (start.method, start.path, start.version)
    assert sorted((name.lower(), value) for name, value in head.headers.fields) == sorted(
        (name.lower(), value) for name, value in headers.get_all()
    )
    _, _, query = start.path.partition("?")
    ours, theirs = session_named(head.query, head.headers), session_named(query, headers)
    assert ours == theirs, f"routed as {ours!r}, answered as {theirs!r}"


def _compare_with_h11(head: Head, message: bytes) -> None:
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=LIMIT * 4)
    connection.receive_data(message.lstrip(b"\r\n"))
    try:
        event = connection.next_event()
    except h11.RemoteProtocolError:
        return  # it is the stricter one
    if not isinstance(event, h11.Request):
        return
    assert (head.method, head.target) == (event.method.decode(), event.target.decode("latin-1"))
    # As sets: of lengths that are equal, h11 keeps one.
    assert {_as_h11_has_it(*field) for field in head.headers.fields} == {
        (name.decode(), value.decode("latin-1")) for name, value in event.headers
    }


def _as_h11_has_it(name: str, value: str) -> tuple[str, str]:
    """Names in small letters, and this one value, which is compared without regard to case."""
    name = name.lower()
    return name, value.lower() if name == "transfer-encoding" else value


HEADS = Target("heads", SEEDS, check, WORDS)
